#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "bench/comparison.h"
#include "report/format.h"
#include "report/report.h"

namespace quantbench {
namespace {

constexpr std::string_view kDecode = "decode_tokens_per_second";

// From this share of the read rate on, reading is what a step waits for.
constexpr double kBoundByBytes = 0.7;
// From this share of a whole run on, the host keeps the device waiting enough to be named.
constexpr double kBoundByHost = 0.2;
// What is left of a step beside reading, by launch: a kernel that begins and ends costs no more than this, so more is
// the kernels' own work.
constexpr double kMostOfALaunch_ns = 5000;

std::string percent(double share) {
  const double percents = 100 * share;
  if (percents == 0) return "0 %";
  return percents >= 9.95 ? fmt::format("{:.0f} %", percents) : fmt::format("{:.2g} %", percents);
}

bool is_invalid(const RecordView& v) { return v.stamp.kind == StampKind::invalid; }

bool is_explained(const RecordView& v) {
  return v.status == "ok" && v.explain && v.explain->bytes_per_step && v.find(kDecode) && v.half.empty();
}

double bytes_per_token(const RecordView& v) { return *v.explain->bytes_per_step / v.batch; }
std::optional<double> read_share(const RecordView& v) {
  const Summary* const share = v.in_cache ? nullptr : v.find(kReadShare);
  return share ? std::optional(share->median) : std::nullopt;
}

// "mlp 55 %, qkv 17 %", the largest first.
std::string listed(std::vector<std::pair<std::string, double>> shares) {
  std::stable_sort(shares.begin(), shares.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  std::string text;
  for (const auto& [part, share] : shares) {
    std::string name = part;
    std::replace(name.begin(), name.end(), '_', ' ');
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, percent(share));
  }
  return text;
}

// What it does against `base`, or by itself where that is null.
std::string speed(const RecordView& v, const RecordView* base, const Comparison* against) {
  if (!base) {
    return fmt::format("{} decodes {} tokens/s: it reads {} a token", v.precision, format_rate(v.find(kDecode)->median),
                       format_decimal(bytes_per_token(v)));
  }
  const double ratio = v.find(kDecode)->median / base->find(kDecode)->median;
  std::string text;
  switch (against->difference) {
    case Difference::faster:
      text = fmt::format("{} decodes {:.2f} × as fast as {}", v.precision, ratio, base->precision);
      break;
    case Difference::slower:
      text = fmt::format("{} decodes slower than {}, {:.2f} × as fast", v.precision, base->precision, ratio);
      break;
    case Difference::same: text = fmt::format("{} decodes as fast as {}", v.precision, base->precision); break;
    case Difference::ambiguous:
      text = fmt::format("whether {} decodes faster than {} these runs cannot tell ({:.2f} ×)", v.precision,
                         base->precision, ratio);
  }
  return text + fmt::format(": it reads {} a token instead of {}", format_decimal(bytes_per_token(v)),
                            format_decimal(bytes_per_token(*base)));
}

std::string reading(const RecordView& v, const RecordView* base) {
  if (v.in_cache) return ", which a cache holds, so that the memory's read rate bounds nothing";
  const auto share = read_share(v), of_base = base ? read_share(*base) : std::nullopt;
  if (!share || !v.explain->read_bytes_per_second) return "";
  return fmt::format(", at {}{} of the {}/s that this device reads", percent(*share),
                     of_base ? " against " + percent(*of_base) : "", format_decimal(*v.explain->read_bytes_per_second));
}

// What a step waits for, as far as the figures tell.
std::string bottleneck(const RecordView& v) {
  const double step_ns = v.batch / v.find(kDecode)->median * 1e9;
  const auto share = read_share(v);
  const std::optional<int> launches = v.explain->launches;
  if (share && *share >= kBoundByBytes) return "Bytes are what it waits for.";
  const Summary *overhead = v.find("host_overhead"), *total = v.find("total_latency");
  if (overhead && total && overhead->median >= kBoundByHost * total->median) {
    return fmt::format("The host is what it waits for: {} of a run, in which the device has nothing to do.",
                       percent(overhead->median / total->median));
  }
  if (!share) return "";
  const double rest_ns = (1 - *share) * step_ns;
  if (launches && *launches > 1 && rest_ns / *launches <= kMostOfALaunch_ns) {
    return fmt::format(
        "Launches are what it waits for: of a step's {} reading would take {}, and the rest is {} for each "
        "of {} kernels.",
        format_ns(step_ns), format_ns(step_ns - rest_ns), format_ns(rest_ns / *launches), *launches);
  }
  return fmt::format(
      "It is not bound by bytes: of a step's {} reading would take {}; the rest is computing, or waiting "
      "inside kernels.",
      format_ns(step_ns), format_ns(step_ns - rest_ns));
}

std::string details(const RecordView& v) {
  const ExplainView& e = *v.explain;
  std::string text;
  if (e.launches) text += fmt::format(" A step is {} kernel{}.", *e.launches, *e.launches == 1 ? "" : "s");
  if (!e.part_shares.empty()) {
    const bool of_another = v.engine == "persistent" && e.engine != v.engine;
    text += fmt::format(" Of a step's time{}: {}.",
                        of_another ? fmt::format(" by the {} engine's kernels (this cell's is one)", e.engine) : "",
                        listed(e.part_shares));
  }
  if (!e.missing.empty()) text += fmt::format(" A step was not taken apart: {}.", one_line(e.missing));
  if (e.outlier_share) {
    text += fmt::format(" {} of the columns that int8 products read are outliers", percent(*e.outlier_share));
    text += *e.outlier_share > 0 ? fmt::format(" ({}).", listed(e.outlier_shares)) : ".";
  }
  return text;
}

std::string predictions(const RecordView& v) {
  std::string text;
  for (const PredictionView& p : v.explain->predictions) {
    text += fmt::format("{}{} ({}/s) {}", text.empty() ? "" : "; ", p.card, format_decimal(p.card_bytes_per_second),
                        p.fits ? fmt::format("{} tokens/s", format_rate(p.tokens_per_second)) : "too small for it");
  }
  return fmt::format("Predicted, not measured, for {} at the same {} of a card's published bandwidth: {}.", v.precision,
                     percent(*read_share(v)), text);
}

}  // namespace

std::vector<std::string> explanations(std::span<const RecordView> views) {
  std::vector<std::string> titles;
  std::map<std::string, std::vector<const RecordView*>> groups;
  for (const RecordView& v : views) {
    if (!is_explained(v)) continue;
    const std::string title = fmt::format("{}, {}, on {}", one_line(v.shown_model()), v.test, one_line(v.device));
    if (groups[title].empty()) titles.push_back(title);
    groups[title].push_back(&v);
  }
  // Each against its fp16; what is claimed is adjusted over all of it.
  std::vector<SamplePair> pairs;
  std::map<const RecordView*, std::pair<const RecordView*, size_t>> against;
  for (const auto& [title, cells] : groups) {
    const auto base = std::find_if(cells.begin(), cells.end(),
                                   [](const RecordView* v) { return v->precision == "fp16" && !is_invalid(*v); });
    for (const RecordView* v : cells) {
      if (base == cells.end() || v == *base || is_invalid(*v)) continue;
      against[v] = {*base, pairs.size()};
      const Summary &of_base = *(*base)->find(kDecode), &own = *v->find(kDecode);
      pairs.push_back({of_base.samples, own.samples, own.better});
    }
  }
  std::vector<Comparison> compared =
      pairs.empty() ? std::vector<Comparison>{} : compare(pairs, groups.begin()->second.front()->seed);
  for (const auto& [v, of] : against) {
    const bool can_be_compared = obstacle(*v).empty() && obstacle(*of.first).empty();
    if (!can_be_compared) compared[of.second].difference = Difference::ambiguous;
  }
  std::vector<std::string> lines;
  for (const std::string& title : titles) {
    lines.push_back(title + ":");
    for (const RecordView* v : groups[title]) {
      if (is_invalid(*v)) {
        lines.push_back(fmt::format("  {} is INVALID, so its figures are not explained.", v->precision));
        continue;
      }
      const auto found = against.find(v);
      const RecordView* const base = found == against.end() ? nullptr : found->second.first;
      const std::string waits = bottleneck(*v);
      lines.push_back("  " + speed(*v, base, base ? &compared[found->second.second] : nullptr) + reading(*v, base) +
                      "." + (waits.empty() ? "" : " " + waits) + details(*v));
      if (!v->explain->predictions.empty()) lines.push_back("    " + predictions(*v));
    }
  }
  return lines;
}

}  // namespace quantbench
