#include "engine/session.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/os.h"
#include "engine/buffers.h"

namespace quantbench {

std::string_view name_of(Phase phase) {
  switch (phase) {
    case Phase::encode: return "encode";
    case Phase::vision: return "vision";
    case Phase::prefill: return "prefill";
    case Phase::decode: return "decode";
  }
  return "?";
}

std::string_view name_of(Clock clock) { return clock == Clock::host ? "host" : "device"; }

struct Session::Parts {
  Backend& backend;
  Model& model;
  StateShape shape;
  RunBuffers buffers;
  std::vector<int32_t> positions, sequences;  // 0, 1, 2 …; all 0
  std::vector<float> looked_at;               // logits on the host, [vocab]
  std::unique_ptr<Program> step;
  Sampling step_sampling;
  std::unique_ptr<Lookout> lookout;  // made with the first generation that is watched
  bool has_stops = false;            // on the device

  Parts(Backend& b, Model& m, const StateShape& s)
      : backend(b),
        model(m),
        shape(s),
        buffers(b, m.shape(), s),
        positions(static_cast<size_t>(s.positions)),
        sequences(static_cast<size_t>(s.positions)),
        looked_at(static_cast<size_t>(m.shape().vocab)) {
    assert(s.sequences == 1 && s.logit_rows >= 1);  // generate() is for one sequence
    std::iota(positions.begin(), positions.end(), 0);
    model.make_tables(backend, shape.positions);
    record({});
  }

  // The same step as was planned for packing, now with these buffers.
  void record(const Sampling& sampling) {
    buffers.decode.sampling = sampling;
    TapeOps tape;
    model.decode(tape, buffers.decode);
    step.reset();
    step = backend.record(backend.plan(tape.tape(), shape.rows));
    step_sampling = sampling;
  }

  void check(std::span<const int32_t> ids, int new_tokens) const {
    const int count = static_cast<int>(ids.size()), most = std::min(shape.rows, shape.positions - new_tokens);
    if (ids.empty() || ids.size() > static_cast<size_t>(std::max(most, 0))) {
      fail(ErrorKind::usage,
           "the prompt has {} tokens, expected 1 to {} ({} positions in all, {} of them for new tokens); shorten the "
           "prompt or ask for fewer new tokens",
           count, most, shape.positions, new_tokens);
    }
    const int vocab = model.shape().vocab;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] >= 0 && ids[i] < vocab) continue;
      fail(ErrorKind::usage,
           "token {} of the prompt is id {}, expected one below the vocabulary's {}; the tokenizer does not belong to "
           "this model",
           i, ids[i], vocab);
    }
  }

  // All ids in one call; leaves the stream in buffers.prefill.x.
  State forward(std::span<const int32_t> ids) {
    const size_t count = ids.size();
    buffers.upload_rows(buffers.prefill.rows, ids, {positions.data(), count}, {sequences.data(), count});
    const State state = buffers.prefill.first(static_cast<int>(count));
    model.forward(backend.ops(), state);
    return state;
  }

  bool logits_are_finite() {
    backend.download(looked_at.data(), buffers.decode.logits.data, looked_at.size() * sizeof(float));
    return std::all_of(looked_at.begin(), looked_at.end(), [](float v) { return std::isfinite(v); });
  }

  void set_stops(const std::vector<int32_t>& ids) {
    if (!ids.empty() || has_stops) buffers.upload_stops(ids);
    has_stops = !ids.empty();
  }
  // With no look pending, even where the last generation was broken off.
  void open_lookout() {
    if (!lookout) lookout = backend.lookout(sizeof(int32_t), kRunAhead + 1);
    while (lookout->pending() > 0) lookout->next();
  }
};

Session::Session(Backend& backend, Model& model, const StateShape& shape) {
  if (shape.positions > model.shape().max_positions) {
    fail(ErrorKind::usage,
         "prompt and new tokens make {} positions, the model was made for at most {} (max_position_embeddings); "
         "shorten the prompt or ask for fewer new tokens",
         shape.positions, model.shape().max_positions);
  }
  parts_ = std::make_unique<Parts>(backend, model, shape);
}
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;

