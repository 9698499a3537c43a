#include "backend/outlier_ops.h"

#include <algorithm>
#include <cmath>

#include "core/half.h"

namespace quantbench {
namespace {

std::vector<float> fetch(Backend& backend, const void* from, size_t values) {
  std::vector<float> to(values);
  backend.download(to.data(), from, values * sizeof(float));
  return to;
}

// rows [rows, d] of x, in place.
void normalize(Backend& backend, const Norm& norm, std::vector<float>* x, size_t d) {
  const std::vector<float> weight = fetch(backend, norm.weight, d);
  const std::vector<float> bias = norm.bias ? fetch(backend, norm.bias, d) : std::vector<float>(d);
  for (size_t first = 0; first < x->size(); first += d) {
    float* const row = x->data() + first;
    double mean = 0, square = 0;
    if (norm.centered) {
      for (size_t i = 0; i < d; ++i) mean += row[i];
      mean /= static_cast<double>(d);
    }
    for (size_t i = 0; i < d; ++i) square += (row[i] - mean) * (row[i] - mean);
    const double factor = 1 / std::sqrt(square / static_cast<double>(d) + static_cast<double>(norm.eps));
    for (size_t i = 0; i < d; ++i) row[i] = static_cast<float>((row[i] - mean) * factor * weight[i] + bias[i]);
  }
}

}  // namespace

void OutlierOps::count(StepPart part, Tensor x, const Norm* norm, std::initializer_list<const Linear*> linears) {
  const bool is_int8 = std::any_of(linears.begin(), linears.end(),
                                   [](const Linear* w) { return std::holds_alternative<Int8Matrix>(w->weight); });
  if (!is_int8) return;
  const size_t d = static_cast<size_t>(x.cols);
  backend_.synchronize();
  std::vector<float> values = fetch(backend_, x.data, static_cast<size_t>(x.rows) * d);
  if (norm) normalize(backend_, *norm, &values, d);
  std::vector<bool> is_outlier(d);
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::fabs(to_float(to_f16(values[i]))) >= kInt8Threshold) is_outlier[i % d] = true;
  }
  counts_[part].columns += x.cols;
  counts_[part].outliers += std::count(is_outlier.begin(), is_outlier.end(), true);
}

void OutlierOps::qkv(const Qkv& op) {
  count(StepPart::qkv, op.x, op.norm, {op.wq, op.wk, op.wv});
  backend_.ops().qkv(op);
}
void OutlierOps::store_kv(const StoreKv& op) {
  count(StepPart::qkv, op.x, op.norm, {op.wk, op.wv});
  backend_.ops().store_kv(op);
}
void OutlierOps::add_linear(const AddLinear& op) {
  count(StepPart::output_linear, op.a, nullptr, {op.w});
  backend_.ops().add_linear(op);
}
void OutlierOps::gated_up(const GatedUp& op) {
  count(StepPart::mlp, op.x, op.norm, {op.gate, op.up});
  backend_.ops().gated_up(op);
}
// The output head is fp16 in every precision, so a projection with an int8 weight is the MLP's.
void OutlierOps::project(const Project& op) {
  count(StepPart::mlp, op.x, op.norm, {op.w});
  backend_.ops().project(op);
}

}  // namespace quantbench
