// How good a model is on a text: what is asked of a worker, what it answers, and what a cell keeps. Plain data.
// docs/method.md says which texts these are and what is made of the figures.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/cell.h"
#include "core/error.h"
#include "core/json.h"

namespace quantbench {

// What goes through a model in one call, and which of its rows are looked at: row first_row + i says how likely
// targets[i] was. Rows are numbered as by Session::force.
struct ForcedText {
  std::vector<int32_t> prompt;  // of a model with an encoder
  std::vector<int32_t> ids;
  int first_row = 0;
  std::vector<int32_t> targets;
};

enum class TextKind : uint8_t {
  file,        // that the user named
  built_in,    // that comes with the program
  seeded_ids,  // random weights without a tokenizer: no text, so that only the distance from FP16 says something
  own_answer,  // what FP16 itself says, greedily, to the cell's prompt and picture
};
std::string_view name_of(TextKind kind);  // "file", "built-in", "seeded ids", "own answer"

struct QualityText {
  TextKind kind = TextKind::file;
  std::string name;    // the file, as it was given, or what it is
  std::string sha256;  // of its bytes; of the ids, little-endian int32, where there are no bytes
  int64_t bytes = 0;   // 0 where there are none
  int64_t tokens = 0;  // of all of it, scored or not; of an answer 0, since it is not known yet
  int window = 0;      // tokens of a call and from one to the next; 0: each text is a line or an answer of its own
  bool begins_with_bos = false;  // each window
  std::vector<ForcedText> texts;
  int answer_tokens = 0;  // own_answer: at the most; texts has one, with a prompt alone
  // Whether the likelihood of these targets says something of the model: of its own answer, or of ids that were drawn,
  // it does not.
  bool has_perplexity() const { return kind == TextKind::file || kind == TextKind::built_in; }
};

// Several models of one vocabulary, resident in one process and compared text by text.
struct QualityRequest {
  std::vector<Cell> models;     // source, precision, picture and engine count; the test does not
  std::vector<int> references;  // of each model: which of them it is compared with, −1: none
  std::vector<ForcedText> texts;
  int answer_tokens = 0;  // more than 0: the text's ids and targets are what model `answers` says to its prompt
  int answers = 0;
};

// Sums over the rows of one text.
struct TextScore {
  int tokens = 0;
  double nll = 0;  // −ln of the targets' probabilities
  double kl = 0;   // KL(reference ‖ model), nats; 0 without a reference
  double reference_nll = 0;
  int same_top = 0;  // rows whose likeliest id is the reference's
};
struct ModelScores {
  std::vector<TextScore> texts;
  std::optional<double> kl_p99;  // over tokens; nothing with too few of them (299), or without a reference
};
struct QualityReport {
  std::vector<ModelScores> models;
  std::vector<int32_t> answer;  // of own_answer
};

// Of a cell.
struct QualityData {
  std::string error;  // why it was not measured; empty: it was
  ErrorKind kind = ErrorKind::internal;
  QualityText text;          // without its texts
  std::string reference;     // what it is compared with; empty: nothing
  std::string no_reference;  // why
  ModelScores scores;
  std::vector<int32_t> answer;
};

namespace protocol {
nlohmann::json to_json(const QualityRequest& request);
QualityRequest quality_request_from(const nlohmann::json& j);
nlohmann::json to_json(const QualityReport& report);
QualityReport quality_report_from(const nlohmann::json& j);
}  // namespace protocol
}  // namespace quantbench