Run Session::generate(std::span<const int32_t> ids, const GenerateOptions& options) {
  Parts& p = *parts_;
  if (options.max_new_tokens < 1) {
    fail(ErrorKind::usage, "{} new tokens were asked for, expected at least 1", options.max_new_tokens);
  }
  p.check(ids, options.max_new_tokens);
  const Sampling& sampling = options.sampling;
  if (sampling != p.step_sampling) p.record(sampling);
  p.set_stops(options.stop_at);

  Run run;
  run.prompt_tokens = static_cast<int>(ids.size());
  run.spans.reserve(static_cast<size_t>(options.max_new_tokens));
  run.tokens.reserve(static_cast<size_t>(options.max_new_tokens));
  const bool is_watched = options.on_token || !options.stop_at.empty();
  if (is_watched) p.open_lookout();

  p.backend.synchronize();
  int64_t zero_ns = os::steady_now_ns();
  const auto now_ns = [&zero_ns] { return os::steady_now_ns() - zero_ns; };
  const int32_t last_position = run.prompt_tokens - 1, sequence = 0, unset = 0;
  p.buffers.upload_rows(p.buffers.decode.rows, {&unset, 1}, {&last_position, 1}, {&sequence, 1});
  const State prompt = p.forward(ids);
  p.model.head(p.backend.ops(), prompt, last_position, 1);
  p.backend.ops().next_token(p.buffers.decode.next_token(prompt.logits.slice(0, 1)));
  p.backend.synchronize();
  int64_t last_ns = now_ns();
  run.spans.push_back({Phase::prefill, Clock::host, 0, last_ns});

  const int64_t before_look_ns = now_ns();
  run.finite = p.logits_are_finite();
  zero_ns += now_ns() - before_look_ns;

  const int32_t* const new_tokens = prompt.history + run.prompt_tokens;
  const auto end_step = [&] {
    const int64_t end_ns = now_ns();
    run.spans.push_back({Phase::decode, Clock::host, last_ns, end_ns});
    last_ns = end_ns;
  };
  bool stop = false;
  // Asks for a look at the token made last and takes those that have come, up to the one that ends the sequence; waits
  // for all but the last `behind`. A step ends when its token is seen.
  const auto watch = [&](int made, int behind) {
    p.lookout->look(new_tokens + made - 1, sizeof(int32_t));
    while (!stop && (p.lookout->pending() > behind || p.lookout->has_next())) {
      const int32_t token = *static_cast<const int32_t*>(p.lookout->next());
      if (!run.tokens.empty()) end_step();
      run.tokens.push_back(token);
      stop = std::find(options.stop_at.begin(), options.stop_at.end(), token) != options.stop_at.end();
      if (options.on_token) options.on_token(token);
    }
  };
  if (is_watched) watch(1, 0);
  for (int made = 2; made <= options.max_new_tokens && !stop; ++made) {
    p.step->run();
    if (is_watched)
      watch(made, made == options.max_new_tokens ? 0 : kRunAhead);
    else
      end_step();
  }
  if (!is_watched) {
    p.backend.synchronize();
    // Where steps are only asked for (a GPU), the last one is done now and not when it was asked for.
    if (run.spans.back().phase == Phase::decode) run.spans.back().end_ns = now_ns();
    run.tokens.resize(static_cast<size_t>(options.max_new_tokens));
    p.backend.download(run.tokens.data(), new_tokens, run.tokens.size() * sizeof(int32_t));
  }
  run.total_ns = now_ns();
  run.finite = p.logits_are_finite() && run.finite;
  return run;
}

std::vector<float> Session::logits(std::span<const int32_t> ids, bool step_by_step) {
  Parts& p = *parts_;
  p.check(ids, 0);
  const size_t vocab = p.looked_at.size();
  std::vector<float> out(ids.size() * vocab);
  if (step_by_step) {
    for (size_t i = 0; i < ids.size(); ++i) {
      p.buffers.upload_rows(p.buffers.decode.rows, ids.subspan(i, 1), {&p.positions[i], 1}, {p.sequences.data(), 1});
      p.step->run();
      p.backend.synchronize();
      p.backend.download(out.data() + i * vocab, p.buffers.decode.logits.data, vocab * sizeof(float));
    }
    return out;
  }
  const State state = p.forward(ids);
  for (int first = 0; first < state.rows.count; first += p.shape.logit_rows) {
    const int count = std::min(p.shape.logit_rows, state.rows.count - first);
    p.model.head(p.backend.ops(), state, first, count);
    p.backend.synchronize();
    p.backend.download(out.data() + static_cast<size_t>(first) * vocab, state.logits.data,
                       static_cast<size_t>(count) * vocab * sizeof(float));
  }
  return out;
}

}  // namespace quantbench
