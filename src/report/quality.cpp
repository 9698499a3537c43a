#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "report/format.h"
#include "report/report.h"

namespace quantbench {
namespace {

constexpr const char* kNothing = "–";

std::string half_width(const Estimate& e, double times, int digits) {
  return e.low && e.high ? fmt::format(" ± {:.{}f}", times * (*e.high - *e.low) / 2, digits) : "";
}

std::string perplexity(const std::optional<Estimate>& e) {
  if (!e) return kNothing;
  const int digits = e->value < 100 ? 3 : 1;
  return fmt::format("{:.{}f}", e->value, digits) + half_width(*e, 1, digits);
}

// As a change, which is what a ratio near 1 is read for.
std::string change(const std::optional<Estimate>& e) {
  if (!e) return kNothing;
  return fmt::format("{:+.2f} %", 100 * (e->value - 1)) + half_width(*e, 100, 2);
}

std::string divergence(const std::optional<Estimate>& e) { return e ? format_divergence(*e) : kNothing; }

std::string share(const std::optional<Estimate>& e) {
  if (!e) return kNothing;
  return fmt::format("{:.2f} %", 100 * e->value) + half_width(*e, 100, 2);
}

std::string text_of(const QualityView& q) {
  return fmt::format("{}, {} token{} scored", one_line(q.text_name), q.tokens, q.tokens == 1 ? "" : "s");
}

// A row for each model and precision: a model is as good in every test.
Grid grid(std::span<const RecordView> views) {
  using enum Grid::Align;
  Grid g(
      {"model", "precision", "perplexity", "against fp16", "KL mean", "KL p99", "same top-1", "compared with", "text"},
      {left, left, right, right, right, right, right, left, left});
  std::set<std::pair<std::string, std::string>> seen;
  for (const RecordView& v : views) {
    if (!v.quality || !seen.emplace(v.shown_model(), v.precision).second) continue;
    const QualityView& q = *v.quality;
    if (!q.error.empty()) {
      g.add({one_line(v.shown_model()), v.precision, "not measured", kNothing, kNothing, kNothing, kNothing, kNothing,
             one_line(q.text_name)});
      continue;
    }
    g.add({one_line(v.shown_model()), v.precision, perplexity(q.perplexity),
           v.precision == "fp16" ? kNothing : change(q.perplexity_ratio), divergence(q.kl_mean),
           q.kl_p99 ? format_divergence({*q.kl_p99, {}, {}}) : kNothing, share(q.same_top),
           q.reference.empty() ? kNothing : one_line(q.reference.substr(0, q.reference.find(' '))), text_of(q)});
  }
  return g;
}

bool has_quality(std::span<const RecordView> views) {
  return std::any_of(views.begin(), views.end(), [](const RecordView& v) { return v.quality.has_value(); });
}

}  // namespace

// From fp16's 1e-6 to 4bit's 0.1: four digits of whichever it is.
std::string format_divergence(const Estimate& e) {
  if (!e.low || !e.high) return fmt::format("{:.4g}", e.value);
  return fmt::format("{:.4g} ± {:.2g}", e.value, (*e.high - *e.low) / 2);
}
std::string quality_text(std::span<const RecordView> views) { return has_quality(views) ? grid(views).text() : ""; }
std::string quality_markdown(std::span<const RecordView> views) {
  return has_quality(views) ? grid(views).markdown() : "";
}

}  // namespace quantbench
