#include <fmt/format.h>

#include <algorithm>

#include "bench/statistics.h"
#include "report/format.h"
#include "report/report.h"

namespace quantbench {
namespace {

// Peaks this close are the same: pages, not precisions, make such differences.
constexpr double kSameMemory = 0.01;

enum class Order { better, worse, undecided };

Order compare(const Summary* a, const Summary* b) {
  if (!a || !b) return Order::undecided;
  if (a->runs == 0) {  // a single figure
    if (std::abs(a->median - b->median) <= kSameMemory * std::max(a->median, b->median)) return Order::undecided;
    return (a->median < b->median) == (a->better == Better::lower) ? Order::better : Order::worse;
  }
  if (!a->low || !b->low) return Order::undecided;
  const bool below = *a->high<*b->low, above = *a->low> * b->high;
  if (!below && !above) return Order::undecided;
  return below == (a->better == Better::lower) ? Order::better : Order::worse;
}

std::string listed(const std::vector<const RecordView*>& views) {
  std::string text;
  for (size_t i = 0; i < views.size(); ++i) {
    if (i > 0) text += i + 1 == views.size() ? " and " : ", ";
    text += views[i]->precision;
  }
  return text;
}

// The best of a group by one metric, or those that cannot be told apart from it.
std::vector<const RecordView*> best_by(const std::vector<const RecordView*>& group, std::string_view metric) {
  const auto key = [&](const RecordView* v) {
    const Summary* s = v->find(metric);
    return s->better == Better::lower ? s->median : -s->median;
  };
  std::vector<const RecordView*> sorted = group;
  std::stable_sort(sorted.begin(), sorted.end(), [&](auto* a, auto* b) { return key(a) < key(b); });
  std::vector<const RecordView*> best;
  for (const RecordView* v : sorted) {
    if (v == sorted.front() || compare(sorted.front()->find(metric), v->find(metric)) == Order::undecided)
      best.push_back(v);
  }
  return best;
}

std::string ratio_text(const RecordView& a, const RecordView& b) {
  const std::string_view metric = headline_metric(a);
  const Ratio r = bootstrap_median_ratio(a.find(metric)->samples, b.find(metric)->samples, a.seed);
  return fmt::format("{:.2f} × {} [{:.2f}, {:.2f}]", r.value, b.precision, r.low, r.high);
}

std::string fastest(const std::vector<const RecordView*>& group) {
  const auto best = best_by(group, headline_metric(*group.front()));
  std::string ratios;
  for (const RecordView* v : group) {
    if (v != best.front()) ratios += (ratios.empty() ? "" : ", ") + ratio_text(*best.front(), *v);
  }
  if (best.size() > 1) {
    return fmt::format("fastest: undecided between {}: their intervals overlap ({} is {})", listed(best),
                       best.front()->precision, ratios);
  }
  return fmt::format("fastest: {} ({})", best.front()->precision, ratios);
}

std::string smallest(const std::vector<const RecordView*>& group) {
  for (const RecordView* v : group) {
    if (!v->find("memory_peak")) return "smallest: undecided: memory was not measured for every precision";
  }
  const auto best = best_by(group, "memory_peak");
  std::string others;
  for (const RecordView* v : group) {
    others +=
        fmt::format("{}{} {}", others.empty() ? "" : ", ", v->precision, format_bytes(v->find("memory_peak")->median));
  }
  if (best.size() > 1) return fmt::format("smallest: undecided between {} (peak memory: {})", listed(best), others);
  return fmt::format("smallest: {} (peak memory: {})", best.front()->precision, others);
}

bool beats_in_everything(const RecordView& a, const RecordView& b) {
  for (std::string_view metric :
       {headline_metric(a), std::string_view("time_to_first_token"), std::string_view("memory_peak")}) {
    if (compare(a.find(metric), b.find(metric)) != Order::better) return false;
  }
  return true;
}

std::string domination(const std::vector<const RecordView*>& group) {
  std::string found;
  for (const RecordView* a : group) {
    for (const RecordView* b : group) {
      if (a == b || !beats_in_everything(*a, *b)) continue;
      found +=
          fmt::format("{}{} beats {} in everything measured", found.empty() ? "" : "; ", a->precision, b->precision);
    }
  }
  if (found.empty()) found = "no precision beats another in everything measured";
  return found + " (speed, time to first token, memory; not quality)";
}

// Why a cell cannot be compared with others; empty if it can.
std::string obstacle(const RecordView& v) {
  if (v.status != "ok") return fmt::format("{}, {}", name_of(StampKind::invalid), v.status);
  if (v.stamp.kind == StampKind::invalid) return std::string(name_of(v.stamp.kind));
  const Summary* headline = v.find(headline_metric(v));
  if (!headline) return "no figure";
  return headline->low ? "" : fmt::format("no interval from {} run{}", headline->runs, headline->runs == 1 ? "" : "s");
}

// Whose precisions are compared: of one model and test, on one device.
bool are_of_one_group(const RecordView& a, const RecordView& b) {
  return a.shown_model() == b.shown_model() && a.test == b.test && a.device == b.device;
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

}  // namespace

std::vector<std::string> verdict(std::span<const RecordView> views) {
  std::vector<std::string> lines;
  std::vector<const RecordView*> done;  // one of each group
  const bool one_device = std::all_of(views.begin(), views.end(), [&](const RecordView& v) {
    return v.device.empty() || v.device == views.front().device;
  });
  for (const RecordView& first : views) {
    const auto is_of_first = [&](const RecordView* v) { return are_of_one_group(*v, first); };
    if (std::any_of(done.begin(), done.end(), is_of_first)) continue;
    done.push_back(&first);
    std::string title = fmt::format("{}, {}", one_line(first.shown_model()), first.test);
    if (!one_device) title += ", " + one_line(first.device);
    std::vector<const RecordView*> group;
    size_t cells = 0;
    std::string left_out, twice;
    for (const RecordView& v : views) {
      if (!is_of_first(&v)) continue;
      ++cells;
      const std::string why = obstacle(v);
      if (!why.empty()) {
        left_out += fmt::format("{}{}: {}", left_out.empty() ? "" : "; ", v.precision, why);
        continue;
      }
      if (std::any_of(group.begin(), group.end(), [&](const RecordView* other) { return are_alike(*other, v); }))
        twice = v.precision;
      group.push_back(&v);
    }
    if (cells < 2) continue;
    if (group.size() < 2) {
      lines.push_back(fmt::format("{}: no verdict: {} of {} precisions can be compared ({})", title, group.size(),
                                  cells, left_out));
      continue;
    }
    if (!twice.empty()) {
      lines.push_back(fmt::format("{}: no verdict: {} was measured more than once", title, twice));
      continue;
    }
    const bool alike = std::all_of(group.begin(), group.end(), [&](const RecordView* v) {
      return v->response_ids.size() == group.front()->response_ids.size();
    });
    if (!alike) {
      lines.push_back(title + ": no verdict: the precisions generated different numbers of tokens");
      continue;
    }
    lines.push_back(title + engines_of(group) + ":");
    const std::vector<RecordView> named = with_engines(group);
    std::vector<const RecordView*> members;
    for (const RecordView& v : named) members.push_back(&v);
    lines.push_back("  " + fastest(members));
    lines.push_back("  " + smallest(members));
    lines.push_back("  " + domination(members));
  }
  return lines;
}

}  // namespace quantbench
