#include "bench/record.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <tuple>

#include "bench/cell_data.h"
#include "bench/explain_record.h"
#include "bench/identity.h"
#include "bench/quality_record.h"
#include "bench/whole_number.h"
#include "core/os.h"

namespace quantbench {
namespace {

bool holds_objects(const Record& j) {
  if (j.is_object()) return true;
  return j.is_array() && std::any_of(j.begin(), j.end(), [](const Record& x) { return holds_objects(x); });
}

// One line for what holds no objects, else a line a member. One serializer writes all values: making it takes longer
// than most of them.
class Writer {
 public:
  explicit Writer(std::string* out)
      // Invalid UTF-8 (in a path, say) must not lose a record: it is replaced.
      : out_(*out), values_(nlohmann::detail::output_adapter<char>(*out), ' ', Record::error_handler_t::replace) {}

  void write(const Record& j, int indent) {
    if (!holds_objects(j)) return value(j);
    const bool object = j.is_object();
    if (j.empty()) {
      out_ += object ? "{}" : "[]";
      return;
    }
    out_ += object ? "{\n" : "[\n";
    size_t left = j.size();
    for (const auto& [key, member] : j.items()) {
      out_.append(static_cast<size_t>(indent) + 1, ' ');
      if (object) {
        value(key);
        out_ += ": ";
      }
      write(member, indent + 1);
      out_ += --left > 0 ? ",\n" : "\n";
    }
    out_.append(static_cast<size_t>(indent), ' ');
    out_ += object ? '}' : ']';
  }

 private:
  void value(const Record& j) { values_.dump(j, false, false, 0); }

