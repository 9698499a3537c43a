#include "backend/host_memory.h"

#include <algorithm>
#include <cstdlib>
#include <set>
#include <string_view>

namespace quantbench {
namespace {

// Weights share blocks of this size, so that they lie in huge pages from end to end. Untouched memory costs nothing.
constexpr size_t kBlockBytes = size_t{64} << 20;

class HostBuffer final : public Buffer {
 public:
  HostBuffer(Use use, size_t bytes, MemoryUse* ledger)
      : block_(piece_bytes(bytes)), bytes_(bytes), booked_(&(*ledger)[use]) {
    *booked_ += block_.bytes();
  }
  ~HostBuffer() override { *booked_ -= block_.bytes(); }
  void* data() const override { return block_.data(); }
  size_t bytes() const override { return bytes_; }

 private:
  os::Block block_;
  size_t bytes_;
  size_t* booked_;
};

class Replay final : public Program {
 public:
  Replay(Tape tape, Ops& ops, std::string tuning) : tape_(std::move(tape)), ops_(ops), tuning_(std::move(tuning)) {}
  void run() override {
    for (const Op& op : tape_) quantbench::run(op, ops_);
  }
  std::string tuning() const override { return tuning_; }

 private:
  Tape tape_;
  Ops& ops_;
  std::string tuning_;
};

// Visits each weight and vector of a step once, whatever the number of ops that read it.
class WeightSum {
 public:
  WeightSum(Nf4Rows nf4_rows, MemoryUse* use) : nf4_rows_(nf4_rows), use_(use) {}

  void table(const Matrix* m) {
    if (is_new(*m)) add_weight(*m, Role::embedding, nf4_rows_, use_);
  }
  void linear(const Linear* l, Role role) {
    if (!l) return;
    if (is_new(l->weight)) add_weight(l->weight, role, nf4_rows_, use_);
    vector(&l->bias, rows_of(l->weight), l->biased);
  }
  void bias(const Attend& o) {
    if (o.bias) vector(&o.bias->values, o.bias->buckets * (o.q.cols / o.kv.head_dim), true);
  }
  void norm(const Norm* n, int d) {
    if (!n) return;
    vector(&n->weight, d, true);
    vector(&n->bias, d, n->centered);
  }

 private:
  bool is_new(const Matrix& matrix) {
    return std::visit([this](const auto& m) { return first(&m); }, matrix);
  }
  bool first(const void* address) { return seen_.insert(address).second; }
  void vector(const void* address, int count, bool present) {
    if (present && first(address)) (*use_)[Use::unquantized] += piece_bytes(static_cast<size_t>(count) * sizeof(float));
  }

