#include "engine/engine_cache.h"

#include <algorithm>

#include "backend/hashing.h"
#include "core/error.h"
#include "core/json.h"
#include "core/os.h"

namespace quantbench {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;
constexpr JsonLimits kLimits{.depth = 8, .bytes = 1 << 20};

// Of all that decides what a step reads and computes; of no weight, no address and no room for positions.
class Shapes {
 public:
  void operator()(const Embed& o) { add(o.x.rows, o.x.cols, o.table->n); }
  void operator()(const Qkv& o) {
    add(o.x.rows, o.kv.heads, o.kv.head_dim, o.rope ? o.rope->dims : 0);
    add(o.norm), add(o.wq), add(o.wk), add(o.wv);
  }
  void operator()(const Attend& o) { add(o.q.rows, o.q.cols, o.kv.heads, o.kv.head_dim); }
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

struct Kept {
  EngineKey key;
  EngineChoice choice;
};

// Newest last. Empty where the file cannot be read, or is no such file.
std::vector<Kept> read(const std::string& path) {
  try {
    const json file = read_json_file(path, kLimits);
    if (file.at("version") != kVersion) return {};
    std::vector<Kept> all;
    for (const json& entry : file.at("choices")) {
      Kept kept{{entry.at("gpu"), entry.at("driver"), entry.at("program"), entry.at("model")},
                {.engine = entry.at("engine"), .by = ChosenBy::cache}};
      for (const auto& [engine, ns] : entry.at("step_ns").items()) kept.choice.times.push_back({engine, ns});
      all.push_back(std::move(kept));
    }
    return all;
  } catch (const Error&) {
    return {};
  } catch (const json::exception&) {
    return {};
  }
}

std::string text_of(const std::vector<Kept>& all) {
  json choices = json::array();
  for (const Kept& kept : all) {
    json times = json::object();
    for (const EngineTime& time : kept.choice.times) times[time.engine] = time.step_ns;
    choices.push_back({{"gpu", kept.key.gpu},
                       {"driver", kept.key.driver},
                       {"program", kept.key.program},
                       {"model", kept.key.model},
                       {"engine", kept.choice.engine},
                       {"step_ns", times}});
  }
  return json{{"version", kVersion}, {"choices", choices}}.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace

EngineKey engine_key(const DeviceInfo& device, const Tape& step) {
  EngineKey key;
  if (!device.gpu) return key;
  key.gpu = device.gpu->uuid;
  key.driver = device.gpu->driver.empty() ? device.gpu->driver_cuda : device.gpu->driver;
  key.program = os::build_id();
  Shapes shapes;
  for (const Op& op : step) {
    shapes.begin(op.index());
    std::visit(shapes, op);
  }
  key.model = fmt::format("{:016x}", shapes.hash());
  return key;
}

std::optional<std::string> EngineCache::default_path() {
  const auto folder = os::cache_folder();
  if (!folder) return std::nullopt;
  return *folder + "/quantbench/engines.json";
}

std::optional<EngineChoice> EngineCache::find(const EngineKey& key) const {
  if (!path_ || !key.is_known()) return std::nullopt;
  for (const Kept& kept : read(*path_)) {
    if (kept.key == key) return kept.choice;
  }
  return std::nullopt;
}

void EngineCache::keep(const EngineKey& key, const EngineChoice& choice) const {
  if (!path_ || !key.is_known()) return;
  std::vector<Kept> all = read(*path_);
  std::erase_if(all, [&](const Kept& kept) { return kept.key == key; });
  if (all.size() >= kMostChoices) {
    all.erase(all.begin(), all.end() - static_cast<std::ptrdiff_t>(kMostChoices - 1));
  }
  all.push_back({key, choice});
  try {
    os::make_directories(path_->substr(0, path_->rfind('/')));
    os::write_file_atomically(*path_, text_of(all));
  } catch (const Error&) {
    // The test is made again.
  }
}

}  // namespace quantbench
