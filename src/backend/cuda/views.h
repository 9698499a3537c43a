// What kernels see of the ops' operands.
#pragma once

#include "backend/cuda/kernels.h"
#include "backend/ops.h"

namespace quantbench::QB_CUDA {

inline Weight view(const Matrix& matrix) {
  struct Viewer {
    Weight operator()(const F16Matrix& m) const { return {WeightFormat::f16, m.n, m.k, m.w}; }
    Weight operator()(const Bf16Matrix& m) const { return {WeightFormat::bf16, m.n, m.k, m.w}; }
    Weight operator()(const F32Matrix& m) const { return {WeightFormat::f32, m.n, m.k, m.w}; }
    Weight operator()(const Int8Matrix& m) const {
      return {.format = WeightFormat::int8, .n = m.n, .k = m.k, .w = m.w, .absmax = m.absmax};
    }
    Weight operator()(const Nf4Matrix& m) const {
      return {WeightFormat::nf4, m.n, m.k, m.w, m.absmax8, m.nested_absmax, m.absmax, m.offset};
    }
  };
  return std::visit(Viewer{}, matrix);
}

inline Activation view(Act act) {
  switch (act) {
    case Act::none: return Activation::none;
    case Act::silu: return Activation::silu;
    case Act::gelu_tanh: return Activation::gelu_tanh;
    case Act::relu: return Activation::relu;
  }
  return Activation::none;
}

inline RowNorm view(const Norm* norm) {
  return norm ? RowNorm{norm->weight, norm->bias, norm->eps, norm->centered} : RowNorm{};
}

inline Rotation view(const Rope* rope) { return rope ? Rotation{rope->cos, rope->sin, rope->dims} : Rotation{}; }

inline ScoreBias view(const DistanceBias* bias) {
  return bias ? ScoreBias{bias->values, bias->bucket, bias->reach} : ScoreBias{};
}

inline Cache view(const KvLayer& kv) {
  return {reinterpret_cast<uint16_t*>(kv.k), reinterpret_cast<uint16_t*>(kv.v), kv.positions, kv.heads, kv.head_dim};
}

}  // namespace quantbench::QB_CUDA
