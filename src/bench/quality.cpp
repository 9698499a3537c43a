#include "bench/quality.h"

#include "bench/protocol.h"

namespace quantbench {

std::string_view name_of(TextKind kind) {
  switch (kind) {
    case TextKind::file: return "file";
    case TextKind::built_in: return "built-in";
    case TextKind::seeded_ids: return "seeded ids";
    case TextKind::own_answer: return "own answer";
  }
  return "?";
}

namespace protocol {

json to_json(const QualityRequest& r) {
  json models = json::array(), texts = json::array();
  for (const Cell& cell : r.models) models.push_back(to_json(cell));
  for (const ForcedText& t : r.texts) texts.push_back({t.prompt, t.ids, t.first_row, t.targets});
  return {{"models", models},
          {"references", r.references},
          {"texts", texts},
          {"answer_tokens", r.answer_tokens},
          {"answers", r.answers}};
}

QualityRequest quality_request_from(const json& j) {
  QualityRequest r;
  for (const json& cell : j.at("models")) r.models.push_back(cell_from(cell));
  r.references = j.at("references").get<std::vector<int>>();
  for (const json& t : j.at("texts")) {
    r.texts.push_back({t.at(0).get<std::vector<int32_t>>(), t.at(1).get<std::vector<int32_t>>(), t.at(2).get<int>(),
                       t.at(3).get<std::vector<int32_t>>()});
  }
  r.answer_tokens = j.at("answer_tokens");
  r.answers = j.at("answers");
  return r;
}

json to_json(const QualityReport& r) {
  json models = json::array();
  for (const ModelScores& m : r.models) {
    json texts = json::array();
    for (const TextScore& t : m.texts) texts.push_back({t.tokens, t.nll, t.kl, t.reference_nll, t.same_top});
    models.push_back({{"texts", texts}, {"kl_p99", m.kl_p99 ? json(*m.kl_p99) : json(nullptr)}});
  }
  return {{"models", models}, {"answer", r.answer}};
}

QualityReport quality_report_from(const json& j) {
  QualityReport r;
  for (const json& m : j.at("models")) {
    ModelScores scores;
    for (const json& t : m.at("texts")) {
      scores.texts.push_back({t.at(0).get<int>(), t.at(1).get<double>(), t.at(2).get<double>(), t.at(3).get<double>(),
                              t.at(4).get<int>()});
    }
    if (const json& p99 = m.at("kl_p99"); !p99.is_null()) scores.kl_p99 = p99.get<double>();
    r.models.push_back(std::move(scores));
  }
  r.answer = j.at("answer").get<std::vector<int32_t>>();
  return r;
}

}  // namespace protocol
}  // namespace quantbench
