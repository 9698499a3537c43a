// For tests: the tokenizer.json files of testdata with small vocabularies, so that one can be read in microseconds.
#pragma once

#include <string>

#include "core/json.h"
#include "text/utf8.h"

namespace quantbench {

// The option-by-option form with its byte tokens and few merges, so that one round is cheap.
inline nlohmann::json small_document() {
  nlohmann::json document = read_json_file(QB_SOURCE_DIR "/testdata/tokenizers/variants/tokenizer.json");
  nlohmann::json& model = document["model"];
  nlohmann::json merges = nlohmann::json::array(), vocab = nlohmann::json::object();
  for (size_t i = 0; i < 30; ++i) merges.push_back(model["merges"][i]);
  for (const auto& [token, id] : model["vocab"].items()) {
    if (id < 256 + 30 || token == "<|endoftext|>") vocab[token] = id;
  }
  model["merges"] = merges;
  model["vocab"] = vocab;
  return document;
}

// The forms of Flan-T5 and PaliGemma with the parts that other files of their kind have, and small vocabularies.
inline nlohmann::json small_unigram() {
  nlohmann::json document = read_json_file(QB_SOURCE_DIR "/testdata/tokenizers/t5/tokenizer.json");
  nlohmann::json pieces = nlohmann::json::array();
  for (size_t i = 0; i < 80; ++i) pieces.push_back(document["model"]["vocab"][i]);
  document["model"]["vocab"] = pieces;
  document["model"]["byte_fallback"] = false;
  nlohmann::json added = nlohmann::json::array();
  for (size_t i = 0; i < 3; ++i) added.push_back(document["added_tokens"][i]);
  document["added_tokens"] = added;
  document["normalizer"] = {{"type", "Sequence"},
                            {"normalizers",
                             {document["normalizer"],
                              {{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}},
                              {{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", "▁"}},
                              {{"type", "Prepend"}, {"prepend", " "}}}}};
  return document;
}

inline nlohmann::json small_gemma() {
  nlohmann::json document = read_json_file(QB_SOURCE_DIR "/testdata/tokenizers/gemma/tokenizer.json");
  nlohmann::json& model = document["model"];
  nlohmann::json vocab = nlohmann::json::object(), merges = nlohmann::json::array();
  for (const auto& [token, id] : model["vocab"].items()) {
    if (id < 310 || utf8::step(token).bytes == static_cast<int>(token.size())) vocab[token] = id;
  }
  for (const nlohmann::json& merge : model["merges"]) {
    const std::string text = merge, left = text.substr(0, text.find(' ')), right = text.substr(text.find(' ') + 1);
    if (vocab.contains(left) && vocab.contains(right) && vocab.contains(left + right)) merges.push_back(merge);
  }
  model["vocab"] = vocab;
  model["merges"] = merges;
  document["decoder"]["decoders"].push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return document;
}

}  // namespace quantbench
