#include "engine/session.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "core/error.h"
#include "core/os.h"
#include "engine/buffers.h"
#include "engine/device_phases.h"

namespace quantbench {

StateShape session_shape(int sequences, int context, int prompt, int new_tokens) {
  const int together = std::clamp(kPromptRows / std::max(prompt, 1), 1, sequences);
  return {.rows = std::max({together * prompt, std::min(context, kContextRows), sequences}),
          .logit_rows = sequences,
          .sequences = sequences,
          .positions = context + prompt + new_tokens};
}

StateShape session_shape(const Shape& model, int sequences, int context, int prompt, int new_tokens) {
  if (!model.encoder) return session_shape(sequences, context, prompt, new_tokens);
  const int length = model.has_picture() ? model.encoder->picture->tokens() : prompt;
  const int together = std::clamp(kPromptRows / std::max(prompt, 1), 1, sequences);
  StateShape shape = session_shape(sequences, context, model.has_picture() ? prompt : 1, new_tokens);
  shape.encoder_rows = together * length;
  shape.encoder_positions = length;
  return shape;
}

struct Session::Parts {
  // Tokens of some sequences that one call of forward takes.
  struct Piece {
    int first_sequence, sequences, first_token, tokens;
    int lead = 0;  // the first tokens of each stand for a picture; their rows come before all others
    int rows() const { return sequences * tokens; }
    struct Place {
      size_t sequence, token;  // counted from the first of each
    };
    // All but the last of each sequence in their order, so that rows with the same keys lie together; then the last of
    // each, so that the head takes those alone.
    Place place_of(size_t row) const {
      const size_t of_picture = static_cast<size_t>(lead), count = static_cast<size_t>(sequences),
                   last = static_cast<size_t>(tokens) - 1, each = last - of_picture;
      if (row < count * of_picture) return {row / of_picture, row % of_picture};
      row -= count * of_picture;
      return row < count * each ? Place{row / each, of_picture + row % each} : Place{row - count * each, last};
    }
  };

  Backend& backend;
  Model& model;
  StateShape shape;
  RunBuffers buffers;
  std::vector<int32_t> token, position, sequence;  // of each row of a call, on their way to the device
  std::vector<int32_t> sees;                       // likewise, of models with an encoder: positions that it sees
  std::vector<float> looked_at;                    // logits on the host, [sequences, vocab]
  std::vector<int32_t> history;                    // on the host, [sequences, positions]
  std::string engine;                              // empty: the first of the plan's
  std::unique_ptr<Program> step;
  Sampling step_sampling;
  std::unique_ptr<Lookout> lookout;    // made with the first generation that is watched
  std::unique_ptr<Timeline> timeline;  // null where the host's clock is the device's
  bool has_stops = false;              // on the device
  int context_tokens = 0;
  State forced;                 // of force()
  std::vector<float> in_front;  // logits [1, vocab] of a row before those of `forced`; or empty

  Parts(Backend& b, Model& m, const StateShape& s, std::string_view of_engine)
      : backend(b),
        model(m),
        shape(s),
        buffers(b, m.shape(), s),
        token(static_cast<size_t>(std::max(s.rows, s.encoder_rows))),
        position(token.size()),
        sequence(token.size()),
        sees(token.size()),
        looked_at(static_cast<size_t>(s.sequences) * static_cast<size_t>(m.shape().vocab)),
        history(static_cast<size_t>(s.sequences) * static_cast<size_t>(s.positions)),
        engine(of_engine) {
    assert(s.sequences >= 1 && s.rows >= s.sequences && s.logit_rows >= s.sequences);
    model.make_tables(backend, shape.positions);
    record({});
    timeline = backend.timeline();
  }

