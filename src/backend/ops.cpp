#include "backend/ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "backend/backend.h"
#include "backend/hashing.h"
#include "backend/sampling.h"

namespace quantbench {

void run(const Op& op, Ops& ops) {
  struct Caller {
    Ops& ops;
    void operator()(const Embed& o) const { ops.embed(o); }
    void operator()(const Qkv& o) const { ops.qkv(o); }
    void operator()(const StoreKv& o) const { ops.store_kv(o); }
    void operator()(const Attend& o) const { ops.attend(o); }
    void operator()(const AddLinear& o) const { ops.add_linear(o); }
    void operator()(const GatedUp& o) const { ops.gated_up(o); }
    void operator()(const Project& o) const { ops.project(o); }
    void operator()(const NextToken& o) const { ops.next_token(o); }
  };
  std::visit(Caller{ops}, op);
}

bool is_done(const NextToken& op, int row) { return op.done && op.done[op.rows.sequence[row]] != 0; }

void take_token(const NextToken& op, int row, int32_t token) {
  const int32_t sequence = op.rows.sequence[row], position = ++op.rows.position[row];
  op.rows.token[row] = token;
  if (op.history && position < op.history_positions) {
    op.history[static_cast<size_t>(sequence) * op.history_positions + position] = token;
  }
  if (op.done && is_among(op.stops + 1, op.stops[0], token)) op.done[sequence] = 1;
}

std::string described(const DeviceInfo& d) {
  if (d.gpu) return fmt::format("{}, {}, {}", d.name, d.id, d.features);
  return fmt::format("{}, {}, {} thread{}", d.name, d.features, d.threads, d.threads == 1 ? "" : "s");
}

std::string described(const MatrixLibrary& library) {
  if (library.version.empty()) return "not used: this program's own kernels, which are slower, multiply long prompts";
  return fmt::format("{}, {}", library.version, library.path);
}

std::string_view name_of(Use use) {
  switch (use) {
    case Use::weights: return "weights";
    case Use::scales: return "scales";
    case Use::unquantized: return "unquantized";
    case Use::kv_cache: return "kv_cache";
    case Use::activations: return "activations";
    case Use::workspace: return "workspace";
    case Use::tables: return "tables";
  }
  return "?";
}

namespace {

class DownloadingLookout final : public Lookout {
 public:
  DownloadingLookout(Backend& backend, size_t bytes, int most)
      : backend_(backend), bytes_(bytes), most_(most), seen_(bytes * static_cast<size_t>(most)) {}
  void look(const void* device_from, size_t bytes) override {
    assert(bytes <= bytes_ && pending() < most_);
    backend_.download(at(asked_++), device_from, bytes);
  }
  int pending() const override { return asked_ - given_; }
  bool has_next() override { return pending() > 0; }
  const void* next() override {
    assert(pending() > 0);
    return at(given_++);
  }

 private:
  std::byte* at(int look) { return seen_.data() + static_cast<size_t>(look % most_) * bytes_; }

  Backend& backend_;
  size_t bytes_;
  int most_, asked_ = 0, given_ = 0;
  std::vector<std::byte> seen_;
};

class Calls final : public Program {
 public:
  Calls(const Tape& tape, Ops& ops) : tape_(tape), ops_(ops) {}
  void run() override {
    for (const Op& op : tape_) quantbench::run(op, ops_);
  }

 private:
  Tape tape_;
  Ops& ops_;
};

}  // namespace

std::unique_ptr<Lookout> Backend::lookout(size_t bytes, int most) {
  return std::make_unique<DownloadingLookout>(*this, bytes, most);
}

// For backends whose memory is the host's and whose ops are done when they return.
void Backend::hash(uint64_t* hash, const uint32_t* words, int count) {
  uint64_t sum = 0;
  for (int i = 0; i < count; ++i) sum += hash_term(words[i], static_cast<uint32_t>(i));
  *hash = fold_hash(*hash, sum);
}

std::unique_ptr<ReadProbe> Backend::read_probe(size_t) { return nullptr; }

std::unique_ptr<Program> Backend::record_beside(const Plan&, std::string_view) { return nullptr; }

std::unique_ptr<Program> Backend::record_part(const Tape& part) { return std::make_unique<Calls>(part, ops()); }

bool Plan::has(std::string_view engine) const {
  return std::any_of(engines.begin(), engines.end(), [&](const StepEngine& e) { return e.name == engine; });
}

void Plan::keep(std::string_view engine) {
  assert(has(engine));
  const auto most = [this] {
    size_t bytes = 0;
    for (const StepEngine& e : engines) bytes = std::max(bytes, e.workspace_bytes);
    return bytes;
  };
  predicted[Use::workspace] -= most();
  std::erase_if(engines, [&](const StepEngine& e) { return e.name != engine; });
  predicted[Use::workspace] += most();
}

size_t MemoryUse::total() const {
  size_t sum = 0;
  for (size_t part : bytes) sum += part;
  return sum;
}

}  // namespace quantbench
