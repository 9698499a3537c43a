#include "report/cell_match.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "report/format.h"

namespace quantbench {
namespace {

using Json = Record;

// The value below these keys, as text; empty where there is none.
std::string text_at(const Json& record, std::initializer_list<const char*> keys) {
  const Json* at = &record;
  for (const char* key : keys) {
    if (!at->is_object() || !at->contains(key)) return "";
    at = &(*at)[key];
  }
  if (at->is_null()) return "";
  return at->is_string() ? at->get<std::string>() : at->dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::vector<double> numbers_at(const Json& part, const char* key) {
  if (!part.is_object() || !part.contains(key) || !part[key].is_array()) return {};
  std::vector<double> numbers;
  for (const Json& x : part[key]) {
    if (!x.is_number()) return {};
    numbers.push_back(x.get<double>());
  }
  return numbers;
}

// "Llama-3.2-1B" of "meta-llama/Llama-3.2-1B" and of "/models/Llama-3.2-1B/".
std::string last_part(const std::string& name) {
  const size_t last = name.find_last_not_of('/');
  if (last == std::string::npos) return name;
  const std::string whole = name.substr(0, last + 1);
  return whole.substr(whole.rfind('/') == std::string::npos ? 0 : whole.rfind('/') + 1);
}

struct Field {
  const char* name;
  std::string (*of)(const ComparedCell&);
};

// Other programs have names of their own for what is not quantised.
std::string format_of(const ComparedCell& c) {
  const RecordView& v = c.view;
  if (v.imported_from.empty()) return v.precision_long;
  return v.precision == "fp16" ? "FP16" : v.precision == "bf16" ? "BF16" : v.precision_long;
}

// What every record says.
constexpr Field kCellFields[] = {
    {"model", [](const ComparedCell& c) { return last_part(c.view.model); }},
    {"weights", [](const ComparedCell& c) { return std::string(c.view.random_weights ? "random" : "checkpoint"); }},
    {"outlier channels", [](const ComparedCell& c) { return std::to_string(c.view.outlier_channels); }},
    {"precision", [](const ComparedCell& c) { return c.view.precision; }},
    {"format", format_of},
    {"kind", [](const ComparedCell& c) { return c.view.kind; }},
    {"prompt tokens", [](const ComparedCell& c) { return std::to_string(c.view.prompt_tokens); }},
    {"new tokens", [](const ComparedCell& c) { return std::to_string(c.view.new_tokens); }},
    {"depth", [](const ComparedCell& c) { return std::to_string(c.view.depth); }},
    {"batch", [](const ComparedCell& c) { return std::to_string(c.view.batch); }},
    {"tokens looked at", [](const ComparedCell& c) { return std::string(c.view.host_tokens ? "yes" : "no"); }},
    {"stop at end of sequence", [](const ComparedCell& c) { return std::string(c.view.stop_at_eos ? "yes" : "no"); }},
};
// What some do not.
constexpr Field kModelFields[] = {
    {"parameters", [](const ComparedCell& c) { return c.parameters; }},
    {"config.json", [](const ComparedCell& c) { return c.config_sha256.substr(0, 12); }},
    {"weight files", [](const ComparedCell& c) { return c.weight_files; }},
    {"weight seed", [](const ComparedCell& c) { return c.weight_seed; }},
};

std::string key_of(const ComparedCell& c) {
  std::string key;
  for (const Field& field : kCellFields) key += field.of(c) + '\n';
  return key;
}

// What tells measurements of one cell apart, from all of it to nothing: the first that finds one partner is taken.
std::string narrower_key(const ComparedCell& c, int pass) {
  const RecordView& v = c.view;
  std::string half = v.half + "\n" + v.model + "\n";
  switch (pass) {
    case 0: return half + v.device + "\n" + v.engine + "\n" + v.tuning;
    case 1: return half + v.device + "\n" + v.engine;
    case 2: return half + v.device;
    case 3: return half + v.engine;
    case 4: return half;
    default: return "";
  }
}
constexpr int kPasses = 6;

using Group = std::pair<std::vector<size_t>, std::vector<size_t>>;  // places of one cell in both lists

void drop(std::vector<size_t>* from, size_t place) { from->erase(std::find(from->begin(), from->end(), place)); }

std::string count(size_t times) { return times == 1 ? "once" : fmt::format("{} times", times); }

std::string paths_of(std::span<const ComparedCell> cells, const std::vector<size_t>& places) {
  constexpr size_t kShown = 3;
  std::string text;
  for (size_t i = 0; i < places.size() && i < kShown; ++i) {
    text += (text.empty() ? "" : ", ") + one_line(cells[places[i]].path);
  }
  return places.size() > kShown ? text + fmt::format(" and {} more", places.size() - kShown) : text;
}

// Cells that are on one side only, beside the one on the other that is nearest: two fields, such as the number of
// tokens and what follows from it, may have been meant to be the same.
void pair_nearest(std::span<const ComparedCell> a, std::span<const ComparedCell> b, CellMatches* m) {
  constexpr size_t kNear = 2, kMostLooks = 1 << 20;
  if (m->only_a.size() * m->only_b.size() > kMostLooks) return;
  for (const bool of_any_precision : {false, true}) {
    std::vector<size_t> left;
    for (const size_t i : m->only_a) {
      std::optional<size_t> nearest;
      std::vector<FieldDifference> fewest(kNear + 1);
      for (const size_t j : m->only_b) {
        if (!of_any_precision && a[i].view.precision != b[j].view.precision) continue;
        std::vector<FieldDifference> differences = identity_differences(a[i], b[j]);
        if (differences.size() >= fewest.size()) continue;
        if (!differences.empty() && differences.front().field == "model") continue;  // another model was hardly meant
        fewest = std::move(differences);
        nearest = j;
      }
      if (!nearest) {
        left.push_back(i);
        continue;
      }
      m->refused.push_back({a[i].label(), "the other side has no such cell; nearest is one with " + to_text(fewest)});
      drop(&m->only_b, *nearest);
    }
    m->only_a = left;
  }
}

}  // namespace

std::string ComparedCell::label() const {
  return fmt::format("{} {} {}", one_line(view.shown_model()), one_line(view.shown_precision()), one_line(view.test));
}

ComparedCell compared_cell(const Record& record, const std::string& path) {
  ComparedCell c{.view = view_of(record), .path = path};
  c.config_sha256 = text_at(record, {"cell", "model", "config_sha256"});
  const std::string files = text_at(record, {"cell", "model", "files"});
  if (files != "[]") c.weight_files = files;
  c.weight_seed = text_at(record, {"cell", "model", "weight_seed"});
  c.parameters = text_at(record, {"cell", "model", "parameters"});
  c.picture = text_at(record, {"cell", "picture"});
  c.prompt_ids = text_at(record, {"prompt", "ids"});
  c.version = text_at(record, {"build", "version"});
  c.commit = text_at(record, {"build", "git_commit"});
  c.build_type = text_at(record, {"build", "build_type"});
  c.cpu = text_at(record, {"environment", "cpu"});
  c.kernel = text_at(record, {"environment", "kernel"});
  c.started_utc = text_at(record, {"started_utc"});
  if (!record.at("devices").empty()) {
    const Json& device = record.at("devices").at(0);
    c.driver = text_at(device, {"gpu", "driver"});
    if (device.contains("threads") && device["threads"].is_number_integer()) c.threads = device["threads"].get<int>();
  }
  if (!record.at("memory").empty()) c.memory_counted_by = text_at(record.at("memory").at(0), {"counted_by"});
  c.quality_text_sha256 = text_at(record, {"quality", "text", "sha256"});
  if (record.contains("quality") && record["quality"].is_object() && record["quality"].contains("samples")) {
    const Json& samples = record["quality"]["samples"];
    c.text_tokens = numbers_at(samples, "tokens");
    c.text_nll = numbers_at(samples, "nll");
    c.text_kl = numbers_at(samples, "kl");
  }
  return c;
}

std::vector<FieldDifference> identity_differences(const ComparedCell& a, const ComparedCell& b) {
  std::vector<FieldDifference> differences;
  for (const Field& field : kCellFields) {
    // A precision's full name says nothing new where the short one differs.
    if (field.name == std::string_view("format") && a.view.precision != b.view.precision) continue;
    if (field.of(a) != field.of(b)) differences.push_back({field.name, field.of(a), field.of(b)});
  }
  // Of two folders of one name only their files can say that they are one model.
  const bool same_config = !a.config_sha256.empty() && a.config_sha256 == b.config_sha256;
  if (differences.empty() && a.view.model != b.view.model && !same_config) {
    differences.push_back({"model", a.view.model, b.view.model});
  }
  if (last_part(a.view.model) != last_part(b.view.model)) return differences;
  for (const Field& field : kModelFields) {
    const std::string of_a = field.of(a), of_b = field.of(b);
    if (!of_a.empty() && !of_b.empty() && of_a != of_b) differences.push_back({field.name, of_a, of_b});
  }
  return differences;
}

std::string to_text(std::span<const FieldDifference> differences) {
  constexpr size_t kLongest = 60;
  const auto shortened = [](const std::string& text) {
    return one_line(text.size() <= kLongest ? text : text.substr(0, kLongest) + "…");
  };
  std::string text;
  for (const FieldDifference& d : differences) {
    if (!text.empty()) text += ", ";
    text += d.field == "weight files" ? d.field + " of other names, sizes or headers"
                                      : fmt::format("{} {} against {}", d.field, shortened(d.a), shortened(d.b));
  }
  return text;
}

CellMatches match_cells(std::span<const ComparedCell> a, std::span<const ComparedCell> b) {
  std::map<std::string, Group> groups;
  for (size_t i = 0; i < a.size(); ++i) groups[key_of(a[i])].first.push_back(i);
  for (size_t i = 0; i < b.size(); ++i) groups[key_of(b[i])].second.push_back(i);
  CellMatches m;
  for (auto& [key, group] : groups) {
    auto& [of_a, of_b] = group;
    for (int pass = 0; pass < kPasses && !of_a.empty() && !of_b.empty(); ++pass) {
      std::map<std::string, Group> narrower;
      for (const size_t i : of_a) narrower[narrower_key(a[i], pass)].first.push_back(i);
      for (const size_t i : of_b) narrower[narrower_key(b[i], pass)].second.push_back(i);
      for (const auto& [own_key, own] : narrower) {
        if (own.first.size() != 1 || own.second.size() != 1) continue;
        const size_t i = own.first.front(), j = own.second.front();
        drop(&of_a, i);
        drop(&of_b, j);
        const std::vector<FieldDifference> differences = identity_differences(a[i], b[j]);
        if (differences.empty())
          m.pairs.emplace_back(i, j);
        else
          m.refused.push_back({a[i].label(), "not the same model: " + to_text(differences)});
      }
    }
    if (!of_a.empty() && !of_b.empty()) {
      m.refused.push_back({a[of_a.front()].label(),
                           fmt::format("it is there {} on the one side ({}) and {} on the other ({}): give files or "
                                       "folders that hold it once",
                                       count(of_a.size()), paths_of(a, of_a), count(of_b.size()), paths_of(b, of_b))});
      continue;
    }
    m.only_a.insert(m.only_a.end(), of_a.begin(), of_a.end());
    m.only_b.insert(m.only_b.end(), of_b.begin(), of_b.end());
  }
  std::sort(m.pairs.begin(), m.pairs.end());
  std::sort(m.only_a.begin(), m.only_a.end());
  std::sort(m.only_b.begin(), m.only_b.end());
  pair_nearest(a, b, &m);
  return m;
}

}  // namespace quantbench
