#include "report/compare_records.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "bench/statistics.h"
#include "report/format.h"
#include "report/report.h"

namespace quantbench {
namespace {

// With fewer texts resamples say little of what other texts would have given (kLeastTexts of quality_record.h).
constexpr size_t kLeastTexts = 6;

// Why a cell has no figure to compare; empty: it has one, perhaps without an interval.
std::string refusal(const RecordView& v) {
  if (v.status != "ok") {
    return fmt::format("{} ({}{})", name_of(StampKind::invalid), v.status, v.error.empty() ? "" : ": " + v.error);
  }
  if (v.stamp.kind == StampKind::invalid) {
    std::string reasons;
    for (const std::string& reason : v.stamp.reasons) reasons += (reasons.empty() ? "" : "; ") + reason;
    return std::string(name_of(v.stamp.kind)) + (reasons.empty() ? "" : " (" + reasons + ")");
  }
  const Summary* headline = v.find(headline_metric(v));
  if (!headline || headline->median <= 0) return "it has no figure";
  return "";
}

// Whether its runs say how the median varies.
bool has_interval(const Summary& s) {
  return s.low && !s.samples.empty() && std::all_of(s.samples.begin(), s.samples.end(), [](double x) { return x > 0; });
}

std::optional<SpeedChange> speed_change(const RecordView& a, const RecordView& b, std::string_view metric) {
  const Summary *of_a = a.find(metric), *of_b = b.find(metric);
  if (!of_a || !of_b || of_a->median <= 0 || of_b->median <= 0) return std::nullopt;
  SpeedChange s{metric, of_a->unit, of_a->median, of_b->median};
  s.ratio = of_a->better == Better::higher ? s.b / s.a : s.a / s.b;
  const auto is_outside = [](double median, const Summary& of) {
    return of.low && of.high && (median < *of.low || median > *of.high);
  };
  s.outside = is_outside(s.a, *of_b) || is_outside(s.b, *of_a);
  return s;
}

// Every speed of every pair at once: what is claimed is adjusted over all of it.
void judge_speeds(std::vector<ComparedPair>* pairs, const CompareOptions& o) {
  std::vector<SamplePair> samples;
  std::vector<SpeedChange*> changes;
  std::vector<double> thresholds;
  for (ComparedPair& pair : *pairs) {
    for (std::optional<SpeedChange>* change : {&pair.speed, &pair.first_token}) {
      if (!*change) continue;
      const Summary &a = *pair.a.view.find((*change)->metric), &b = *pair.b.view.find((*change)->metric);
      if (!has_interval(a) || !has_interval(b)) continue;
      samples.push_back({a.samples, b.samples, a.better});
      changes.push_back(&**change);
      thresholds.push_back(change == &pair.first_token ? o.of_first_token() : o.threshold);
    }
  }
  if (samples.empty()) return;
  const std::vector<Comparison> comparisons = compare(samples, pairs->front().a.view.seed);
  for (size_t i = 0; i < changes.size(); ++i) {
    changes[i]->ratio = comparisons[i].speed.value;
    changes[i]->low = comparisons[i].speed.low;
    changes[i]->high = comparisons[i].speed.high;
    changes[i]->adjusted_p = comparisons[i].adjusted_p;
    changes[i]->difference = difference_of(comparisons[i].speed, comparisons[i].adjusted_p, thresholds[i]);
  }
}

// Of a change with or without interval: beyond the threshold, within it, or not to be said.
Effect effect_of(double change, std::optional<double> low, std::optional<double> high, double threshold) {
  const double lowest = low.value_or(change), highest = high.value_or(change);
  if (-threshold <= lowest && highest <= threshold) return Effect::same;
  if (change > threshold && lowest > 0) return Effect::worse;
  if (change < -threshold && highest < 0) return Effect::better;
  return Effect::ambiguous;
}

std::optional<FigureChange> single_figure(const ComparedPair& pair, std::string_view metric, double threshold) {
  const Summary *a = pair.a.view.find(metric), *b = pair.b.view.find(metric);
  if (!a || !b || a->median <= 0) return std::nullopt;
  FigureChange f{a->median, b->median, b->median / a->median - 1};
  f.effect = effect_of(f.change, {}, {}, threshold);
  return f;
}

// Mean difference a token, text by text, with the BCa interval over texts; where they differ in length of the
// linearised ratio. As bench/quality_record does for one side, but paired: what a text is like falls out.
Estimate paired_difference(const std::vector<double>& a, const std::vector<double>& b,
                           const std::vector<double>& tokens, uint64_t seed) {
  std::vector<double> differences(a.size());
  for (size_t i = 0; i < a.size(); ++i) differences[i] = b[i] - a[i];
  const double all = std::accumulate(tokens.begin(), tokens.end(), 0.0);
  Estimate e{std::accumulate(differences.begin(), differences.end(), 0.0) / all, {}, {}};
  if (a.size() < kLeastTexts) return e;
  const double mean_tokens = all / static_cast<double>(tokens.size());
  for (size_t i = 0; i < a.size(); ++i) differences[i] = e.value + (differences[i] - e.value * tokens[i]) / mean_tokens;
  const Interval interval = bca_mean(differences, seed);
  e.low = interval.low;
  e.high = interval.high;
  return e;
}

bool is_same_text(const ComparedPair& pair) {
  const QualityView &a = *pair.a.view.quality, &b = *pair.b.view.quality;
  return a.text_kind == b.text_kind && a.texts == b.texts && a.tokens == b.tokens &&
         pair.a.quality_text_sha256 == pair.b.quality_text_sha256 && pair.a.text_tokens == pair.b.text_tokens;
}

void compare_quality(ComparedPair* pair, const CompareOptions& options) {
  const std::optional<QualityView>&a = pair->a.view.quality, &b = pair->b.view.quality;
  if (!a || !b) return;
  if (!a->error.empty() || !b->error.empty()) {
    pair->notes.push_back("quality was not measured: " + (a->error.empty() ? b->error : a->error));
    return;
  }
  if (!is_same_text(*pair)) {
    pair->notes.emplace_back("quality is of different texts and not compared");
    return;
  }
  const size_t texts = pair->a.text_tokens.size();
  const auto is_whole = [&](const std::vector<double>& x, const std::vector<double>& y) {
    return texts > 0 && x.size() == texts && y.size() == texts;
  };
  if (a->perplexity && b->perplexity && is_whole(pair->a.text_nll, pair->b.text_nll)) {
    const Estimate log_ratio =
        paired_difference(pair->a.text_nll, pair->b.text_nll, pair->a.text_tokens, pair->a.view.seed);
    FigureChange f{a->perplexity->value, b->perplexity->value, std::expm1(log_ratio.value)};
    if (log_ratio.low) f.low = std::expm1(*log_ratio.low);
    if (log_ratio.high) f.high = std::expm1(*log_ratio.high);
    f.effect = effect_of(f.change, f.low, f.high, options.quality_threshold);
    pair->perplexity = f;
  }
  if (a->kl_mean && b->kl_mean && a->reference == b->reference && is_whole(pair->a.text_kl, pair->b.text_kl)) {
    const Estimate e = paired_difference(pair->a.text_kl, pair->b.text_kl, pair->a.text_tokens, pair->a.view.seed);
    pair->kl = FigureChange{a->kl_mean->value,
                            b->kl_mean->value,
                            e.value,
                            e.low,
                            e.high,
                            effect_of(e.value, e.low, e.high, options.kl_threshold)};
  }
}

void compare_figures(ComparedPair* pair, const CompareOptions& options) {
  const std::string &by_a = pair->a.memory_counted_by, &by_b = pair->b.memory_counted_by;
  if (by_a.empty() || by_b.empty() || by_a == by_b)
    pair->memory = single_figure(*pair, "memory_peak", options.memory_threshold);
  else
    pair->notes.push_back(fmt::format("memory is counted in two ways ({}, {}) and not compared", by_a, by_b));
  pair->joules = single_figure(*pair, kJoulesPerToken, options.threshold);
  compare_quality(pair, options);
}

std::string against(std::string_view what, const std::string& a, const std::string& b) {
  return fmt::format("{}: {} against {}", what, a.empty() ? "none" : one_line(a), b.empty() ? "none" : one_line(b));
}

void note_circumstances(ComparedPair* pair, const CompareOptions& options) {
  const RecordView &a = pair->a.view, &b = pair->b.view;
  std::vector<std::string>& notes = pair->notes;
  if (a.engine != b.engine) notes.push_back(against("engine", a.engine, b.engine));
  if (a.tuning != b.tuning && a.engine == b.engine) notes.push_back(against("tuning", a.tuning, b.tuning));
  if (pair->a.prompt_ids != pair->b.prompt_ids)
    notes.emplace_back("the prompts differ");
  else if (!a.response_ids.empty() && !b.response_ids.empty() && a.response_ids != b.response_ids)
    notes.emplace_back("the same prompt gave different tokens");
  if (pair->a.picture != pair->b.picture) notes.push_back(against("picture", pair->a.picture, pair->b.picture));
  for (const auto& [view, name] : {std::pair(&a, &options.name_a), std::pair(&b, &options.name_b)}) {
    if (view->stamp.kind != StampKind::flagged) continue;
    std::string reasons;
    for (const std::string& reason : view->stamp.reasons) reasons += (reasons.empty() ? "" : "; ") + one_line(reason);
    notes.push_back(fmt::format("{} is {}: {}", *name, name_of(StampKind::flagged), reasons));
  }
  for (const std::optional<SpeedChange>* change : {&pair->speed, &pair->first_token}) {
    if (!*change) continue;
    if (!(*change)->low) notes.push_back(fmt::format("{}: too few runs for an interval", (*change)->metric));
    if ((*change)->outside && (*change)->difference == Difference::same) {
      notes.push_back(
          fmt::format("FLAGGED: {}: a median lies outside the other side's interval: the two processes "
                      "differ by more than the runs of each",
                      (*change)->metric));
    }
  }
}

// What the values of a fact are on each side, where they are not the same.
void add_circumstance(std::vector<std::string>* lines, const std::vector<ComparedPair>& pairs, std::string_view what,
                      std::string (*of)(const ComparedCell&)) {
  std::set<std::string> of_a, of_b;
  for (const ComparedPair& pair : pairs) {
    of_a.insert(of(pair.a));
    of_b.insert(of(pair.b));
  }
  if (of_a == of_b) return;
  constexpr size_t kShown = 4;
  const auto listed = [](const std::set<std::string>& values) {
    std::string text;
    size_t i = 0;
    for (const std::string& value : values) {
      if (i++ == kShown) return text + fmt::format(", and {} more", values.size() - kShown);
      text += (text.empty() ? "" : ", ") + (value.empty() ? "not known" : value);
    }
    return text;
  };
  lines->push_back(against(what, listed(of_a), listed(of_b)));
}

std::string device_of(const ComparedCell& c) {
  return c.threads > 1 ? fmt::format("{} ({} threads)", c.view.device, c.threads) : c.view.device;
}

std::vector<std::string> circumstances(const std::vector<ComparedPair>& pairs) {
  std::vector<std::string> lines;
  add_circumstance(&lines, pairs, "program", [](const ComparedCell& c) {
    return c.commit.empty() ? c.version : fmt::format("{} ({})", c.version, c.commit.substr(0, 12));
  });
  add_circumstance(&lines, pairs, "build", [](const ComparedCell& c) { return c.build_type; });
  add_circumstance(&lines, pairs, "device", device_of);
  add_circumstance(&lines, pairs, "driver", [](const ComparedCell& c) { return c.driver; });
  add_circumstance(&lines, pairs, "CPU of the machine", [](const ComparedCell& c) { return c.cpu; });
  add_circumstance(&lines, pairs, "kernel", [](const ComparedCell& c) { return c.kernel; });
  add_circumstance(&lines, pairs, "measured on", [](const ComparedCell& c) { return c.started_utc.substr(0, 10); });
  return lines;
}

void raise(ComparedPair* pair, Outcome outcome, const std::string& reason) {
  if (outcome > pair->outcome) pair->outcome = outcome;
  pair->reasons.push_back(reason);
}

void judge_speed(ComparedPair* pair, const std::optional<SpeedChange>& change, const char* what, double threshold) {
  if (!change) return;
  if (change->difference == Difference::slower) {
    raise(pair, Outcome::regression, fmt::format("{}: {:.3g} times as fast", what, change->ratio));
  } else if (change->difference == Difference::ambiguous && change->low.value_or(0) < 1 - threshold) {
    // An interval that stays above it is of "the same" or "faster": no regression either way.
    raise(pair, Outcome::ambiguous,
          change->low ? fmt::format("{}: between {:.3g} and {:.3g} times as fast", what, *change->low, *change->high)
                      : fmt::format("{}: no interval", what));
  }
}

void judge_figure(ComparedPair* pair, const std::optional<FigureChange>& figure, const char* what, double threshold,
                  const char* unit) {
  if (!figure) return;
  const double times = *unit == '%' ? 100 : 1;
  if (figure->effect == Effect::worse) {
    raise(pair, Outcome::regression, fmt::format("{}: {:+.3g} {}", what, times * figure->change, unit));
  } else if (figure->effect == Effect::ambiguous && figure->high.value_or(figure->change) > threshold) {
    raise(pair, Outcome::ambiguous,
          fmt::format("{}: {:+.3g} {}, perhaps {:+.3g}", what, times * figure->change, unit,
                      times * figure->high.value_or(figure->change)));
  }
}

void judge(ComparedPair* pair, const CompareOptions& o) {
  // Of another device nothing says whether the program became slower.
  if (!o.any_device && device_of(pair->a) != device_of(pair->b)) {
    raise(pair, Outcome::not_comparable, against("other devices", device_of(pair->a), device_of(pair->b)));
    return;
  }
  judge_speed(pair, pair->speed, "speed", o.threshold);
  judge_speed(pair, pair->first_token, "time to first token", o.of_first_token());
  judge_figure(pair, pair->memory, "peak memory", o.memory_threshold, "%");
  judge_figure(pair, pair->perplexity, "perplexity", o.quality_threshold, "%");
  judge_figure(pair, pair->kl, "divergence from FP16", o.kl_threshold, "nats");
}

std::vector<ComparedCell> cells_of(const FoundRecords& found) {
  std::vector<ComparedCell> cells;
  for (size_t i = 0; i < found.records.size(); ++i) {
    cells.push_back(compared_cell(found.records[i], i < found.paths.size() ? found.paths[i] : ""));
  }
  return cells;
}

Outcome worst_of(const RecordsCompared& c) {
  Outcome worst = Outcome::fine;
  for (const ComparedPair& pair : c.pairs) worst = std::max(worst, pair.outcome);
  // What BASE has and NEW has not: a gate that passes as cells vanish would guard nothing.
  const bool incomplete =
      c.pairs.empty() || !c.refused.empty() || !c.only_a.empty() || !c.problems_a.empty() || !c.problems_b.empty();
  return incomplete ? std::max(worst, Outcome::not_comparable) : worst;
}

}  // namespace

std::string_view name_of(Outcome outcome) {
  switch (outcome) {
    case Outcome::fine: return "fine";
    case Outcome::ambiguous: return "ambiguous";
    case Outcome::not_comparable: return "not comparable";
    case Outcome::regression: return "regression";
  }
  return "?";
}

int exit_code(Outcome outcome) {
  switch (outcome) {
    case Outcome::fine: return 0;
    case Outcome::regression: return 1;
    case Outcome::ambiguous: return 2;
    case Outcome::not_comparable: return 3;
  }
  return 3;
}

int RecordsCompared::count(Difference difference) const {
  return static_cast<int>(std::count_if(
      pairs.begin(), pairs.end(), [&](const ComparedPair& p) { return p.speed && p.speed->difference == difference; }));
}

int RecordsCompared::count_outside() const {
  return static_cast<int>(std::count_if(pairs.begin(), pairs.end(), [](const ComparedPair& p) {
    return p.speed && p.speed->outside && p.speed->difference == Difference::same;
  }));
}

RecordsCompared compare_records(const FoundRecords& a, const FoundRecords& b, const CompareOptions& options) {
  RecordsCompared result{.options = options};
  result.problems_a = a.problems;
  result.problems_b = b.problems;
  std::vector<ComparedCell> of_a = cells_of(a), of_b = cells_of(b);
  const CellMatches matches = match_cells(of_a, of_b);
  result.refused = matches.refused;
  for (const size_t i : matches.only_a) result.only_a.push_back(of_a[i].label());
  for (const size_t j : matches.only_b) result.only_b.push_back(of_b[j].label());
  for (const auto& [i, j] : matches.pairs) {
    std::string why;
    for (const auto& [cell, name] : {std::pair(&of_a[i], &options.name_a), std::pair(&of_b[j], &options.name_b)}) {
      const std::string of_side = refusal(cell->view);
      if (!of_side.empty()) why += fmt::format("{}{}: {}", why.empty() ? "" : "; ", *name, of_side);
    }
    if (!why.empty()) {
      result.refused.push_back({of_a[i].label(), one_line(why)});
      continue;
    }
    ComparedPair pair{.a = std::move(of_a[i]), .b = std::move(of_b[j])};
    pair.speed = speed_change(pair.a.view, pair.b.view, headline_metric(pair.a.view));
    // Of a prefill the time to its first token says the same once more.
    if (pair.a.view.kind != "prefill") pair.first_token = speed_change(pair.a.view, pair.b.view, "time_to_first_token");
    compare_figures(&pair, options);
    result.pairs.push_back(std::move(pair));
  }
  judge_speeds(&result.pairs, options);
  for (ComparedPair& pair : result.pairs) {
    note_circumstances(&pair, options);
    judge(&pair, options);
  }
  result.circumstances = circumstances(result.pairs);
  result.outcome = worst_of(result);
  return result;
}

}  // namespace quantbench