  // The same step as was planned for packing, now with these buffers.
  Plan plan_step(const Sampling& sampling) {
    buffers.decode.sampling = sampling;
    TapeOps tape;
    model.decode(tape, buffers.decode);
    TapeOps before;
    if (model.shape().encoder) model.encode(before, buffers.prefill);
    Plan plan = backend.plan(tape.tape(), shape.rows, before.tape());
    if (!engine.empty()) plan.keep(engine);
    return plan;
  }
  void record(const Sampling& sampling) {
    step.reset();
    step = backend.record(plan_step(sampling));
    step_sampling = sampling;
  }

  // Tokens of each sequence in ids [sequences, n]. what: "prompt" or "context"; most: tokens that there is room for.
  int length_of(std::span<const int32_t> ids, const char* what, int most, int new_tokens) const {
    const size_t sequences = static_cast<size_t>(shape.sequences), count = ids.size() / sequences;
    if (ids.size() % sequences != 0) {
      fail(ErrorKind::usage, "{} ids cannot be {}s of one length for {} sequences; give each sequence as many",
           ids.size(), what, sequences);
    }
    if (count == 0 || count > static_cast<size_t>(std::max(most, 0))) {
      fail(ErrorKind::usage,
           "the {} has {} tokens, expected 1 to {} ({} positions in all, {} of them for new tokens{}); shorten the "
           "{} or ask for fewer new tokens",
           what, count, most, shape.positions, new_tokens,
           context_tokens > 0 ? fmt::format(", {} taken by the context", context_tokens) : "", what);
    }
    const int vocab = model.shape().vocab;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] >= 0 && ids[i] < vocab) continue;
      fail(ErrorKind::usage,
           "token {} of the {} is id {}, expected one below the vocabulary's {}; the tokenizer does not belong to "
           "this model",
           i % count, what, ids[i], vocab);
    }
    return static_cast<int>(count);
  }
  int prompt_length(const Prompt& prompt, int new_tokens) const {
    if (model.shape().has_cross_attention())
      return length_of(prompt.ids, "prompt", shape.encoder_positions, new_tokens);
    const int length = length_of(prompt.ids, "prompt",
                                 std::min(shape.rows, shape.positions - context_tokens - new_tokens), new_tokens);
    if (model.shape().has_picture()) check_pictures(prompt, length);
    return length;
  }
  void check_pictures(const Prompt& prompt, int length) const {
    const Picture& picture = *model.shape().encoder->picture;
    const auto sequences = static_cast<size_t>(shape.sequences), tokens = static_cast<size_t>(length),
               patches = static_cast<size_t>(picture.tokens());
    for (size_t s = 0; s < sequences; ++s) {
      const auto ids = prompt.ids.subspan(s * tokens, tokens);
      const auto found = static_cast<size_t>(std::count(ids.begin(), ids.end(), picture.token));
      const auto text = std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return id != picture.token; });
      if (found == patches && static_cast<size_t>(text - ids.begin()) == patches && tokens > patches) continue;
      fail(ErrorKind::usage,
           "the prompt has {} tokens of a picture (id {}), {} of them before its text of {}; expected {} before a text "
           "of "
           "at least one token, one for each patch of a picture of {} x {} pixels",
           found, picture.token, text - ids.begin(), tokens - found, patches, picture.size, picture.size);
    }
    const size_t values = sequences * patches * static_cast<size_t>(picture.values());
    if (prompt.pictures.size() == values) return;
    fail(ErrorKind::usage,
         "the prompt's pictures have {} values, expected {} ({} of {} x {} pixels); give one picture a "
         "sequence",
         prompt.pictures.size(), values, sequences, picture.size, picture.size);
  }

  // Runs the encoder for some sequences; buffers.prefill.x then holds their pictures' rows, or their caches what
  // cross-attention reads.
  void encode(const Prompt& prompt, int tokens, int first_sequence, int sequences) {
    const EncoderShape& encoder = *model.shape().encoder;
    const int each = encoder.picture ? encoder.picture->tokens() : tokens;
    const size_t rows = static_cast<size_t>(sequences) * static_cast<size_t>(each);
    for (size_t row = 0; row < rows; ++row) {
      const size_t s = static_cast<size_t>(first_sequence) + row / static_cast<size_t>(each),
                   t = row % static_cast<size_t>(each);
      sequence[row] = static_cast<int32_t>(s);
      position[row] = static_cast<int32_t>(t);
      token[row] = encoder.picture ? static_cast<int32_t>(t) : prompt.ids[s * static_cast<size_t>(tokens) + t];
      sees[row] = each;
    }
    buffers.upload_encoder_rows({token.data(), rows}, {position.data(), rows}, {sequence.data(), rows},
                                {sees.data(), rows});
    if (encoder.picture) {
      const size_t values = static_cast<size_t>(each) * static_cast<size_t>(encoder.picture->values());
      buffers.upload_patches(prompt.pictures.subspan(static_cast<size_t>(first_sequence) * values,
                                                     static_cast<size_t>(sequences) * values));
    }
    State state = buffers.prefill;
    EncoderState& e = state.encoder;
    for (Tensor* t : {&e.x, &e.q, &e.a, &e.h, &e.patches}) *t = t->slice(0, static_cast<int>(rows));
    e.rows.count = static_cast<int>(rows);
    model.encode(backend.ops(), state);
  }
  // Of a model with cross-attention: all prompts, and how far the rows of later calls of the decoder see into them.
  void encode_all(const Prompt& prompt, int tokens, int decoder_rows) {
    const int together = std::clamp(shape.encoder_rows / tokens, 1, shape.sequences);
    for (int first = 0; first < shape.sequences; first += together) {
      encode(prompt, tokens, first, std::min(together, shape.sequences - first));
    }
    see_encoder(tokens, decoder_rows);
  }
  // How many of the encoder's positions the first rows of later calls of the decoder see, at least 1.
  void see_encoder(int tokens, int rows) {
    std::fill_n(sees.begin(), rows, tokens);
    buffers.upload_lengths(buffers.prefill.cross_lengths, {sees.data(), static_cast<size_t>(rows)});
  }

  // The piece's part of ids [sequences, tokens], of which the first stand at position `start`; leaves the stream in
  // buffers.prefill.x. prompt_tokens: of a prompt with a picture. answers: State::answers.
  State forward(std::span<const int32_t> ids, int tokens, const Piece& piece, int start, int prompt_tokens = 0,
                int answers = 0) {
    const size_t rows = static_cast<size_t>(piece.rows()), first_sequence = static_cast<size_t>(piece.first_sequence),
                 first_token = static_cast<size_t>(piece.first_token);
    for (size_t row = 0; row < rows; ++row) {
      const Piece::Place place = piece.place_of(row);
      const size_t s = first_sequence + place.sequence, t = first_token + place.token;
      sequence[row] = static_cast<int32_t>(s);
      position[row] = start + static_cast<int32_t>(t);
      token[row] = ids[s * static_cast<size_t>(tokens) + t];
    }
    buffers.upload_rows(buffers.prefill.rows, {token.data(), rows}, {position.data(), rows}, {sequence.data(), rows});
    State state = buffers.prefill.first(piece.rows());
    state.picture_rows = piece.sequences * piece.lead;
    state.answers = answers;
    if (state.lengths) {
      // A prompt sees all of itself, what follows it all before.
      const auto seen = static_cast<int32_t>(prompt_tokens);
      for (size_t row = 0; row < rows; ++row) sees[row] = std::max(seen, position[row] + 1);
      buffers.upload_lengths(state.lengths, {sees.data(), rows});
    }
    model.forward(backend.ops(), state);
    return state;
  }

  // ids [sequences, tokens] behind the context, as many whole sequences a call as there are rows for.
  // after(state, piece): takes what it needs of the call's stream before the next call.
  template <typename After>
  void forward_all(std::span<const int32_t> ids, int tokens, const After& after) {
    forward_all(Prompt(ids), tokens, false, after, [] {});
  }
  // Likewise; behind_picture is called when the pictures of a call are done. only_last: after() reads no other row than
  // the last of each sequence.
  template <typename After, typename BehindPicture>
  void forward_all(const Prompt& prompt, int tokens, bool only_last, const After& after,
                   const BehindPicture& behind_picture) {
    const int lead = model.shape().has_picture() ? model.shape().encoder->picture->tokens() : 0;
    const int together = std::min(shape.rows / tokens, shape.sequences);
    for (int first = 0; first < shape.sequences; first += together) {
      const Piece piece{first, std::min(together, shape.sequences - first), 0, tokens, lead};
      if (lead > 0) {
        encode(prompt, tokens, first, piece.sequences);
        behind_picture();
      }
      after(forward(prompt.ids, tokens, piece, context_tokens, tokens, only_last ? piece.sequences : 0), piece);
    }
  }

  // Rows of the next step: the id `at(sequence)` of each, at one position.
  template <typename At>
  void place(int at_position, const At& at) {
    const size_t count = static_cast<size_t>(shape.sequences);
    for (size_t s = 0; s < count; ++s) {
      token[s] = at(s);
      position[s] = at_position;
      sequence[s] = static_cast<int32_t>(s);
    }
    buffers.upload_rows(buffers.decode.rows, {token.data(), count}, {position.data(), count}, {sequence.data(), count});
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

Session::Session(Backend& backend, Model& model, const StateShape& shape, std::string_view engine) {
  const int fed = shape.positions - 1;  // the last new token is not fed back
  if (fed > model.shape().max_positions) {
    fail(ErrorKind::usage,
         "context, prompt and all new tokens but the last make {} positions, the model was made for at most {} "
         "(max_position_embeddings); shorten the prompt or ask for fewer new tokens",
         fed, model.shape().max_positions);
  }
  const std::optional<EncoderShape>& encoder = model.shape().encoder;
  if (encoder && !encoder->picture && shape.encoder_positions > encoder->max_tokens) {
    fail(ErrorKind::usage,
         "the prompt has {} tokens, the encoder of this {} model was made for at most {} (n_positions); shorten the "
         "prompt",
         shape.encoder_positions, model.shape().architecture, encoder->max_tokens);
  }
  parts_ = std::make_unique<Parts>(backend, model, shape, engine);
}
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;

std::string Session::tuning() const { return parts_->step->tuning(); }

Tape Session::step_ops() const {
  TapeOps tape;
  parts_->model.decode(tape, parts_->buffers.decode);
  return tape.tape();
}
std::optional<int> Session::launches() const { return parts_->step->launches(); }
bool Session::prompt_is_encoded() const { return parts_->model.shape().has_cross_attention(); }
void Session::place(int position, std::span<const int32_t> ids) {
  assert(static_cast<int>(ids.size()) == parts_->shape.sequences && position >= 0 &&
         position < parts_->shape.positions);
  parts_->place(position, [&](size_t s) { return ids[s]; });
}

EngineChoice Session::test_engines() {
  Parts& p = *parts_;
  const Plan plan = p.plan_step(p.step_sampling);
  const int first_position = p.context_tokens, most_steps = p.shape.positions - 1 - first_position;
  assert(plan.engines.size() > 1 && most_steps >= 1);
  p.set_stops({});
  if (p.model.shape().has_cross_attention()) p.see_encoder(p.shape.encoder_positions, p.shape.sequences);
  std::vector<std::unique_ptr<Program>> others(plan.engines.size());  // but for the first, which is p.step
  std::vector<TimedEngine> engines;
  for (size_t i = 0; i < plan.engines.size(); ++i) {
    const auto run_ns = [&, i](int steps) {
      if (i > 0 && !others[i]) others[i] = p.backend.record_beside(plan, plan.engines[i].name);
      Program& step = i > 0 ? *others[i] : *p.step;
      p.place(first_position, [](size_t) { return 0; });
      p.backend.synchronize();
      const int64_t start_ns = os::steady_now_ns();
      for (int made = 0; made < steps; ++made) step.run();
      p.backend.synchronize();
      return os::steady_now_ns() - start_ns;
    };
    engines.push_back({std::string(plan.engines[i].name), run_ns});
  }
  EngineChoice choice = test_in_turn(engines, most_steps);
  p.engine = choice.engine;
  for (size_t i = 1; i < others.size(); ++i) {
    if (plan.engines[i].name == choice.engine) p.step = std::move(others[i]);
  }
  return choice;
}

void Session::fill_context(std::span<const int32_t> ids) {
  Parts& p = *parts_;
  p.context_tokens = 0;
  if (ids.empty()) return;
  if (p.model.shape().encoder) {
    fail(ErrorKind::usage, "a context before the prompt is nothing that {} knows; begin at the prompt",
         p.model.shape().architecture);
  }
  const int length = p.length_of(ids, "context", p.shape.positions, 0), at_once = std::min(kContextRows, p.shape.rows);
  for (int s = 0; s < p.shape.sequences; ++s) {
    for (int first = 0; first < length; first += at_once) {
      p.forward(ids, length, {s, 1, first, std::min(at_once, length - first)}, 0);
    }
  }
  p.backend.synchronize();
  p.context_tokens = length;
}

Run Session::generate(const Prompt& prompt, const GenerateOptions& options) {
  Parts& p = *parts_;
  if (options.max_new_tokens < 1) {
    fail(ErrorKind::usage, "{} new tokens were asked for, expected at least 1", options.max_new_tokens);
  }
  const int length = p.prompt_length(prompt, options.max_new_tokens);
  const bool is_watched = options.on_token || !options.stop_at.empty();
  assert(!is_watched || p.shape.sequences == 1);
  const Sampling& sampling = options.sampling;
  if (sampling != p.step_sampling) p.record(sampling);
  p.set_stops(options.stop_at);

  Run run;
  run.sequences = p.shape.sequences;
  run.context_tokens = p.context_tokens;
  run.prompt_tokens = length;
  run.spans.reserve(2 * static_cast<size_t>(options.max_new_tokens) + 2);
  run.tokens.reserve(static_cast<size_t>(run.sequences) * static_cast<size_t>(options.max_new_tokens));
  if (is_watched) p.open_lookout();

  p.backend.synchronize();
  int64_t zero_ns = os::steady_now_ns();
  DevicePhases on_device(p.timeline.get());
  const auto now_ns = [&zero_ns] { return os::steady_now_ns() - zero_ns; };
  const State& decode = p.buffers.decode;
  int64_t last_ns = 0;
  const auto end_phase = [&](Phase phase) {
    on_device.end(phase);
    p.backend.synchronize();
    const int64_t end_ns = now_ns();
    run.spans.push_back({phase, Clock::host, last_ns, end_ns});
    last_ns = end_ns;
    on_device.begin();
  };
  const bool has_cross = p.model.shape().has_cross_attention();
  const int first_position = p.context_tokens + (has_cross ? 1 : length);  // of the new tokens
  if (has_cross) {
    p.encode_all(prompt, length, run.sequences);
    end_phase(Phase::encode);
    p.place(0, [&](size_t) { return p.model.shape().decoder_start; });
    p.step->run();
  } else {
    p.place(first_position - 1, [](size_t) { return 0; });  // the ids come out of the prefill
    int calls = 0;
    const auto behind_picture = [&] {
      if (calls++ > 0) end_phase(Phase::prefill);
      end_phase(Phase::vision);
    };
    p.forward_all(
        prompt, length, true,
        [&](State state, const Parts::Piece& piece) {
          state.logits = decode.logits.slice(piece.first_sequence, piece.sequences);
          p.model.head(p.backend.ops(), state, piece.rows() - piece.sequences, piece.sequences);
        },
        behind_picture);
    p.backend.ops().next_token(decode.next_token(decode.logits.slice(0, run.sequences)));
  }
  end_phase(Phase::prefill);

  const int64_t before_look_ns = now_ns();
  run.finite = p.logits_are_finite();
  const int64_t look_ns = now_ns() - before_look_ns;
  zero_ns += look_ns;
  on_device.leave_out(look_ns);
  on_device.begin();

  const int32_t* const new_tokens = decode.history + first_position;  // of the first sequence
  const auto end_step = [&] {
    const int64_t end_ns = now_ns();
    run.spans.push_back({Phase::decode, Clock::host, last_ns, end_ns});
    last_ns = end_ns;
  };
  // Steps of a GPU, which the host does not see end: they are one span.
  const bool only_asked_for = p.backend.device().gpu.has_value();
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
    on_device.end(Phase::decode);
    if (is_watched)
      watch(made, made == options.max_new_tokens ? 0 : kRunAhead);
    else if (!only_asked_for)
      end_step();
  }
  if (!is_watched) {
    p.backend.synchronize();
    if (only_asked_for && options.max_new_tokens > 1) end_step();
    const size_t count = static_cast<size_t>(options.max_new_tokens), apart = static_cast<size_t>(p.shape.positions);
    const size_t fetched = static_cast<size_t>(run.sequences - 1) * apart + count;
    p.backend.download(p.history.data(), new_tokens, fetched * sizeof(int32_t));
    run.tokens.resize(static_cast<size_t>(run.sequences) * count);
    for (size_t s = 0; s < static_cast<size_t>(run.sequences); ++s) {
      std::copy_n(p.history.data() + s * apart, count, run.tokens.data() + s * count);
    }
  }
  run.total_ns = now_ns();
  run.finite = p.logits_are_finite() && run.finite;
  on_device.add_to(&run);
  return run;
}

