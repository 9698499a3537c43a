// Reports of a sweep, from records alone.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "bench/record.h"

namespace quantbench {

// The metric that a test is judged by: tokens per second, of prefill where there is nothing else.
std::string_view headline_metric(const RecordView& view);

std::string table_text(std::span<const RecordView> views);
std::string table_markdown(std::span<const RecordView> views);
// How good each precision of a model is, where that was measured; else empty.
std::string quality_text(std::span<const RecordView> views);
std::string quality_markdown(std::span<const RecordView> views);
std::string format_divergence(const Estimate& e);  // in nats: "0.1182 ± 0.007"
// Why cells are flagged, invalid or failed; empty if none is.
std::vector<std::string> notes(std::span<const RecordView> views);
// What decoding and resizing a cell's picture took, each by itself, a line a cell that had one.
std::vector<std::string> picture_notes(std::span<const RecordView> views);
// How a cell's memory at the end agrees with what others count of it, a line a cell and device; a difference is never
// hidden.
std::vector<std::string> memory_notes(std::span<const RecordView> views);
// The generated text of each precision; in Markdown as code, whatever is in it.
std::string responses_text(std::span<const RecordView> views);
std::string responses_markdown(std::span<const RecordView> views);

// Fastest, smallest, most exact, and which precision beats another in everything, for each model and test with more
// than one precision; halves of an A/A run are left to noise_floor(). Claims are those of bench/comparison.h, adjusted
// over all of them; else "undecided", or "the same".
std::vector<std::string> verdict(std::span<const RecordView> views);

// Of more cells verdicts are left out: nobody reads so many, and what is compared grows with them.
constexpr size_t kMostVerdictCells = 1000;

// What the two halves of each cell of an A/A run differ by, and what threshold a comparison here can have; empty where
// there are no halves.
std::vector<std::string> noise_floor(std::span<const RecordView> views);

// Why each cell's decode steps are as fast as they are, in words, with fp16 as what others are held against; for each
// model and test a title, then sentences. Empty where no cell has decode steps.
std::vector<std::string> explanations(std::span<const RecordView> views);

// All of this, one after another, as `run` prints it; in Markdown or for a terminal. explained: with explanations(). Of
// more than kMostVerdictCells without verdict and noise floor.
std::string whole_text(std::span<const RecordView> views, bool markdown, bool explained = false);

// Why a cell cannot be compared with others; empty if it can.
std::string obstacle(const RecordView& view);

enum class CsvSchema { own, predecessor, predecessor_full };
std::string csv(std::span<const RecordView> views, CsvSchema schema);

}  // namespace quantbench
