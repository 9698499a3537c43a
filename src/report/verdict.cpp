#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>

#include "bench/comparison.h"
#include "report/format.h"
#include "report/report.h"

namespace quantbench {
namespace {

// Peaks this close are the same: pages, not precisions, make such differences.
constexpr double kSameMemory = 0.01;
constexpr std::string_view kPeak = "memory_peak";

std::string listed(const std::vector<const RecordView*>& views) {
  std::string text;
  for (size_t i = 0; i < views.size(); ++i) {
    if (i > 0) text += i + 1 == views.size() ? " and " : ", ";
    text += views[i]->precision;
  }
  return text;
}

// Cells that are compared with one another.
struct Group {
  std::string title;
  std::string refusal;  // why there is no verdict; empty: there is one
  std::vector<RecordView> cells;
};

// What a group's speeds are compared by. Of a prefill the time to its first token says the same once more.
std::vector<std::string_view> speed_metrics(const RecordView& v) {
  std::vector<std::string_view> metrics{headline_metric(v)};
  if (v.kind != "prefill") metrics.emplace_back("time_to_first_token");
  return metrics;
}

bool is_better(const Summary& a, const Summary& b) {
  return a.better == Better::lower ? a.median < b.median : a.median > b.median;
}

// Every two cells of every group by every metric of speed, compared at once: what is claimed is adjusted over all of
// it.
class Comparisons {
 public:
  explicit Comparisons(const std::vector<Group>& groups) {
    std::vector<SamplePair> pairs;
    for (const Group& group : groups) {
      if (!group.refusal.empty()) continue;
      for (const RecordView& a : group.cells) {
        for (const RecordView& b : group.cells) {
          if (&a == &b) continue;
          for (const std::string_view metric : speed_metrics(a)) {
            const Summary *of_a = a.find(metric), *of_b = b.find(metric);
            // Each pair once, the better one against the other; of equal ones the first.
            if (!of_a || !of_b || is_better(*of_b, *of_a) || (!is_better(*of_a, *of_b) && &a > &b)) continue;
            found_[{&a, &b, metric}] = pairs.size();
            pairs.push_back({of_b->samples, of_a->samples, of_a->better});
          }
        }
      }
    }
    all_ = compare(pairs, 0);
  }
  // Of `a` against `b`; null where `a` is not the better one, or they have not both a figure.
  const Comparison* of(const RecordView& a, const RecordView& b, std::string_view metric) const {
    const auto found = found_.find({&a, &b, metric});
    return found == found_.end() ? nullptr : &all_[found->second];
  }
  bool is_faster(const RecordView& a, const RecordView& b, std::string_view metric) const {
    const Comparison* c = of(a, b, metric);
    return c && c->difference == Difference::faster;
  }

