// The kernel set of one instruction set (QB_ISA).
#include "backend/cpu/kernel_list.h"
#include "backend/cpu/kernels.h"

namespace quantbench::cpu::QB_ISA {

const Kernels& kernels() {
  static constexpr Kernels kKernels = {
#if defined(__AVX512F__)
    .lanes = 16,
    .nf4_in_int16 = true,
    .int8_per_dword = 4,
#else
    .lanes = 8,
    .nf4_in_int16 = false,
    .int8_per_dword = 2,
#endif
    .read_plain = read_plain,
    .read_prefetch = read_prefetch,
    .read_streams = read_streams,
    .normalize = normalize,
    .round_half = round_half,
    .widen = widen,
    .widen_bf16 = widen_bf16,
    .mark_outliers = mark_outliers,
    .quantize_row = quantize_row,
    .quantize_nf4_row = quantize_nf4_row,
    .rotate = rotate,
    .store_key = store_key,
    .narrow = narrow,
    .finish_store = finish_store,
    .finish_add = finish_add,
    .finish_gate = finish_gate,
    .arg_max = arg_max,
    .few_rows_f16 = few_rows_f16,
    .few_rows_f32 = few_rows_f32,
    .few_rows_bf16 = few_rows_bf16,
    .few_rows_int8 = few_rows_int8,
    .few_rows_nf4 = few_rows_nf4,
    .pack_panel = pack_panel,
    .pack_codes = pack_codes,
    .gemm_f16 = gemm_f16,
    .gemm_f32 = gemm_f32,
    .gemm_bf16 = gemm_bf16,
    .gemm_nf4 = gemm_nf4,
    .gemm_int8 = gemm_int8,
    .attend = attend,
  };
  return kKernels;
}

}  // namespace quantbench::cpu::QB_ISA
