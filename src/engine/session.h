// A loaded model ready to run: owns buffers and cache, generates, and gives teacher-forced logits.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "engine/engine_choice.h"
#include "model/model.h"

namespace quantbench {

enum class Phase : uint8_t { encode, vision, prefill, decode };
enum class Clock : uint8_t { host, device };
std::string_view name_of(Phase phase);
std::string_view name_of(Clock clock);

struct Span {
  Phase phase;
  Clock clock;
  int64_t start_ns, end_ns;  // relative to the start of the run
};

struct Run {  // one generation, of all sequences side by side
  // Encode or vision where there is an encoder, prefill (up to and with the first tokens), then one a further token;
  // see generate(). Where the prompts of a batch are several calls, those with a picture have a vision and a prefill
  // each. First all by the host's clock; then, of a device with a clock of its own, all by that, its steps one by one.
  std::vector<Span> spans;
  std::vector<int32_t> tokens;  // [sequences, new tokens] the new ones
  int prompt_tokens = 0;        // of each sequence
  int64_t total_ns = 0;         // host steady clock, ids in to last id on the host
  bool finite = true;           // the logits of the first and the last step; looking at them is not timed
  int sequences = 1;
  int context_tokens = 0;  // of each sequence, in the cache before the prompt

  int new_tokens() const { return static_cast<int>(tokens.size()) / sequences; }  // of each sequence
};

constexpr int kRunAhead = 8;  // steps that a device may be ahead of the host's eyes
struct GenerateOptions {
  int max_new_tokens = 64;
  Sampling sampling;
  // Of one sequence only, since those of several would end at different steps:
  std::vector<int32_t> stop_at;  // end-of-sequence ids; empty: exactly max_new_tokens
  // For printing as it comes, the token that ends the sequence included. With this or stop_at, tokens are looked at
  // while the device works on up to kRunAhead steps behind them; what it makes behind the end is dropped.
  std::function<void(int32_t token)> on_token = {};
};

// Rows of one call: a context is computed so many tokens at a time, and of several sequences so many prompts together
// as are no more rows than that. What a call takes grows with its rows (60 to 70 KB a row in models of 1 to 3 B), while
// a byte of fp16 weights is already good for as many operations as there are rows, far more than any device wants.
constexpr int kContextRows = 512, kPromptRows = 2048;

// What a session wants for sequences of `context` tokens, then a prompt, then new tokens; each count of one sequence.
// The first of a decoder alone; the other of any model: the prompt of one with cross-attention goes into its encoder.
StateShape session_shape(int sequences, int context, int prompt, int new_tokens);
StateShape session_shape(const Shape& model, int sequences, int context, int prompt, int new_tokens);

struct Prompt {
  Prompt(std::span<const int32_t> of_ids, std::span<const float> of_pictures = {})
      : ids(of_ids), pictures(of_pictures) {}
  Prompt(const std::vector<int32_t>& of_ids) : ids(of_ids) {}

  std::span<const int32_t> ids;     // [sequences, n]; before a text, Picture::tokens() times the token of a picture
  std::span<const float> pictures;  // [sequences, tokens, values] the patches (image/pixels.h), or empty
};

class Session {
 public:
  // `model` is loaded and was planned for `backend`; both outlive the session. Takes all memory that generating needs:
  // nothing is allocated after, but for some of the host's where tokens are looked at. The backend's workspace and the
  // model's RoPE tables are cut for the session made last: one made before it on the same backend must not run again.
  // shape: rows and logit_rows at least `sequences`. engine: of those that the step's plan names; empty: the first.
  // Error usage where more positions are fed than the model was made for: all of `positions` but the last.
  Session(Backend& backend, Model& model, const StateShape& shape, std::string_view engine = {});
  ~Session();
  Session(Session&&) noexcept;

  // Where no engine was given and the plan names several: has each of them run steps in turn, behind the context, keeps
  // the fastest and gives the memory of the others back. What later runs read, they write before. shape: at least two
  // positions. Error device where none runs.
  EngineChoice test_engines();

  // Of the recorded step (Program::tuning).
  std::string tuning() const;

  // Puts ids [sequences, n] into the cache, whose keys and values stay: what follows begins behind them, at position n,
  // however often it is repeated. No ids: begin at 0 again. A sequence's ids are computed kContextRows at a time and
  // alone, so that they are the same whatever stands beside them. Error usage as for generate().
  void fill_context(std::span<const int32_t> ids);

  // prompt: of one length, 1 … min(rows, positions − context − max_new_tokens) tokens each, every id below vocab; of an
  // encoder 1 … encoder_positions. Error usage with the figures otherwise. As many whole prompts as fit into `rows` (or
  // encoder_rows) are one call of forward: LLM.int8's more-than-one-row rule sees them together. On a GPU the decode
  // steps are one span, unless each is looked at.
  Run generate(const Prompt& prompt, const GenerateOptions& options);

  // Teacher-forced logits [sequences, n, vocab] in fp32 of ids [sequences, n]: calls of forward as for generate() (the
  // more-than-one-row rule of LLM.int8 applies), or one id of each sequence a step through the recorded program (the
  // one-row rule, where there is one sequence).
  std::vector<float> logits(std::span<const int32_t> ids, bool step_by_step);
  // Of a model with an encoder and one sequence: teacher-forced logits behind a prompt, of a call of all ids (at most
  // `rows`) or one a step; the prompt is a call of its own. With
  // cross-attention ids are the decoder's, from its start token on, and the result is [n, vocab]; with a picture they
  // follow the prompt, whose last token's logits come first: [n + 1, vocab].
  std::vector<float> logits(const Prompt& prompt, std::span<const int32_t> ids, bool step_by_step);

  // The same a few rows at a time, for texts whose logits are more than memory should hold; of one sequence. force()
  // runs ids (at most `rows`) as one call from position 0 on, behind the prompt of a model with an encoder, which is a
  // call of its own; of a decoder alone the prompt has no ids. Rows are numbered as those of logits(): with a picture
  // row 0 is that of the prompt's last token. Error usage as there.
  void force(const Prompt& prompt, std::span<const int32_t> ids);
  // Of what was forced last: logits [count, vocab] of rows from `first` on, in fp32. out: count · vocab.
  void forced_logits(int first, int count, std::span<float> out);

  // For looking into a step (step_times.h): its ops with this session's buffers, the kernels that the recorded one
  // launches (Program::launches), and rows for what runs next: the id of each sequence, all at one position. Behind a
  // generation, what it left in the cache stays.
  Tape step_ops() const;
  std::optional<int> launches() const;
  void place(int position, std::span<const int32_t> ids);
  bool prompt_is_encoded() const;  // so that it takes no position of the decoder

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace quantbench
