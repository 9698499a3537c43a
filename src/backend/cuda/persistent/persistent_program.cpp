#include "backend/cuda/persistent/persistent_program.h"

#include <algorithm>
#include <cassert>
#include <vector>

#include "backend/cuda/persistent/persistent_plan.h"
#include "backend/cuda/persistent/tensor_map.h"
#include "core/error.h"

namespace quantbench::QB_CUDA {
namespace {

struct Cut {
  size_t steps, maps, exchange, bytes;
};
Cut cut(const PersistentPlan& plan) {
  Cut at{};
  const auto take = [&at](size_t bytes) {
    constexpr size_t kAlign = 256;
    const size_t here = at.bytes;
    at.bytes += (bytes + kAlign - 1) / kAlign * kAlign;
    return here;
  };
  at.steps = take(plan.steps.size() * sizeof(Step));
  at.maps = take(plan.maps.size() * sizeof(TensorMap));
  at.exchange = take(plan.exchange_words * sizeof(Tagged));
  return at;
}

void make_stall(std::vector<Step>& steps) {
  const auto is_attention = [](const Step& s) { return s.kind == StepKind::attend; };
  const auto first = std::find_if(steps.begin(), steps.end(), is_attention);
  const auto last = std::find_if(steps.rbegin(), steps.rend(), is_attention);
  assert(first != steps.end() && first->out != last->out);
  for (Step& s : steps) {
    if (s.in.words == first->out) s.in.words = last->out;
  }
}

class PersistentProgram final : public Program {
 public:
  PersistentProgram(Runtime& runtime, const Tape& tape, const Tables& tables, std::byte* memory, uint32_t* stuck,
                    bool stalls)
      : runtime_(runtime) {
    const int processors = runtime.multiprocessors();
    const Cut at = cut(make_persistent_plan(tape, processors, runtime.shared_bytes(), nullptr));
    PersistentPlan plan = make_persistent_plan(tape, processors, runtime.shared_bytes(),
                                               reinterpret_cast<Tagged*>(memory + at.exchange), runtime.memory_rate());
    if (stalls) make_stall(plan.steps);
    std::vector<TensorMap> maps;
    for (const MapShape& shape : plan.maps) maps.push_back(make_tensor_map(shape));
    runtime.zero(memory, at.bytes);  // no launch is number 0
    runtime.to_device(memory + at.steps, plan.steps.data(), plan.steps.size() * sizeof(Step));
    runtime.to_device(memory + at.maps, maps.data(), maps.size() * sizeof(TensorMap));
    tuning_ = tuning_of(plan);
    args_ = plan.args;
    args_.steps = reinterpret_cast<const Step*>(memory + at.steps);
    args_.maps = reinterpret_cast<const TensorMap*>(memory + at.maps);
    args_.code_pairs = tables.code_pairs;
    args_.nested_code = tables.nested_code;
    kind_ = plan.kind;
    shared_bytes_ = plan.shared_bytes;
    if (const int missing = missing_registers(kind_)) {
      fail(ErrorKind::internal,
           "the persistent kernel for heads of {} was compiled with {} registers too few a thread; use --engine graph, "
           "or build with another nvcc",
           kind_.head_dim, missing);
    }
    args_.stuck = stuck;
  }
  void run() override {
    ++args_.epoch;
    launch_persistent(args_, kind_, shared_bytes_, runtime_.multiprocessors(), runtime_.stream());
  }
  std::string tuning() const override { return tuning_; }
  std::optional<int> launches() const override { return 1; }

 private:
  Runtime& runtime_;
  std::string tuning_;
  PersistentArgs args_;
  KernelKind kind_;
  size_t shared_bytes_ = 0;
};

}  // namespace

size_t persistent_program_bytes(const Tape& tape, int multiprocessors, size_t shared_bytes) {
  return cut(make_persistent_plan(tape, multiprocessors, shared_bytes, nullptr)).bytes;
}

std::unique_ptr<Program> make_persistent_program(Runtime& runtime, const Tape& tape, const Tables& tables,
                                                 std::byte* memory, uint32_t* stuck, bool stalls) {
  return std::make_unique<PersistentProgram>(runtime, tape, tables, memory, stuck, stalls);
}

}  // namespace quantbench::QB_CUDA
