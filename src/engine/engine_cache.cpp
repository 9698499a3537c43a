#include "engine/engine_cache.h"

#include "backend/hashing.h"
#include "core/os.h"

namespace quantbench {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;

// Of all that decides what a step reads and computes; of no weight, no address and no room for positions.
class Shapes {
 public:
  void operator()(const Embed& o) { add(o.x.rows, o.x.cols, rows_of(*o.table)); }
  void operator()(const Qkv& o) {
    add(o.x.rows, o.kv.heads, o.kv.head_dim, o.rope ? o.rope->dims : 0);
    add(o.norm), add(o.wq), add(o.wk), add(o.wv);
  }
  void operator()(const StoreKv& o) {
    add(o.x.rows, o.kv.heads, o.kv.head_dim);
    add(o.norm), add(o.wk), add(o.wv);
  }
  void operator()(const Attend& o) { add(o.q.rows, o.q.cols, o.kv.heads, o.kv.head_dim, o.bias ? o.bias->reach : -1); }
  void operator()(const AddLinear& o) { add(o.x.rows), add(o.w); }
  void operator()(const GatedUp& o) { add(o.x.rows, o.act), add(o.norm), add(o.gate), add(o.up); }
  void operator()(const Project& o) { add(o.x.rows, o.act), add(o.norm), add(o.w); }
  void operator()(const NextToken& o) { add(o.logits.rows, o.logits.cols); }
  void begin(size_t op) { add(op); }
  uint64_t hash() const { return hash_; }

 private:
  template <typename... Numbers>
  void add(Numbers... numbers) requires((std::is_integral_v<Numbers> || std::is_enum_v<Numbers>)&&...) {
    ((hash_ = fold_hash(hash_, static_cast<uint64_t>(numbers))), ...);
  }
  void add(const Norm* norm) { add(norm != nullptr, norm && norm->centered); }
  void add(const Linear* w) {
    const auto* const nf4 = std::get_if<Nf4Matrix>(&w->weight);
    add(format_of(w->weight), rows_of(w->weight), cols_of(w->weight), nf4 && nf4->double_quantized, w->biased);
  }

  uint64_t hash_ = 0;
};

json key_of(const EngineKey& key) {
  return {{"gpu", key.gpu}, {"driver", key.driver}, {"program", key.program}, {"model", key.model}};
}

}  // namespace

EngineKey engine_key(const DeviceInfo& device, const Tape& step) {
  EngineKey key;
  if (!device.gpu) return key;
  key.gpu = device.gpu->uuid;
  key.driver = device.gpu->driver_or_cuda();
  key.program = os::build_id();
  Shapes shapes;
  for (const Op& op : step) {
    shapes.begin(op.index());
    std::visit(shapes, op);
  }
  key.model = fmt::format("{:016x}", shapes.hash());
  return key;
}

EngineCache::EngineCache(std::optional<std::string> path) : file_(std::move(path), kVersion, kMostChoices) {}

std::optional<EngineChoice> EngineCache::find(const EngineKey& key) const {
  for (const json& entry : file_.find(key_of(key))) {
    try {
      EngineChoice choice{.engine = entry.at("engine"), .by = ChosenBy::cache};
      for (const auto& [engine, ns] : entry.at("step_ns").items()) choice.times.push_back({engine, ns});
      return choice;
    } catch (const json::exception&) {
      // Not ours.
    }
  }
  return std::nullopt;
}

void EngineCache::keep(const EngineKey& key, const EngineChoice& choice) const {
  json times = json::object();
  for (const EngineTime& time : choice.times) times[time.engine] = time.step_ns;
  const CacheFile::Entry entry{key_of(key), {{"engine", choice.engine}, {"step_ns", times}}};
  file_.keep({&entry, 1});
}

}  // namespace quantbench
