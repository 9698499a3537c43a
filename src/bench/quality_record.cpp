#include "bench/quality_record.h"

#include <cassert>
#include <cmath>
#include <numeric>

#include "bench/statistics.h"
#include "bench/whole_number.h"

namespace quantbench {
namespace {

Estimate exp_of(const Estimate& e) {
  Estimate result{std::exp(e.value), e.low, e.high};
  for (std::optional<double>* bound : {&result.low, &result.high}) {
    if (*bound) *bound = std::exp(**bound);
  }
  return result;
}

Record part_of(const std::optional<Estimate>& e) {
  if (!e) return nullptr;
  return {{"value", e->value}, {"low", or_null(e->low)}, {"high", or_null(e->high)}};
}
std::optional<double> number_from(const Record& j) {
  return j.is_null() ? std::nullopt : std::optional(j.get<double>());
}
std::optional<Estimate> estimate_from(const Record& j) {
  if (j.is_null()) return std::nullopt;
  return Estimate{j.at("value"), number_from(j.at("low")), number_from(j.at("high"))};
}
std::string text_from(const Record& j) { return j.is_null() ? std::string() : j.get<std::string>(); }

}  // namespace

Estimate per_token(std::span<const double> sums, std::span<const int> tokens, uint64_t seed) {
  assert(!sums.empty() && sums.size() == tokens.size());
  const double all_tokens = std::accumulate(tokens.begin(), tokens.end(), 0.0);
  Estimate e{std::accumulate(sums.begin(), sums.end(), 0.0) / all_tokens, {}, {}};
  if (sums.size() < kLeastTexts) return e;
  std::vector<double> of_texts(sums.size());
  const double mean_tokens = all_tokens / static_cast<double>(sums.size());
  for (size_t i = 0; i < sums.size(); ++i) of_texts[i] = e.value + (sums[i] - e.value * tokens[i]) / mean_tokens;
  const Interval interval = bca_mean(of_texts, seed);
  e.low = interval.low;
  e.high = interval.high;
  return e;
}

QualityView view_of(const QualityData& data, uint64_t seed) {
  QualityView view{.error = data.error,
                   .text_kind = std::string(name_of(data.text.kind)),
                   .text_name = data.text.name,
                   .reference = data.reference};
  if (!data.error.empty()) return view;
  std::vector<int> tokens;
  std::vector<double> nll, more_nll, kl, same_top;
  for (const TextScore& t : data.scores.texts) {
    tokens.push_back(t.tokens);
    nll.push_back(t.nll);
    more_nll.push_back(t.nll - t.reference_nll);
    kl.push_back(t.kl);
    same_top.push_back(t.same_top);
  }
  view.texts = static_cast<int>(tokens.size());
  view.tokens = std::accumulate(tokens.begin(), tokens.end(), 0);
  if (view.tokens == 0) return view;
  const bool compared = !data.reference.empty();
  if (data.text.has_perplexity()) {
    view.perplexity = exp_of(per_token(nll, tokens, seed));
    if (compared) view.perplexity_ratio = exp_of(per_token(more_nll, tokens, seed));
  }
  if (!compared) return view;
  view.kl_mean = per_token(kl, tokens, seed);
  view.same_top = per_token(same_top, tokens, seed);
  view.kl_p99 = data.scores.kl_p99;
  return view;
}

Record quality_part(const QualityData& data, uint64_t seed) {
  const QualityView view = view_of(data, seed);
  const QualityText& text = data.text;
  Record tokens = Record::array(), nll = Record::array(), kl = Record::array(), same_top = Record::array();
  for (const TextScore& t : data.scores.texts) {
    tokens.push_back(t.tokens);
    nll.push_back(t.nll);
    kl.push_back(t.kl);
    same_top.push_back(t.same_top);
  }
  const bool compared = !data.reference.empty();
  return {{"text",
           {{"kind", view.text_kind},
            {"name", text.name},
            {"sha256", text.sha256},
            {"bytes", text.bytes},
            {"tokens", text.tokens},
            {"window", text.window > 0 ? Record(text.window) : Record(nullptr)},
            {"stride", text.window > 0 ? Record(text.window) : Record(nullptr)},
            {"begins_with_bos", text.begins_with_bos},
            {"texts", view.texts},
            {"scored_tokens", view.tokens}}},
          {"reference", text_or_null(data.reference)},
          {"no_reference", compared ? Record(nullptr) : text_or_null(data.no_reference)},
          {"error", text_or_null(data.error)},
          {"error_kind", data.error.empty() ? Record(nullptr) : Record(name_of(data.kind))},
          {"interval", "BCa bootstrap of the mean over texts, 95 %"},
          {"perplexity", part_of(view.perplexity)},
          {"perplexity_ratio", part_of(view.perplexity_ratio)},
          {"kl_mean", part_of(view.kl_mean)},
          {"kl_p99", or_null(view.kl_p99)},
          {"same_top", part_of(view.same_top)},
          {"samples",
           {{"tokens", tokens},
            {"nll", text.has_perplexity() ? nll : Record(nullptr)},
            {"kl", compared ? kl : Record(nullptr)},
            {"same_top", compared ? same_top : Record(nullptr)}}},
          {"answer", text.kind == TextKind::own_answer ? Record(data.answer) : Record(nullptr)}};
}

QualityView quality_view_of(const Record& part) {
  const Record& text = part.at("text");
  return {.error = text_from(part.at("error")),
          .text_kind = text.at("kind"),
          .text_name = text.at("name"),
          .texts = whole_number<int>(text.at("texts")),
          .tokens = whole_number<int>(text.at("scored_tokens")),
          .reference = text_from(part.at("reference")),
          .perplexity = estimate_from(part.at("perplexity")),
          .perplexity_ratio = estimate_from(part.at("perplexity_ratio")),
          .kl_mean = estimate_from(part.at("kl_mean")),
          .same_top = estimate_from(part.at("same_top")),
          .kl_p99 = number_from(part.at("kl_p99"))};
}

}  // namespace quantbench