std::vector<float> Session::logits(std::span<const int32_t> ids, bool step_by_step) {
  Parts& p = *parts_;
  const int length = p.prompt_length(Prompt(ids), 0);
  const size_t sequences = static_cast<size_t>(p.shape.sequences), tokens = static_cast<size_t>(length),
               vocab = p.looked_at.size() / sequences;
  std::vector<float> out(ids.size() * vocab);
  const auto keep = [&](size_t sequence, size_t token, const float* from) {
    std::copy_n(from, vocab, out.data() + (sequence * tokens + token) * vocab);
  };
  if (step_by_step) {
    for (size_t t = 0; t < tokens; ++t) {
      p.place(p.context_tokens + static_cast<int>(t), [&](size_t s) { return ids[s * tokens + t]; });
      p.step->run();
      p.backend.synchronize();
      p.backend.download(p.looked_at.data(), p.buffers.decode.logits.data, p.looked_at.size() * sizeof(float));
      for (size_t s = 0; s < sequences; ++s) keep(s, t, p.looked_at.data() + s * vocab);
    }
    return out;
  }
  std::vector<float> some(static_cast<size_t>(p.shape.logit_rows) * vocab);
  p.forward_all(ids, length, [&](const State& state, const Parts::Piece& piece) {
    for (int first = 0; first < piece.rows(); first += p.shape.logit_rows) {
      const int count = std::min(p.shape.logit_rows, piece.rows() - first);
      p.model.head(p.backend.ops(), state, first, count);
      p.backend.synchronize();
      p.backend.download(some.data(), state.logits.data, static_cast<size_t>(count) * vocab * sizeof(float));
      for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
        const Parts::Piece::Place place = piece.place_of(static_cast<size_t>(first) + i);
        keep(static_cast<size_t>(piece.first_sequence) + place.sequence, place.token, some.data() + i * vocab);
      }
    }
  });
  return out;
}

