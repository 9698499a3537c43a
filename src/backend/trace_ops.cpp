#include "backend/trace_ops.h"

namespace quantbench {

void TraceOps::trace(std::string_view name, const Op& op, Tensor output) {
  run(op, backend_.ops());
  backend_.synchronize();
  TracedOp traced{index_++, name, output.rows, output.cols, {}};
  traced.output.resize(static_cast<size_t>(output.rows) * static_cast<size_t>(output.cols));
  if (output.data == nullptr) {
    traced.output.clear();
  } else if (output.dtype == DType::i32) {
    std::vector<int32_t> ids(traced.output.size());
    backend_.download(ids.data(), output.data, output.bytes());
    std::copy(ids.begin(), ids.end(), traced.output.begin());
  } else {
    backend_.download(traced.output.data(), output.data, output.bytes());
  }
  sink_(traced);
}

}  // namespace quantbench
