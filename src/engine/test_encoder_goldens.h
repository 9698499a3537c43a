// For tests: a model with an encoder and its golden, ready to run.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "engine/session.h"
#include "engine/test_goldens.h"
#include "model/loader.h"
#include "model/registry.h"

namespace quantbench {

using ConfigEdit = std::function<void(nlohmann::json&)>;
using SourceEdit = std::function<std::unique_ptr<WeightSource>(const WeightSource&)>;

class EncoderGolden {
 public:
  static constexpr int kSequences = 2;

  // edit: changes config.json before the model is made. weights: what is loaded instead of the checkpoint.
  EncoderGolden(Backend& backend, const std::string& name, Precision precision, const ConfigEdit& edit = {},
                const SourceEdit& weights = {})
      : golden(name) {
    const auto checkpoint = Checkpoint::open(kGoldenModels + name);
    ModelConfig config = config_of(*checkpoint);
    if (edit) edit(config.config);
    model_ = make_model(config, precision, checkpoint->prequantized());
    const bool has_picture = shape().has_picture();
    rows = golden.read<int32_t>("rows");
    prompts_ = golden.read<int32_t>(has_picture ? "ids" : "encoder_ids");
    forced_ = golden.read<int32_t>(has_picture ? "ids" : "decoder_ids");
    if (has_picture) pictures_ = golden.read<uint8_t>("pictures");
    prompt_ = has_picture ? static_cast<size_t>(rows.front()) + 1 : prompts_.size() / kSequences;
    first_ = has_picture ? prompt_ : 0;
    const size_t forced = forced_.size() / kSequences - first_;
    StateShape run = session_shape(shape(), 1, 0, static_cast<int>(prompt_), static_cast<int>(forced));
    run.rows = std::max(run.rows, static_cast<int>(forced));
    run.logit_rows = 16;
    const Plan plan = backend.plan(decode_shapes(*model_), run.rows, encode_shapes(*model_, run.encoder_rows));
    if (weights)
      load(*model_, *weights(*checkpoint), backend, plan);
    else
      load(*model_, *checkpoint, backend, plan);
    session_ = std::make_unique<Session>(backend, *model_, run);
  }

  // Teacher-forced, of all positions from first_position() on: [positions, vocab].
  std::vector<float> logits(int sequence, bool steps) {
    const auto part = [&](const std::vector<int32_t>& ids, size_t first, size_t count) {
      const size_t each = ids.size() / kSequences;
      return std::span(ids).subspan(static_cast<size_t>(sequence) * each + first, count);
    };
    const std::vector<float> patches = shape().has_picture() ? patches_of(sequence) : std::vector<float>{};
    return session_->logits({part(prompts_, 0, prompt_), patches},
                            part(forced_, first_, forced_.size() / kSequences - first_), steps);
  }
  // Of the sequence's positions the one whose logits come first.
  size_t first_position() const { return shape().has_picture() ? prompt_ - 1 : 0; }
  const Shape& shape() const { return model_->shape(); }

  Golden golden;
  std::vector<int32_t> rows;  // positions whose logits the golden has

 private:
  // From RGB [size, size, 3], values as SigLIP's processor makes them.
  std::vector<float> patches_of(int sequence) const {
    const Picture& picture = *shape().encoder->picture;
    const uint8_t* const rgb = pictures_.data() + static_cast<size_t>(sequence * picture.size * picture.size * 3);
    std::vector<float> out;
    const int across = picture.size / picture.patch;
    for (int p = 0; p < picture.tokens(); ++p) {
      for (int channel = 0; channel < 3; ++channel) {
        for (int y = 0; y < picture.patch; ++y) {
          for (int x = 0; x < picture.patch; ++x) {
            const int row = p / across * picture.patch + y, column = p % across * picture.patch + x;
            const float value = static_cast<float>(rgb[(row * picture.size + column) * 3 + channel]) / 255.0f;
            out.push_back((value - 0.5f) / 0.5f);
          }
        }
      }
    }
    return out;
  }

  std::unique_ptr<Model> model_;
  std::unique_ptr<Session> session_;
  std::vector<int32_t> prompts_, forced_;  // [sequences, n]
  std::vector<uint8_t> pictures_;
  size_t prompt_, first_;  // tokens of a prompt; the first that is forced behind it
};

}  // namespace quantbench