std::vector<float> Session::logits(const Prompt& prompt, std::span<const int32_t> ids, bool step_by_step) {
  Parts& p = *parts_;
  const Shape& shape = p.model.shape();
  assert(shape.encoder && p.shape.sequences == 1);
  const int length = p.prompt_length(prompt, 0), count = static_cast<int>(ids.size());
  const bool has_cross = shape.has_cross_attention();
  const int first = has_cross ? 0 : length;  // position of the first id
  if (first + count > p.shape.positions || (!step_by_step && count > p.shape.rows)) {
    fail(ErrorKind::usage, "{} ids behind position {} are more than the {} positions and {} rows there is room for",
         count, first, p.shape.positions, p.shape.rows);
  }
  const size_t vocab = p.looked_at.size();
  std::vector<float> out;
  const auto keep = [&](Tensor logits) {
    p.backend.synchronize();
    const size_t at = out.size(), values = static_cast<size_t>(logits.rows) * vocab;
    out.resize(at + values);
    p.backend.download(out.data() + at, logits.data, values * sizeof(float));
  };
  // Rows of the call that state is of, from `row` on.
  const auto keep_rows = [&](const State& state, int row) {
    for (; row < state.rows.count; row += p.shape.logit_rows) {
      const int some = std::min(p.shape.logit_rows, state.rows.count - row);
      p.model.head(p.backend.ops(), state, row, some);
      keep(state.logits.slice(0, some));
    }
  };
  if (has_cross) {
    p.encode_all(prompt, length, step_by_step ? 1 : count);
    if (!step_by_step) keep_rows(p.forward(ids, count, {0, 1, 0, count}, 0), 0);
  } else {
    p.encode(prompt, length, 0, 1);
    keep_rows(p.forward(prompt.ids, length, {0, 1, 0, length, shape.encoder->picture->tokens()}, 0, length),
              length - 1);
    if (!step_by_step && count > 0) keep_rows(p.forward(ids, count, {0, 1, 0, count}, length), 0);
  }
  if (!step_by_step) return out;
  for (int t = 0; t < count; ++t) {
    p.place(first + t, [&](size_t) { return ids[static_cast<size_t>(t)]; });
    p.step->run();
    keep(p.buffers.decode.logits.slice(0, 1));
  }
  return out;
}

