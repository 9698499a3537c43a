#include "bench/explain.h"

namespace quantbench {

// By NVIDIA's published specifications: the rate of the memory's pins times their number; a gigabyte of bandwidth is
// 10⁹ bytes, one of memory 2³⁰.
std::span<const OtherCard> other_cards() {
  constexpr int64_t kGiB = int64_t{1} << 30;
  static constexpr OtherCard kCards[] = {
      {"RTX 2080 Ti", 616e9, 11 * kGiB, "published: 11 GB of GDDR6, 14 Gbit/s on 352 bits"},
      {"Quadro RTX 8000", 672e9, 48 * kGiB, "published: 48 GB of GDDR6, 14 Gbit/s on 384 bits"},
      {"L40S", 864e9, 48 * kGiB, "published: 48 GB of GDDR6, 18 Gbit/s on 384 bits"}};
  return kCards;
}

namespace protocol {

using nlohmann::json;

namespace {

template <typename T>
json optional_to_json(const ByPart<std::optional<T>>& values) {
  json j = json::array();
  for (const auto& value : values.of) j.push_back(value ? json(*value) : json(nullptr));
  return j;
}
template <typename T>
ByPart<std::optional<T>> optional_from(const json& j) {
  ByPart<std::optional<T>> values;
  for (size_t i = 0; i < values.of.size(); ++i) {
    if (!j.at(i).is_null()) values.of[i] = j.at(i).get<T>();
  }
  return values;
}

}  // namespace

json to_json(const ExplainReport& r) {
  json outliers = json::array();
  for (const OutlierCount& c : r.outliers.of) outliers.push_back({c.columns, c.outliers});
  return {{"missing", r.missing},
          {"engine", r.engine},
          {"step_ns", r.step_ns},
          {"part_ns", optional_to_json(r.part_ns)},
          {"part_launches", optional_to_json(r.part_launches)},
          {"rounds", r.rounds},
          {"outlier_steps", r.outlier_steps},
          {"outliers", outliers}};
}
ExplainReport explain_report_from(const json& j) {
  ExplainReport r;
  r.missing = j.at("missing");
  r.engine = j.at("engine");
  r.step_ns = j.at("step_ns");
  r.part_ns = optional_from<double>(j.at("part_ns"));
  r.part_launches = optional_from<int>(j.at("part_launches"));
  r.rounds = j.at("rounds");
  r.outlier_steps = j.at("outlier_steps");
  for (size_t i = 0; i < r.outliers.of.size(); ++i) {
    r.outliers.of[i] = {j.at("outliers").at(i).at(0), j.at("outliers").at(i).at(1)};
  }
  return r;
}

json to_json(const ByPart<PartBytes>& bytes) {
  json j = json::array();
  for (const PartBytes& b : bytes.of) j.push_back({b.weight_bytes, b.kv_position_bytes, b.kv_fixed_bytes});
  return j;
}
ByPart<PartBytes> part_bytes_from(const json& j) {
  ByPart<PartBytes> bytes;
  for (size_t i = 0; i < bytes.of.size(); ++i) bytes.of[i] = {j.at(i).at(0), j.at(i).at(1), j.at(i).at(2)};
  return bytes;
}

}  // namespace protocol
}  // namespace quantbench
