// What the programs share that take whole models on random weights (bench_decode, engine_check): names from the command
// line, what a model of any family is given, and its buffers with every op at hand.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "checkpoint/random_weights.h"
#include "engine/buffers.h"
#include "engine/session.h"
#include "model/config.h"
#include "model/model.h"

namespace quantbench {

void print(const std::string& text);

ModelConfig config_of(const std::string& model);      // a built-in configuration, or a file config.json
Precision precision_of(const std::string& name);      // "fp16", "bf16", "int8", "4bit"; error usage for any other
std::vector<int32_t> some_ids(int count, int below);  // all of them different for a while
// [tokens, values] of one of many pictures of random bytes.
std::vector<float> some_patches(const Picture& picture, uint64_t number = 0);

// Random weights whose logits say something of every layer, and of two right implementations nearly the same: what all
// layers of a stack add to its stream is a third of what they find there, so that a rounding does not grow from layer
// to layer; attention's scores have a sigma of about 2; the last norm's weights are of both signs, or a tied head would
// only give every token itself back; logits have a sigma of about 3. tools/parity_weights.py has the same table.
std::vector<RandomTensor> telling_tensors(Model& model, int outliers);

// Tokens of a prompt whose text has so many; and positions that its decoder's first new token stands behind.
int prompt_tokens(const Shape& shape, int text);
int fed_before(const Shape& shape, int text);

struct Input {
  std::vector<int32_t> ids;     // [sequences, prompt tokens]
  std::vector<float> pictures;  // of one sequence, where there are any
  operator Prompt() const { return {ids, pictures}; }
};
Input some_input(const Shape& shape, int text, uint64_t picture = 0);  // of one sequence

// A loaded model with the buffers and the recorded step of one sequence, for what Session does not show: each op called
// by itself, logits while they lie on the device.
class Runner {
 public:
  // engine: of those that the step's plan names; empty: the first. Both outlive the runner.
  Runner(Backend& backend, Model& model, const StateShape& shape, std::string_view engine = {},
         const Sampling& sampling = {});

  // Of a model with an encoder: runs it for the prompt. With cross-attention, what follows reads it; with a picture,
  // the next forward() is that of the prompt's ids.
  void encode(const Prompt& prompt);
  // Ids from `position` on in one call; the stream is left for head().
  void forward(std::span<const int32_t> ids, int position);
  void head(int first, int count) { model_.head(backend_.ops(), state_, first, count); }
  void next_token();
  void place(int32_t token, int32_t position);  // of the next step
  void step() { step_->run(); }

  const float* logits() const { return static_cast<const float*>(buffers_.decode.logits.data); }
  std::vector<float> fetch_logits(int rows);  // [rows, vocab]
  int32_t fetch_token();

 private:
  Backend& backend_;
  Model& model_;
  RunBuffers buffers_;
  std::unique_ptr<Program> step_;
  State state_;
  int prompt_ = 0, picture_rows_ = 0;  // of the last encode(); picture rows that no forward() has read yet
};

}  // namespace quantbench