  std::string& out_;
  nlohmann::detail::serializer<Record> values_;
};

template <typename T>
void add_bytes(T value, std::string* out) {
  std::array<char, sizeof value> bytes;
  std::memcpy(bytes.data(), &value, sizeof value);
  out->append(bytes.data(), bytes.size());
}
void add_text(const std::string& text, std::string* out) {
  add_bytes(uint64_t{text.size()}, out);
  *out += text;
}

void add_content(const Record& j, std::string* out) {
  using enum nlohmann::detail::value_t;
  switch (j.type()) {
    case object:
      *out += '{';
      for (const auto& [key, member] : j.get_ref<const Record::object_t&>()) {
        if (key == "spans" || key == "step_ns" || key == "content_sha256") continue;
        add_text(key, out);
        add_content(member, out);
      }
      *out += '}';
      return;
    case array:
      *out += '[';
      add_bytes(uint64_t{j.size()}, out);
      for (const Record& item : j) add_content(item, out);
      return;
    case string:
      *out += '"';
      add_text(j.get_ref<const std::string&>(), out);
      return;
    case boolean: *out += j.get<bool>() ? 't' : 'f'; return;
    case number_integer:
    case number_unsigned:
      *out += 'i';
      add_bytes(j.get<int64_t>(), out);
      return;
    case number_float:
      *out += 'd';
      add_bytes(j.get<double>(), out);
      return;
    default: *out += 'n';
  }
}

Unit unit_from(const std::string& name) {
  for (Unit unit : {Unit::nanoseconds, Unit::bytes, Unit::per_second, Unit::joules}) {
    if (name == name_of(unit)) return unit;
  }
  return Unit::fraction;
}

StampKind stamp_from(const std::string& name) {
  for (StampKind kind : {StampKind::valid, StampKind::flagged}) {
    if (name == name_of(kind)) return kind;
  }
  return StampKind::invalid;
}

std::string text_or(const Record& j, const char* key) {
  return j.contains(key) && j[key].is_string() ? j[key].get<std::string>() : std::string();
}

template <typename T>
T told_or(const Record& j, const char* key, T otherwise) {
  if (j.at(key).is_null()) return otherwise;
  if constexpr (std::is_same_v<T, bool>) {
    return j.at(key).get<T>();
  } else {
    return whole_number<T>(j.at(key));
  }
}

std::optional<int64_t> bytes_or_nothing(const Record& j, const char* key) {
  if (!j.contains(key) || j[key].is_null()) return std::nullopt;
  return whole_number<int64_t>(j[key]);
}

MemoryView memory_from(const Record& j) {
  return {j.at("counted_by"),
          whole_number<int64_t>(j.at("end_bytes")),
          whole_number<int64_t>(j.at("reconciliation").at("accounted_bytes")),
          j.at("counted_by") != name_of(MemoryCount::resident),
          bytes_or_nothing(j, "driver_process_bytes"),
          bytes_or_nothing(j, "driver_device_bytes"),
          bytes_or_nothing(j, "taken_bytes")};
}

std::optional<PictureView> picture_from(const Record& record) {
  if (!record.contains("load") || !record["load"].is_object()) return std::nullopt;
  const Record& load = record["load"];
  if (!load.contains("picture") || load["picture"].is_null()) return std::nullopt;
  const Record& p = load["picture"];
  return PictureView{whole_number<int>(p.at("width")), whole_number<int>(p.at("height")),
                     whole_number<int>(p.at("size")), p.at("decode_ns"), p.at("resize_ns")};
}

Summary summary_from(const std::string& name, const Record& j) {
  Summary s;
  s.name = name;
  s.unit = unit_from(j.at("unit"));
  s.better = j.at("better") == "higher" ? Better::higher : Better::lower;
  s.runs = whole_number<int>(j.at("runs"));
  s.median = j.at("median");
  if (s.runs == 0) return s;
  if (!j.at("low").is_null()) s.low = j.at("low").get<double>();
  if (!j.at("high").is_null()) s.high = j.at("high").get<double>();
  s.coverage = j.at("coverage");
  s.mad = j.at("mad");
  s.min = j.at("min");
  s.max = j.at("max");
  s.samples = j.at("samples").get<std::vector<double>>();
  return s;
}

}  // namespace

std::string to_text(const Record& record) {
  std::string text;
  Writer(&text).write(record, 0);
  return text + "\n";
}

std::string content_sha256(const Record& record) {
  std::string bytes;
  add_content(record, &bytes);
  return sha256_hex(bytes);
}

void seal(Record* record) {
  // Read again: invalid UTF-8 was replaced, and what is no number became null.
  (*record)["content_sha256"] = content_sha256(Record::parse(to_text(*record)));
}

std::string shown_name(const std::string& model, bool random_weights) {
  return model + (random_weights ? " (random)" : "");
}

std::string with_half(const std::string& precision, const std::string& half) {
  return half.empty() ? precision : precision + " " + half;
}

const Summary* RecordView::find(std::string_view metric) const {
  const auto found = std::find_if(metrics.begin(), metrics.end(), [&](const Summary& s) { return s.name == metric; });
  return found == metrics.end() ? nullptr : &*found;
}

RecordView view_of(const Record& record) {
  RecordView v;
  const Record& cell = record.at("cell");
  v.model = cell.at("model").at("name");
  v.random_weights = cell.at("model").at("weights") == "random";
  v.precision = cell.at("precision");
  v.precision_long = cell.at("precision_long");
  v.test = cell.at("test");
  v.kind = cell.at("kind");
  // Null where another program does not tell (imported records).
  v.prompt_tokens = told_or(cell, "prompt_tokens", 0);
  v.new_tokens = told_or(cell, "new_tokens", 0);
  v.depth = told_or(cell, "depth", 0);
  v.batch = told_or(cell, "batch", 1);
  v.stop_at_eos = told_or(cell, "stop_at_eos", false);
  if (cell.contains("host_tokens")) v.host_tokens = told_or(cell, "host_tokens", false);
  v.half = text_or(cell, "aa_half");
  if (cell.at("model").contains("outlier_channels"))
    v.outlier_channels = whole_number<int>(cell.at("model").at("outlier_channels"));
  if (!record.at("devices").empty()) {
    const Record& device = record.at("devices").at(0);
    v.device = device.at("name");
    // Two cards of one machine may have the same name.
    const std::string id = text_or(device, "id");
    // Nor are the CPU and the scalar backend, which runs on it, one device.
    if ((id.starts_with("cuda:") && id != "cuda:0") || id == "reference") v.device += fmt::format(" ({})", id);
    if (const size_t count = record.at("devices").size(); count > 1) v.device = fmt::format("{} × {}", count, v.device);
  }
  v.engine = text_or(cell, "engine");
  v.tuning = text_or(cell, "tuning");
  const Record& outcome = record.at("outcome");
  v.status = outcome.at("status");
  v.error = text_or(outcome, "error");
  v.stop_reason = outcome.at("stop_reason");
  v.stamp.kind = stamp_from(outcome.at("stamp"));
  v.stamp.reasons = outcome.at("reasons").get<std::vector<std::string>>();
  if (outcome.contains("flags")) v.stamp.flags = outcome.at("flags").get<std::vector<std::string>>();
  const Record& response = record.at("response");
  if (response.at("text").is_string()) v.response_text = response.at("text").get<std::string>();
  for (const Record& id : response.at("ids")) v.response_ids.push_back(whole_number<int32_t>(id));
  v.in_cache = record.at("cost").is_object() && record.at("cost").at("in_last_level_cache").get<bool>();
  // Fields that older records lack.
  if (const Record& cost = record.at("cost"); !v.in_cache && cost.is_object() && cost.contains("read_peak")) {
    const Record& peak = cost["read_peak"];
    if (peak.is_object() && !peak.at("reached").get<bool>()) {
      v.best_and_known_read = {peak.at("best_bytes_per_second"), peak.at("known_bytes_per_second")};
    }
  }
  if (record.contains("energy") && record["energy"].is_object()) v.energy_estimated = record["energy"].at("estimated");
  v.seed = told_or(record.at("protocol"), "seed", uint64_t{0});
  if (record.contains("imported") && record["imported"].is_object()) v.imported_from = record["imported"].at("tool");
  if (record.contains("quality") && record.at("quality").is_object()) v.quality = quality_view_of(record.at("quality"));
  if (record.contains("explain") && record.at("explain").is_object()) v.explain = explain_view_of(record.at("explain"));
  v.picture = picture_from(record);
  for (const Record& device : record.at("memory")) {
    if (device.contains("reconciliation")) v.memory.push_back(memory_from(device));
  }
  for (const auto& [name, metric] : record.at("metrics").items()) {
    if (!metric.is_null()) v.metrics.push_back(summary_from(name, metric));
  }
  return v;
}

bool are_alike(const RecordView& a, const RecordView& b) {
  const auto cell = [](const RecordView& v) {
    return std::tie(v.model, v.random_weights, v.outlier_channels, v.precision_long, v.kind, v.prompt_tokens,
                    v.new_tokens, v.depth, v.batch, v.stop_at_eos, v.host_tokens, v.engine, v.tuning);
  };
  return cell(a) == cell(b);
}

bool is_one_of_several(std::string_view engine) {
  return !engine.empty() && engine != "native" && engine != "none" && engine != "auto";
}

std::string file_name_part(const std::string& name) {
  const size_t last = name.find_last_not_of('/');
  const std::string whole = name.substr(0, last == std::string::npos ? 0 : last + 1);
  std::string result;
  for (char c : whole.substr(whole.rfind('/') == std::string::npos ? 0 : whole.rfind('/') + 1)) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0 && byte < 128)
      result.push_back(static_cast<char>(std::tolower(byte)));
    else if (c == '.' || c == '-' || c == '_')
      result.push_back(c);
    else
      result.push_back('_');
  }
  constexpr size_t kLongest = 80;
  if (result.size() > kLongest) result.resize(kLongest);
  return result.empty() || result.front() == '.' ? "model" + result : result;
}

