// A loaded model ready to run: owns buffers and cache, generates, and gives teacher-forced logits.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
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

struct Run {                    // one generation
  std::vector<Span> spans;      // prefill (up to and with the first token), then one a further token
  std::vector<int32_t> tokens;  // the new ones
  int prompt_tokens = 0;
  int64_t total_ns = 0;  // host steady clock, ids in to last id on the host
  bool finite = true;    // the logits of the first and the last step; looking at them is not timed
};

constexpr int kRunAhead = 8;  // steps that a device may be ahead of the host's eyes
struct GenerateOptions {
  int max_new_tokens = 64;
  Sampling sampling;
  std::vector<int32_t> stop_at;  // end-of-sequence ids; empty: exactly max_new_tokens
  // For printing as it comes, the token that ends the sequence included. With this or stop_at, tokens are looked at
  // while the device works on up to kRunAhead steps behind them; what it makes behind the end is dropped.
  std::function<void(int32_t token)> on_token = {};
};

class Session {
 public:
  // `model` is loaded and was planned for `backend`; both outlive the session. Takes all memory that generating needs:
  // nothing is allocated after, but for some of the host's where tokens are looked at. The backend's workspace and the
  // model's RoPE tables are cut for the session made last: one made before it on the same backend must not run again.
  // Error usage for more positions than the model was made for.
  Session(Backend& backend, Model& model, const StateShape& shape);
  ~Session();
  Session(Session&&) noexcept;

  // ids: 1 … min(rows, positions − max_new_tokens) of them, each below vocab. Error usage with the figures otherwise.
  // Prefill is one call of forward over all ids, so that LLM.int8's more-than-one-row rule sees the whole prompt.
  Run generate(std::span<const int32_t> ids, const GenerateOptions& options);

  // Teacher-forced logits [ids, vocab] in fp32: all ids in one call of forward (the more-than-one-row rule of LLM.int8
  // applies), or one id a step through the recorded program (the one-row rule).
  std::vector<float> logits(std::span<const int32_t> ids, bool step_by_step);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace quantbench