 private:
  std::map<std::tuple<const RecordView*, const RecordView*, std::string_view>, size_t> found_;
  std::vector<Comparison> all_;
};

std::string fastest(const Group& group, const Comparisons& comparisons) {
  const std::string_view metric = headline_metric(group.cells.front());
  const RecordView* best = &group.cells.front();
  for (const RecordView& v : group.cells) {
    if (is_better(*v.find(metric), *best->find(metric))) best = &v;
  }
  std::vector<const RecordView*> level{best};  // that cannot be told from it
  std::string ratios;
  bool all_same = true;
  for (const RecordView& v : group.cells) {
    if (&v == best) continue;
    const Comparison& c = *comparisons.of(*best, v, metric);
    ratios += fmt::format("{}{:.2f} × {} [{:.2f}, {:.2f}]", ratios.empty() ? "" : ", ", c.speed.value, v.precision,
                          c.speed.low, c.speed.high);
    if (c.difference == Difference::faster) continue;
    level.push_back(&v);
    all_same &= c.difference == Difference::same;
  }
  if (level.size() == 1) return fmt::format("fastest: {} ({})", best->precision, ratios);
  if (all_same) {
    return fmt::format("fastest: {}, the same within {:g} % ({} is {})", listed(level), 100 * kSameThreshold,
                       best->precision, ratios);
  }
  return fmt::format("fastest: undecided between {}: too close for their noise ({} is {})", listed(level),
                     best->precision, ratios);
}

bool is_smaller(const RecordView& a, const RecordView& b) {
  const Summary *of_a = a.find(kPeak), *of_b = b.find(kPeak);
  return of_a && of_b && of_b->median - of_a->median > kSameMemory * of_b->median;
}

std::string smallest(const Group& group) {
  std::string others;
  const RecordView* best = &group.cells.front();
  for (const RecordView& v : group.cells) {
    if (!v.find(kPeak)) return "smallest: undecided: memory was not measured for every precision";
    others += fmt::format("{}{} {}", others.empty() ? "" : ", ", v.precision, format_bytes(v.find(kPeak)->median));
    if (v.find(kPeak)->median < best->find(kPeak)->median) best = &v;
  }
  std::vector<const RecordView*> level{best};
  for (const RecordView& v : group.cells) {
    if (&v != best && !is_smaller(*best, v)) level.push_back(&v);
  }
  if (level.size() > 1) return fmt::format("smallest: undecided between {} (peak memory: {})", listed(level), others);
  return fmt::format("smallest: {} (peak memory: {})", best->precision, others);
}

// By the mean divergence from one reference on one text. The cell that is the reference (fp16) has none from itself.
std::string most_exact(const Group& group) {
  std::vector<const RecordView*> judges, judged;
  std::string unmeasured, figures;
  for (const RecordView& v : group.cells) {
    if (!v.quality || !v.quality->error.empty()) {
      unmeasured += fmt::format("{}{}", unmeasured.empty() ? "" : ", ", v.precision);
    } else if (v.quality->kl_mean) {
      judged.push_back(&v);
      figures +=
          fmt::format("{}{} {}", figures.empty() ? "" : ", ", v.precision, format_divergence(*v.quality->kl_mean));
    } else {
      judges.push_back(&v);
    }
  }
  if (judges.empty() && judged.empty()) return "most exact: undecided: quality was not measured (run --quality)";
  if (!unmeasured.empty()) return fmt::format("most exact: undecided: quality was not measured of {}", unmeasured);
  if (judged.empty()) return "most exact: undecided: nothing was compared with a reference";
  const QualityView& first = *judged.front()->quality;
  for (const RecordView* v : judged) {
    const QualityView& q = *v->quality;
    if (q.reference != first.reference || q.text_name != first.text_name || q.tokens != first.tokens) {
      return "most exact: undecided: compared with different references or on different texts";
    }
  }
  std::sort(judged.begin(), judged.end(), [](const RecordView* a, const RecordView* b) {
    return a->quality->kl_mean->value < b->quality->kl_mean->value;
  });
  const Estimate& least = *judged.front()->quality->kl_mean;
  const auto differs = [&](const RecordView* v) {
    const Estimate& e = *v->quality->kl_mean;
    return least.high && e.low && *e.low > *least.high;
  };
  std::vector<const RecordView*> level;  // that cannot be told from the best
  for (const RecordView* v : judged) {
    if (v == judged.front() || !differs(v)) level.push_back(v);
  }
  const std::string best = level.size() > 1 ? "undecided between " + listed(level) : level.front()->precision;
  const std::string by = judges.empty() ? best
                         : judged.size() == 1
                             ? fmt::format("{}, by which {} is judged", listed(judges), best)
                             : fmt::format("{}, by which the others are judged; then {}", listed(judges), best);
  return fmt::format("most exact: {} (mean divergence from {} in nats: {})", by,
                     one_line(first.reference.substr(0, first.reference.find(' '))), figures);
}

bool beats_in_everything(const RecordView& a, const RecordView& b, const Comparisons& comparisons) {
  for (const std::string_view metric : speed_metrics(a)) {
    if (!comparisons.is_faster(a, b, metric)) return false;
  }
  return is_smaller(a, b);
}

std::string domination(const Group& group, const Comparisons& comparisons) {
  std::string found;
  for (const RecordView& a : group.cells) {
    for (const RecordView& b : group.cells) {
      if (&a == &b || !beats_in_everything(a, b, comparisons)) continue;
      found += fmt::format("{}{} beats {} in everything measured", found.empty() ? "" : "; ", a.precision, b.precision);
    }
  }
  if (found.empty()) found = "no precision beats another in everything measured";
  return found + " (speed, time to first token, memory; not quality)";
}

// Whose precisions are compared: of one model and test, on one device.
bool are_of_one_group(const RecordView& a, const RecordView& b) {
  return a.shown_model() == b.shown_model() && a.test == b.test && a.device == b.device && a.half == b.half;
}

// The group, with the engine behind the name of a precision that is there on more than one: "fp16 on graph".
std::vector<RecordView> with_engines(const std::vector<const RecordView*>& group) {
  std::vector<RecordView> named;
  for (const RecordView* v : group) {
    named.push_back(*v);
    const bool is_alone = std::none_of(group.begin(), group.end(), [&](const RecordView* other) {
      return other != v && other->precision == v->precision;
    });
    if (!is_alone) named.back().precision += " on " + v->engine;
  }
  return named;
}

// " (fp16: graph, int8: persistent)", where a group's cells did not all run on one engine.
std::string engines_of(const std::vector<const RecordView*>& group) {
  std::string engines;
  bool differ = false;
  for (const RecordView* v : group) {
    engines += fmt::format("{}{}: {}", engines.empty() ? "" : ", ", v->precision, v->engine);
    differ |= v->engine != group.front()->engine;
  }
  return differ ? fmt::format(" ({})", engines) : "";
}

// The group that `first` is of; nothing where there are no two cells of it.
std::optional<Group> group_of(const RecordView& first, std::span<const RecordView> views, bool one_device) {
  Group group{fmt::format("{}, {}", one_line(first.shown_model()), first.test), "", {}};
  if (!one_device) group.title += ", " + one_line(first.device);
  std::vector<const RecordView*> members;
  size_t cells = 0;
  std::string left_out, twice;
  // bf16 is there to be compared with and wins nothing; of another program alone it is that program's own precision.
  const bool ranks_bf16 = std::none_of(views.begin(), views.end(), [&](const RecordView& v) {
    return are_of_one_group(v, first) && (v.precision == "fp16" || v.is_baseline());
  });
  bool has_baseline = false;
  for (const RecordView& v : views) {
    if (!are_of_one_group(v, first)) continue;
    if (v.precision == "bf16" && !ranks_bf16) {
      has_baseline = true;
      continue;
    }
    ++cells;
    const std::string why = obstacle(v);
    if (!why.empty()) {
      left_out += fmt::format("{}{}: {}", left_out.empty() ? "" : "; ", v.precision, why);
      continue;
    }
    if (std::any_of(members.begin(), members.end(), [&](const RecordView* other) { return are_alike(*other, v); }))
      twice = v.precision;
    members.push_back(&v);
  }
  if (cells < 2) {
    if (!has_baseline || cells == 0) return std::nullopt;
    group.refusal = "one precision alone beside bf16, a baseline, which is not ranked";
    return group;
  }
  if (members.size() < 2) {
    group.refusal = fmt::format("{} of {} cells can be compared ({})", members.size(), cells, left_out);
    return group;
  }
  if (!twice.empty()) {
    group.refusal = fmt::format("{} was measured more than once", twice);
    return group;
  }
  const bool alike = std::all_of(members.begin(), members.end(), [&](const RecordView* v) {
    return v->response_ids.size() == members.front()->response_ids.size();
  });
  if (!alike) {
    group.refusal = "the precisions generated different numbers of tokens";
    return group;
  }
  group.title += engines_of(members);
  if (has_baseline) group.title += " (bf16 is a baseline, not ranked)";
  group.cells = with_engines(members);
  return group;
}

}  // namespace

std::string obstacle(const RecordView& v) {
  if (v.status != "ok") return fmt::format("{}, {}", name_of(StampKind::invalid), v.status);
  if (v.stamp.kind == StampKind::invalid) return std::string(name_of(v.stamp.kind));
  const Summary* headline = v.find(headline_metric(v));
  if (!headline) return "no figure";
  return headline->low ? "" : fmt::format("no interval from {} run{}", headline->runs, headline->runs == 1 ? "" : "s");
}

std::vector<std::string> verdict(std::span<const RecordView> views) {
  std::vector<Group> groups;
  std::vector<const RecordView*> done;  // one of each group
  const bool one_device = std::all_of(views.begin(), views.end(), [&](const RecordView& v) {
    return v.device.empty() || v.device == views.front().device;
  });
  for (const RecordView& first : views) {
    const auto is_of_first = [&](const RecordView* v) { return are_of_one_group(*v, first); };
    if (!first.half.empty() || std::any_of(done.begin(), done.end(), is_of_first)) continue;
    done.push_back(&first);
    if (auto group = group_of(first, views, one_device)) groups.push_back(*std::move(group));
  }
  const Comparisons comparisons(groups);
  std::vector<std::string> lines;
  for (const Group& group : groups) {
    if (!group.refusal.empty()) {
      lines.push_back(fmt::format("{}: no verdict: {}", group.title, group.refusal));
      continue;
    }
    lines.push_back(group.title + ":");
    lines.push_back("  " + fastest(group, comparisons));
    lines.push_back("  " + smallest(group));
    lines.push_back("  " + most_exact(group));
    lines.push_back("  " + domination(group, comparisons));
  }
  return lines;
}

}  // namespace quantbench