std::string write_record(const Record& record, const std::string& folder, const std::vector<std::string>& replaced) {
  os::make_directories(folder);
  const RecordView v = view_of(record);
  std::string test;  // "tg64_d512_b8" of "tg64 @ d512 b8"
  for (const char c : v.test) {
    if (c == '@') continue;
    if (c != ' ') test.push_back(c);
    if (c == ' ' && !test.ends_with('_')) test.push_back('_');
  }
  const std::string engine = is_one_of_several(v.engine) ? fmt::format("_{}", file_name_part(v.engine)) : "";
  const std::string half = v.half.empty() ? "" : fmt::format("_{}", file_name_part(v.half));
  // Two models of a sweep may share the last part of their names: a number keeps the files apart.
  for (int copy = 1;; ++copy) {
    std::string path = fmt::format("{}/{}_{}_{}{}{}{}.json", folder, file_name_part(v.model), v.precision, test, engine,
                                   half, copy == 1 ? "" : fmt::format("_{}", copy));
    if (std::find(replaced.begin(), replaced.end(), path) != replaced.end()) {
      os::write_file_atomically(path, to_text(record));
      return path;
    }
    // Another process may take the name in between.
    if (!os::exists(path) && os::write_new_file_atomically(path, to_text(record))) return path;
  }
}

}  // namespace quantbench
