// A model family: its shapes, its weights by name, and the order of its ops. Knows no backend and no file.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "backend/backend.h"
#include "checkpoint/renamed_source.h"
#include "model/state.h"

namespace quantbench {

// bf16 is a baseline beside fp16: what most checkpoints are stored in. It is measured only where it is asked for.
enum class Precision : uint8_t { fp16, int8, nf4, bf16 };
std::string_view name_of(Precision precision);  // as on the command line: "fp16", "int8", "4bit", "bf16"
// "FP16", "BF16", "LLM.int8 (threshold 6.0)", "NF4, double quantisation", "NF4, plain fp32 absmax"; "NF4"
// where it is not known which of these two.
std::string_view long_name_of(Precision precision, std::optional<bool> nf4_double_quantized);

// How the weights will be stored; fixed when a model is made, so that a step can be planned before loading.
struct Storage {
  Precision precision = Precision::fp16;
  bool nf4_double_quantized = true;  // false only for a checkpoint saved with plain fp32 absmax
};

// A picture as input: a square of RGB values, cut into patches, whose outputs stand before the prompt's tokens.
struct Picture {
  int size = 0, patch = 0;  // pixels of a side
  int32_t token = 0;        // the id that stands for a patch in a prompt
  int tokens() const { return (size / patch) * (size / patch); }
  int values() const { return 3 * patch * patch; }  // of a patch
};
// A stack beside the decoder.
struct EncoderShape {
  int layers = 0, hidden = 0, intermediate = 0, heads = 0, head_dim = 0;
  int max_tokens = 0;              // of a sequence
  std::optional<Picture> picture;  // its input; nothing: the prompt, which the decoder reads by cross-attention
};

struct Shape {               // what the rest of the program needs to know of a model
  std::string architecture;  // "LlamaForCausalLM"
  int layers = 0, hidden = 0, intermediate = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0, max_positions = 0;
  int64_t parameters = 0;
  std::vector<int32_t> bos, eos;  // from config.json and generation_config.json; bos has at most one
  std::optional<EncoderShape> encoder;
  int32_t decoder_start = 0;    // the id that a decoder with cross-attention begins with
  bool attention_first = true;  // of a layer: q and a have been read before h is written

  bool has_picture() const { return encoder && encoder->picture; }
  bool has_cross_attention() const { return encoder && !encoder->picture; }
};

// One tensor of the checkpoint and where it goes. The loader reads, converts, quantises and packs; the model only says
// what it wants: one line a tensor.
struct WeightSlot {
  std::string name;        // in the checkpoint
  int rows = 0, cols = 0;  // [rows, cols]; a vector has rows == 1 and shape [cols]
  // A linear or an embedding table; a norm weight or bias (rounded to fp16 or bf16 as all parameters are, kept in
  // fp32).
  std::variant<Matrix*, const float**> target;
  Role role = Role::linear;
  bool quantized = false;                  // whether its format is int8 or nf4
  std::string tied_to;                     // name of the tensor whose memory it shares (target is null), or empty
  std::vector<int64_t> stored_shape = {};  // in the checkpoint, where that is not [rows, cols]
  float times = 1, plus = 0;               // of a vector: what is kept is value · times + plus
};

class Model {
 public:
  virtual ~Model() = default;
  virtual const Shape& shape() const = 0;
  // Every tensor, in the order of the forward pass. Targets have n, k and format set for the precision.
  virtual std::vector<WeightSlot> weights() = 0;
  // How other libraries' files name its parts.
  virtual std::vector<RenamedPrefix> other_prefixes() const { return {}; }
  // Host-made tables (RoPE) for at least that many positions; called before a step is recorded. Where more positions
  // are wanted than before they are made anew, and what was recorded with the old ones must not run again.
  virtual void make_tables(Backend& backend, int positions) = 0;
  virtual size_t table_bytes(int positions) const = 0;  // what make_tables books

  // Of a model with an encoder: runs state.encoder.rows.count rows (and patches, of a picture) through it, into the
  // cross-attention's cache or the first rows of state.x.
  virtual void encode(Ops&, const State&) const {}
  // Runs state.rows.count tokens (token, position and sequence are set) through all layers into state.x and the cache.
  virtual void forward(Ops& ops, const State& state) const = 0;
  // Final norm and head for `count` rows of state.x from `first` on into state.logits.
  virtual void head(Ops& ops, const State& state, int first, int count) const = 0;
  // One token a sequence: forward, head, next token. What is recorded as a Program.
  void decode(Ops& ops, const State& state) const;
};

}  // namespace quantbench