  Nf4Rows nf4_rows_;
  MemoryUse* use_;
  std::set<const void*> seen_;
};

// A number of /proc/meminfo in bytes, or 0.
size_t meminfo(std::string_view text, std::string_view key) {
  const size_t at = text.find(key);
  if (at == std::string_view::npos) return 0;
  return static_cast<size_t>(std::strtoull(text.data() + at + key.size(), nullptr, 10)) * 1024;
}

// What the cgroup still grants, where there is one with a limit.
size_t cgroup_available(size_t machine) {
  const auto limit = os::read_small_file("/sys/fs/cgroup/memory.max");
  const auto current = os::read_small_file("/sys/fs/cgroup/memory.current");
  if (!limit || !current || *limit == "max") return machine;
  const size_t most = std::strtoull(limit->c_str(), nullptr, 10), taken = std::strtoull(current->c_str(), nullptr, 10);
  // Page cache counts as taken but is given up under pressure.
  size_t reclaimable = 0;
  if (const auto stat = os::read_small_file("/sys/fs/cgroup/memory.stat")) {
    const size_t at = stat->find("inactive_file ");
    if (at != std::string::npos) reclaimable = std::strtoull(stat->c_str() + at + 14, nullptr, 10);
  }
  const size_t held = taken - std::min(taken, reclaimable);
  return std::min(machine, most - std::min(most, held));
}

}  // namespace

std::unique_ptr<Buffer> HostMemory::allocate(Use use, size_t bytes) {
  return std::make_unique<HostBuffer>(use, bytes, &use_);
}

void* HostMemory::keep(Use use, size_t bytes) {
  const size_t piece = piece_bytes(bytes);
  if (blocks_.empty() || blocks_.back().bytes() - used_of_last_ < piece) {
    blocks_.emplace_back(std::max(piece, kBlockBytes));
    used_of_last_ = 0;
    last_is_expected_ = false;
  }
  void* const data = blocks_.back().data() + used_of_last_;
  used_of_last_ += piece;
  use_[use] += piece;
  return data;
}

void HostMemory::expect(size_t bytes) {
  if (bytes == 0 || (last_is_expected_ && used_of_last_ < blocks_.back().bytes())) return;
  blocks_.emplace_back(bytes);
  used_of_last_ = 0;
  last_is_expected_ = true;
}

size_t packed_bytes(const MemoryUse& predicted) {
  return predicted[Use::weights] + predicted[Use::scales] + predicted[Use::unquantized];
}

Use codes_use(Role role) { return role == Role::linear ? Use::weights : Use::unquantized; }

void add_weight(const Matrix& weight, Role role, Nf4Rows nf4_rows, MemoryUse* use) {
  const auto* nf4 = std::get_if<Nf4Matrix>(&weight);
  const bool double_quantized = !nf4 || nf4->double_quantized;
  const int k = cols_of(weight), n = nf4 && nf4_rows ? nf4_rows(rows_of(weight), k) : rows_of(weight);
  (*use)[codes_use(role)] += piece_bytes(format_bytes(format_of(weight), n, k, double_quantized).codes);
  if (nf4) {
    const size_t blocks = ceil_div(static_cast<size_t>(n) * k, kNf4Block);
    (*use)[Use::scales] += double_quantized
                               ? piece_bytes(blocks) + piece_bytes(ceil_div(blocks, kNf4NestedBlock) * sizeof(float))
                               : piece_bytes(blocks * sizeof(float));
  } else if (std::holds_alternative<Int8Matrix>(weight)) {
    (*use)[Use::scales] += piece_bytes(static_cast<size_t>(n) * sizeof(float));
  }
}

MemoryUse weight_bytes(const Tape& step, const Tape& before, Nf4Rows nf4_rows) {
  MemoryUse use;
  WeightSum sum(nf4_rows, &use);
  struct Visitor {
    WeightSum& sum;
    Role project_role;
    void operator()(const Embed& o) const { sum.table(o.table); }
    void operator()(const Qkv& o) const {
      sum.norm(o.norm, o.x.cols);
      for (const Linear* w : {o.wq, o.wk, o.wv}) sum.linear(w, Role::linear);
    }
    void operator()(const StoreKv& o) const {
      sum.norm(o.norm, o.x.cols);
      for (const Linear* w : {o.wk, o.wv}) sum.linear(w, Role::linear);
    }
    void operator()(const Attend& o) const { sum.bias(o); }
    void operator()(const AddLinear& o) const { sum.linear(o.w, Role::linear); }
    void operator()(const GatedUp& o) const {
      sum.norm(o.norm, o.x.cols);
      for (const Linear* w : {o.gate, o.up}) sum.linear(w, Role::linear);
    }
    void operator()(const Project& o) const {
      sum.norm(o.norm, o.x.cols);
      sum.linear(o.w, project_role);
    }
    void operator()(const NextToken&) const {}
  };
  // The step first: in it a table that is tied to the head is known as the head's.
  for (const Tape* const tape : {&step, &before}) {
    for (size_t i = 0; i < tape->size(); ++i) {
      const bool feeds_token = i + 1 < tape->size() && std::holds_alternative<NextToken>((*tape)[i + 1]);
      std::visit(Visitor{sum, feeds_token ? Role::output_head : Role::linear}, (*tape)[i]);
    }
  }
  return use;
}

std::unique_ptr<Program> replay(const Plan& plan, Ops& ops, const std::string& tuning) {
  return std::make_unique<Replay>(plan.tape, ops, tuning);
}

DeviceInfo host_device(const std::string& backend, const std::string& features, int threads) {
  DeviceInfo info;
  info.backend = info.id = backend;
  info.features = features;
  info.threads = threads;
  info.name = "unknown CPU";
  if (const auto cpus = os::read_small_file("/proc/cpuinfo")) {
    const size_t at = cpus->find("model name");
    const size_t colon = at == std::string::npos ? at : cpus->find(": ", at);
    if (colon != std::string::npos) info.name = cpus->substr(colon + 2, cpus->find('\n', colon) - colon - 2);
  }
  if (const auto text = os::read_small_file("/proc/meminfo")) {
    info.memory_bytes = meminfo(*text, "MemTotal:");
    info.available_bytes = cgroup_available(meminfo(*text, "MemAvailable:"));
  }
  return info;
}

}  // namespace quantbench