void Session::force(const Prompt& prompt, std::span<const int32_t> ids) {
  Parts& p = *parts_;
  assert(p.shape.sequences == 1);
  p.context_tokens = 0;
  p.in_front.clear();
  const std::optional<EncoderShape>& encoder = p.model.shape().encoder;
  const int count = static_cast<int>(ids.size());
  int first = 0;  // position of the first id
  if (encoder) {
    const int length = p.prompt_length(prompt, 0);
    if (encoder->picture) {
      first = length;
      p.encode(prompt, length, 0, 1);
      const State state = p.forward(prompt.ids, length, {0, 1, 0, length, encoder->picture->tokens()}, 0, length, 1);
      p.model.head(p.backend.ops(), state, length - 1, 1);
      p.in_front.resize(p.looked_at.size());
      p.backend.synchronize();
      p.backend.download(p.in_front.data(), state.logits.data, p.in_front.size() * sizeof(float));
    } else {
      p.encode_all(prompt, length, std::min(count, p.shape.rows));
    }
  }
  p.forced.rows.count = 0;
  if (ids.empty() && !p.in_front.empty()) return;
  p.length_of(ids, "text", std::min(p.shape.rows, p.shape.positions - first), 0);
  p.forced = p.forward(ids, count, {0, 1, 0, count}, first);
}

void Session::forced_logits(int first, int count, std::span<float> out) {
  Parts& p = *parts_;
  const size_t vocab = p.looked_at.size();
  const int in_front = p.in_front.empty() ? 0 : 1;
  assert(out.size() == static_cast<size_t>(count) * vocab && first + count <= in_front + p.forced.rows.count);
  if (first < in_front && count > 0) {
    std::copy(p.in_front.begin(), p.in_front.end(), out.begin());
    out = out.subspan(vocab);
    ++first;
    --count;
  }
  for (int row = first - in_front; count > 0;) {
    const int some = std::min(p.shape.logit_rows, count);
    const size_t values = static_cast<size_t>(some) * vocab;
    p.model.head(p.backend.ops(), p.forced, row, some);
    p.backend.synchronize();
    p.backend.download(out.data(), p.forced.logits.data, values * sizeof(float));
    out = out.subspan(values);
    row += some;
    count -= some;
  }
}

}  // namespace quantbench
