// What a cell's scores come to, as a record holds it and reports read it back.
#pragma once

#include <cstdint>
#include <span>

#include "bench/quality.h"
#include "bench/record.h"
#include "bench/summary.h"

namespace quantbench {

// Fewer texts than this have no interval: resamples of so few say little of what other texts would have given.
constexpr size_t kLeastTexts = 6;

// A figure per token of some texts, Σ sums / Σ tokens, with the 95 % BCa interval over texts: those of one text are not
// independent. Where texts differ in length it is that of the linearised ratio (Cochran, Sampling Techniques, 6.3).
Estimate per_token(std::span<const double> sums, std::span<const int> tokens, uint64_t seed);

QualityView view_of(const QualityData& data, uint64_t seed);
Record quality_part(const QualityData& data, uint64_t seed);
QualityView quality_view_of(const Record& part);  // of quality_part()

}  // namespace quantbench
