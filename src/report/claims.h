// Conclusions as hypotheses, tested on records (docs/claims.md). Claims are data: src/report/claims.json, or a file of
// the same form.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bench/record.h"

namespace quantbench {

enum class Verdict : uint8_t { supported, refuted, undecided };
std::string_view name_of(Verdict verdict);

// What one model on one device (of `families`: one device) says of a claim.
struct ClaimCase {
  std::string where;
  Verdict verdict = Verdict::undecided;
  std::string evidence;  // the cells that decide, with their numbers; or why they do not
};
// A claim is of every case: one that refutes refutes it; it is supported where all cases that there are support it.
struct ClaimResult {
  std::string id, says;
  Verdict verdict = Verdict::undecided;
  std::string reason;  // "refuted in 5 of 12, supported in 7"
  std::vector<ClaimCase> cases;
};

// The claims that come with the program, as their file has them.
std::string_view own_claims();
// `claims`: the text of a file of claims, which errors name as `where`. Error usage for one that is not of that form.
std::vector<ClaimResult> test_claims(std::span<const Record> records, std::string_view claims,
                                     const std::string& where);

std::string claims_text(std::span<const ClaimResult> results);
std::string claims_markdown(std::span<const ClaimResult> results);
Record claims_json(std::span<const ClaimResult> results);

}  // namespace quantbench
