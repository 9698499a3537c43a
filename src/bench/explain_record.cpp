#include "bench/explain_record.h"

#include "bench/metrics.h"
#include "bench/statistics.h"
#include "bench/whole_number.h"

namespace quantbench {
namespace {

std::string name(int part) { return std::string(name_of(static_cast<StepPart>(part))); }

// Of the first timed run, as bytes_per_step(), which is their sum.
Record bytes_part(const CellData& data) {
  const Run& run = data.runs.front().report.run;
  const double positions = run.sequences * mean_context(run, data);
  Record part = Record::object();
  for (int i = 0; i < kCosts; ++i) {
    const PartBytes& b = data.load->part_bytes[static_cast<StepPart>(i)];
    part[name(i)] =
        static_cast<double>(b.weight_bytes + b.kv_fixed_bytes) + positions * static_cast<double>(b.kv_position_bytes);
  }
  return part;
}

// The median rate that memory was read at around the timed runs.
std::optional<double> read_rate(const CellData& data) {
  std::vector<double> rates;
  for (const RunSample& s : data.runs) {
    if (s.read_before && s.read_after) rates.push_back((*s.read_before + *s.read_after) / 2);
  }
  if (rates.empty()) return std::nullopt;
  return median(rates);
}

Record time_part(const ExplainReport& e) {
  double sum_ns = 0;
  for (const auto& ns : e.part_ns.of) sum_ns += ns.value_or(0);
  Record parts = Record::object();
  for (int i = 0; i < kStepParts; ++i) {
    const auto part = static_cast<StepPart>(i);
    if (!e.part_ns[part]) continue;
    parts[name(i)] = {{"ns", *e.part_ns[part]},
                      {"share", sum_ns > 0 ? Record(*e.part_ns[part] / sum_ns) : Record(nullptr)},
                      {"launches", or_null(e.part_launches[part])}};
  }
  return {{"engine", e.engine}, {"rounds", e.rounds}, {"step_ns", e.step_ns}, {"parts_ns", sum_ns}, {"parts", parts}};
}

Record outlier_part(const ExplainReport& e) {
  if (e.outlier_steps == 0) return nullptr;
  Record parts = Record::object();
  const auto entry = [](const OutlierCount& c) {
    return Record{{"columns", c.columns},
                  {"outliers", c.outliers},
                  {"share", static_cast<double>(c.outliers) / static_cast<double>(c.columns)}};
  };
  OutlierCount all;
  for (int i = 0; i < kStepParts; ++i) {
    const OutlierCount& c = e.outliers[static_cast<StepPart>(i)];
    if (c.columns == 0) continue;
    all.columns += c.columns;
    all.outliers += c.outliers;
    parts[name(i)] = entry(c);
  }
  Record part{{"threshold", kInt8Threshold}, {"steps", e.outlier_steps}};
  part.update(entry(all));
  part["parts"] = parts;
  return part;
}

Record predictions_part(const Cell& cell, const CellData& data, double bytes, std::optional<double> share) {
  if (!share || cell.test.batch > 1) return nullptr;
  Record cards = Record::array();
  for (const OtherCard& card : other_cards()) {
    const Record fits = data.memory ? Record(data.memory->peak_bytes() <= card.memory_bytes) : Record(nullptr);
    cards.push_back({{"card", card.name},
                     {"bytes_per_second", card.bytes_per_second},
                     {"source", card.source},
                     {"share", *share},
                     {"decode_tokens_per_second", card.bytes_per_second * *share / bytes},
                     {"fits", fits}});
  }
  return cards;
}

std::vector<std::pair<std::string, double>> shares_from(const Record& parts) {
  std::vector<std::pair<std::string, double>> shares;
  for (const auto& [of, part] : parts.items()) {
    if (!part.at("share").is_null()) shares.emplace_back(of, part.at("share"));
  }
  return shares;
}

std::optional<double> number_from(const Record& j) {
  return j.is_null() ? std::nullopt : std::optional(j.get<double>());
}

}  // namespace

Record explain_part(const Cell& cell, const CellData& data, std::optional<double> read_share) {
  const auto bytes = data.runs.empty() ? std::nullopt : bytes_per_step(data.runs.front(), data);
  if (!bytes) return nullptr;
  const bool taken_apart = data.explain && data.explain->missing.empty();
  return {{"launches_per_step", or_null(data.runs.front().report.launches)},
          {"read_bytes_per_second", or_null(read_rate(data))},
          {"bytes_per_step", *bytes},
          {"bytes", bytes_part(data)},
          {"time", taken_apart ? time_part(*data.explain) : Record(nullptr)},
          {"outliers", taken_apart ? outlier_part(*data.explain) : Record(nullptr)},
          {"missing", !data.explain || taken_apart ? Record(nullptr) : Record(data.explain->missing)},
          {"predictions", predictions_part(cell, data, *bytes, read_share)}};
}

ExplainView explain_view_of(const Record& part) {
  ExplainView v;
  if (const Record& launches = part.at("launches_per_step"); !launches.is_null())
    v.launches = whole_number<int>(launches);
  v.read_bytes_per_second = number_from(part.at("read_bytes_per_second"));
  v.bytes_per_step = part.at("bytes_per_step").get<double>();
  for (const auto& [of, bytes] : part.at("bytes").items()) v.part_bytes.emplace_back(of, bytes);
  if (part.at("missing").is_string()) v.missing = part.at("missing").get<std::string>();
  if (const Record& time = part.at("time"); time.is_object()) {
    v.engine = time.at("engine").get<std::string>();
    v.step_ns = time.at("step_ns").get<double>();
    v.part_shares = shares_from(time.at("parts"));
  }
  if (const Record& outliers = part.at("outliers"); outliers.is_object()) {
    v.outlier_share = outliers.at("share").get<double>();
    v.outlier_shares = shares_from(outliers.at("parts"));
  }
  if (part.at("predictions").is_array()) {
    for (const Record& card : part.at("predictions")) {
      v.predictions.push_back({card.at("card"), card.at("bytes_per_second"), card.at("decode_tokens_per_second"),
                               card.at("fits").is_null() || card.at("fits").get<bool>()});
    }
  }
  return v;
}

}  // namespace quantbench
