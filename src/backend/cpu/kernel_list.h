// The functions of a kernel set, as the files of one instruction set define them; what each does stands in kernels.h.
#pragma once

#include "backend/cpu/kernels.h"

namespace quantbench::cpu::QB_ISA {

uint64_t read_plain(const void* data, size_t bytes);
uint64_t read_prefetch(const void* data, size_t bytes);
uint64_t read_streams(const void* data, size_t bytes);
void normalize(float* out, const float* x, int d, const float* weight, const float* bias, float eps, bool centered);
void round_half(float* out, const float* x, size_t count);
void widen(float* out, const uint16_t* x, size_t count, float scale);
void widen_bf16(float* out, const Bf16* x, size_t count, float scale);
bool mark_outliers(uint8_t* mask, const float* x, int k, float threshold);
int32_t quantize_row(int8_t* codes, float* absmax, const float* x, int k, float threshold, const int32_t* columns,
                     int outliers);
void quantize_nf4_row(int16_t* codes, float* scales, const float* x, int k);
void rotate(float* head, const float* cos, const float* sin, int dims);
void store_key(uint16_t* keys, const float* head, int position, int positions, int head_dim);
void narrow(uint16_t* out, const float* x, size_t count);
void finish_store(float* y, const float* tile, const float* bias, int count, Activation act);
void finish_add(float* y, const float* tile, const float* bias, int count);
void finish_gate(float* h, const float* gate, const float* gate_bias, const float* up, const float* up_bias, int count,
                 Activation act);
int arg_max(const float* x, int count, float* value);
void few_rows_f16(float* y, size_t ldy, const float* x, size_t ldx, int rows, const uint16_t* w, int k, int first,
                  int last, bool fetches);
void few_rows_f32(float* y, size_t ldy, const float* x, size_t ldx, int rows, const float* w, int k, int first,
                  int last, bool fetches);
void few_rows_bf16(float* y, size_t ldy, const float* x, size_t ldx, int rows, const Bf16* w, int k, int first,
                   int last, bool fetches);
void few_rows_int8(float* y, size_t ldy, const Int8Rows& x, const Int8Weight& w, const float* bias, int first,
                   int last);
void few_rows_nf4(float* y, size_t ldy, const Nf4Rows& x, const Nf4Weight& w, int first, int last, float* scratch);
void pack_panel(float* out, const float* x, size_t ldx, int rows, int k);
void pack_codes(void* out, const int8_t* codes, size_t stride, int rows, int k);
void gemm_f16(float* y, size_t ldy, const float* x, int rows, const uint16_t* w, int k, int first, int last,
              float* scratch);
void gemm_f32(float* y, size_t ldy, const float* x, int rows, const float* w, int k, int first, int last,
              float* scratch);
void gemm_bf16(float* y, size_t ldy, const float* x, int rows, const Bf16* w, int k, int first, int last,
               float* scratch);
void gemm_nf4(float* y, size_t ldy, const float* x, int rows, const Nf4Weight& w, int first, int last, float* scratch);
void gemm_int8(float* y, size_t ldy, const Int8Panels& x, const Int8Weight& w, const float* bias, int first, int last,
               float* scratch);
void attend(const AttendBlock& block, float* scratch);

}  // namespace quantbench::cpu::QB_ISA
