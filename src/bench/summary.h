// What statistics say of a cell. Plain data that records hold and reports print.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quantbench {

enum class Unit : uint8_t { nanoseconds, bytes, per_second, fraction, joules };
std::string_view name_of(Unit unit);  // as in records: "ns", "bytes", "1/s", "1", "J"
enum class Better : uint8_t { lower, higher };

constexpr std::string_view kReadShare = "read_share", kJoulesPerToken = "joules_per_token",
                           kInterTokenHostMedian = "inter_token_host_median";

struct MetricInfo {
  std::string_view name;
  Unit unit;
  bool of_run;  // measured in every run, so with an interval; else a single figure of the cell
};
std::vector<MetricInfo> metric_infos();  // all there are, in the order in which reports show them

struct Summary {
  std::string name;
  Unit unit = Unit::nanoseconds;
  Better better = Better::lower;
  int runs = 0;  // 0: a single figure of the cell, without an interval
  double median = 0;
  std::optional<double> low, high;  // of the interval of the median; nothing with too few runs
  double coverage = 0;
  double mad = 0, min = 0, max = 0;
  std::vector<double> samples;  // one a run
};

// A mean with its interval; without one where there are too few samples.
struct Estimate {
  double value = 0;
  std::optional<double> low, high;
};

// How good a cell's model is on a text (bench/quality.h).
struct QualityView {
  std::string error;                 // why it was not measured; empty: it was
  std::string text_kind, text_name;  // what was read
  int texts = 0, tokens = 0;         // windows, lines or answers; those of their tokens that were scored
  std::string reference;             // what it is compared with; empty: nothing
  // exp of the mean −ln of the tokens' probabilities, and that over the reference's; nothing of texts of which it says
  // nothing.
  std::optional<Estimate> perplexity, perplexity_ratio;
  std::optional<Estimate> kl_mean, same_top;  // nats; share of tokens
  std::optional<double> kl_p99;
};

enum class StampKind : uint8_t { valid, flagged, invalid };
std::string_view name_of(StampKind kind);  // "VALID", "FLAGGED", "INVALID"
struct Stamp {
  StampKind kind = StampKind::valid;
  std::vector<std::string> reasons;
  std::vector<std::string> flags;  // those of them that alone would only flag
};

}  // namespace quantbench
