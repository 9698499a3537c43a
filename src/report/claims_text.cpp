// What claims came to, for people and for programs.
#include <fmt/format.h>

#include "report/claims.h"
#include "report/format.h"

namespace quantbench {

std::string_view name_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::supported: return "supported";
    case Verdict::refuted: return "refuted";
    case Verdict::undecided: return "undecided";
  }
  return "?";
}

std::string claims_text(std::span<const ClaimResult> results) {
  std::string text;
  for (const ClaimResult& r : results) {
    text += fmt::format("{}: {} ({})\n", r.says, name_of(r.verdict), r.reason);
    for (const ClaimCase& c : r.cases)
      text += fmt::format("  {:<9}  {}: {}\n", name_of(c.verdict), c.where, c.evidence);
  }
  return text;
}

std::string claims_markdown(std::span<const ClaimResult> results) {
  using enum Grid::Align;
  Grid summary({"claim", "verdict", "cases"}, {left, left, left});
  Grid cases({"claim", "where", "verdict", "evidence"}, {left, left, left, left});
  for (const ClaimResult& r : results) {
    summary.add({r.says, std::string(name_of(r.verdict)), r.reason});
    for (const ClaimCase& c : r.cases) cases.add({r.id, c.where, std::string(name_of(c.verdict)), c.evidence});
  }
  return summary.markdown() + "\n" + cases.markdown();
}

Record claims_json(std::span<const ClaimResult> results) {
  Record all = Record::array();
  for (const ClaimResult& r : results) {
    Record cases = Record::array();
    for (const ClaimCase& c : r.cases)
      cases.push_back({{"where", c.where}, {"verdict", name_of(c.verdict)}, {"evidence", c.evidence}});
    all.push_back(
        {{"id", r.id}, {"says", r.says}, {"verdict", name_of(r.verdict)}, {"reason", r.reason}, {"cases", cases}});
  }
  return {{"schema", "quantbench.claims"}, {"schema_version", 1}, {"claims", all}};
}

}  // namespace quantbench
