#include "engine/test_whole_model.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <numeric>
#include <utility>

#include "backend/sampling.h"
#include "core/error.h"
#include "core/json.h"
#include "core/os.h"

namespace quantbench {

void print(const std::string& text) { std::cout << text << '\n' << std::flush; }

ModelConfig config_of(const std::string& model) {
  if (!os::exists(model)) return published_config(model);
  return {read_json_file(model), nullptr, model};
}

Precision precision_of(const std::string& name) {
  for (const Precision p : {Precision::fp16, Precision::bf16, Precision::int8, Precision::nf4}) {
    if (name == name_of(p)) return p;
  }
  fail(ErrorKind::usage, "--precision: expected fp16, bf16, int8 or 4bit, found '{}'", name);
}

std::vector<int32_t> some_ids(int count, int below) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>((i * 7919 + 13) % static_cast<size_t>(below));
  }
  return ids;
}

std::vector<float> some_patches(const Picture& picture, uint64_t number) {
  std::vector<float> values(static_cast<size_t>(picture.tokens()) * static_cast<size_t>(picture.values()));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = (static_cast<float>(mix64(number << 32 | i) % 256) / 255 - 0.5f) / 0.5f;
  return values;
}

std::vector<RandomTensor> telling_tensors(Model& model, int outliers) {
  const Shape& shape = model.shape();
  // Planted channels add their weight's square each to what the inputs' squares add up to.
  const double planted = outliers * (double{kOutlierNormWeight} * kOutlierNormWeight - 1.0);
  const auto root = [](double x) { return std::sqrt(x); };
  const double table = 3.0 / root(shape.hidden);
  std::vector<RandomTensor> tensors;
  for (const WeightSlot& slot : model.weights()) {
    if (!slot.tied_to.empty()) continue;
    const std::string_view name = slot.name;
    const auto is = [&](std::string_view part) { return name.find(part) != std::string_view::npos; };
    const auto ends = [&](std::string_view part) { return name.ends_with(part); };
    const bool is_bias = ends(".bias"), is_tower = is("vision_tower"),
               is_encoder = is_tower || name.starts_with("encoder.");
    const bool writes_stream = is("o_proj") || is("dense") || is("down_proj") || is("fc2") || is("out_proj") ||
                               ends(".o.weight") || ends(".wo.weight");
    const int layers = is_encoder ? shape.encoder->layers : shape.layers;
    // What a row of the stack begins with: of a picture's patches 1; PaliGemma's text is the table times √hidden.
    const double stream = is_tower ? 1.0 : shape.has_picture() ? 3.0 : table;
    RandomTensor tensor{slot.name, slot.rows, slot.cols, RandomKind::linear, 0, slot.plus, slot.stored_shape};
    if (ends("model.norm.weight") || is("model.final_layernorm.weight") || name == "decoder.final_layer_norm.weight") {
      tensor.kind = RandomKind::bias;  // of mean 0 once it is used, without planted channels
      tensor.sigma = 1;
    } else if (is("relative_attention_bias")) {
      tensor.sigma = 1;
    } else if (is("position_embedding")) {
      tensor.sigma = 0.7;
    } else if (ends("patch_embedding.weight")) {
      tensor.sigma = 1.2 / root(slot.cols);  // pixel values have a sigma of 0.6
    } else if (slot.role == Role::vector) {
      tensor.kind = is_bias ? RandomKind::bias : RandomKind::norm;
      // Smaller ones of a tower would drown in what comes after it.
      const double bias = !is_tower ? 0.1 : is("q_proj") ? 0.6 : 0.3;
      tensor.sigma = !is_bias ? 0.3 : writes_stream || is("projector") || is("patch") ? 0.1 * stream : bias;
    } else if (is("embed") || is("lm_head") || is("shared")) {
      tensor.sigma = table;
    } else if (is("projector")) {
      tensor.sigma = stream / root(slot.cols + planted);
    } else if (writes_stream) {
      tensor.sigma = 0.4 * stream / root(slot.cols) / root(layers);
    } else {
      // T5's scores are not divided by √head_dim, so its queries are.
      const double gain = ends(".q.weight")                                   ? 1.4 / root(shape.head_dim)
                          : is("q_proj") || is("k_proj") || ends(".k.weight") ? 1.4
                          : is("v_proj") || ends(".v.weight")                 ? 2.0
                          : is("up_proj") || is(".wi_1.")                     ? 1.0
                                                                              : 1.5;
      tensor.sigma = gain / root(slot.cols + planted);
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

int prompt_tokens(const Shape& shape, int text) {
  return text + (shape.has_picture() ? shape.encoder->picture->tokens() : 0);
}

int fed_before(const Shape& shape, int text) { return shape.has_cross_attention() ? 1 : prompt_tokens(shape, text); }

Input some_input(const Shape& shape, int text, uint64_t number) {
  if (!shape.has_picture()) return {some_ids(text, shape.vocab), {}};
  const Picture& picture = *shape.encoder->picture;
  Input input{std::vector<int32_t>(static_cast<size_t>(picture.tokens()), picture.token),
              some_patches(picture, number)};
  // The token of a picture may not be among them.
  const std::vector<int32_t> ids = some_ids(text, std::min(shape.vocab, static_cast<int>(picture.token)));
  input.ids.insert(input.ids.end(), ids.begin(), ids.end());
  return input;
}

Runner::Runner(Backend& backend, Model& model, const StateShape& shape, std::string_view engine,
               const Sampling& sampling)
    : backend_(backend), model_(model), buffers_(backend, model.shape(), shape) {
  model.make_tables(backend, shape.positions);
  buffers_.decode.sampling = sampling;
  TapeOps tape, before;
  model.decode(tape, buffers_.decode);
  if (model.shape().encoder) model.encode(before, buffers_.prefill);
  Plan plan = backend.plan(tape.tape(), shape.rows, before.tape());
  if (!engine.empty()) plan.keep(engine);
  step_ = backend.record(plan);
}

void Runner::encode(const Prompt& prompt) {
  const EncoderShape& encoder = *model_.shape().encoder;
  prompt_ = static_cast<int>(prompt.ids.size());
  const int rows = encoder.picture ? encoder.picture->tokens() : prompt_;
  std::vector<int32_t> positions(static_cast<size_t>(rows)), sequences(positions.size());
  const std::vector<int32_t> sees(positions.size(), rows);
  std::iota(positions.begin(), positions.end(), 0);
  buffers_.upload_encoder_rows(encoder.picture ? positions : prompt.ids, positions, sequences, sees);
  State state = buffers_.prefill;
  EncoderState& e = state.encoder;
  for (Tensor* t : {&e.x, &e.q, &e.a, &e.h}) *t = t->slice(0, rows);
  e.rows.count = rows;
  if (encoder.picture) {
    e.patches = e.patches.slice(0, rows);
    buffers_.upload_patches(prompt.pictures);
    picture_rows_ = rows;
  } else {
    const std::vector<int32_t> lengths(static_cast<size_t>(buffers_.prefill.rows.count), prompt_);
    buffers_.upload_lengths(buffers_.prefill.cross_lengths, lengths);
  }
  model_.encode(backend_.ops(), state);
}

void Runner::forward(std::span<const int32_t> ids, int position) {
  std::vector<int32_t> positions(ids.size()), sequences(ids.size());
  std::iota(positions.begin(), positions.end(), position);
  buffers_.upload_rows(buffers_.prefill.rows, ids, positions, sequences);
  state_ = buffers_.prefill.first(static_cast<int>(ids.size()));
  state_.picture_rows = std::exchange(picture_rows_, 0);
  if (state_.lengths) {
    // A prompt with a picture sees all of itself, what follows it all before.
    for (int32_t& sees : positions) sees = std::max(prompt_, sees + 1);
    buffers_.upload_lengths(state_.lengths, positions);
  }
  model_.forward(backend_.ops(), state_);
}

void Runner::next_token() {
  const State& s = buffers_.decode;
  backend_.ops().next_token({.rows = s.rows, .logits = s.logits.slice(0, 1), .sampling = s.sampling});
}

void Runner::place(int32_t token, int32_t position) {
  const int32_t sequence = 0;
  buffers_.upload_rows(buffers_.decode.rows, {&token, 1}, {&position, 1}, {&sequence, 1});
}

std::vector<float> Runner::fetch_logits(int rows) {
  std::vector<float> out(static_cast<size_t>(rows) * static_cast<size_t>(model_.shape().vocab));
  backend_.synchronize();
  backend_.download(out.data(), logits(), out.size() * sizeof(float));
  return out;
}

int32_t Runner::fetch_token() {
  int32_t token = 0;
  backend_.synchronize();
  backend_.download(&token, buffers_.decode.rows.token, sizeof token);
  return token;
}

}  // namespace quantbench
