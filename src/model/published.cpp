// The configurations as their authors published them on the Hub, for measuring the real shapes with random weights.
#include <fmt/ranges.h>

#include <iterator>

#include "core/error.h"
#include "core/json.h"
#include "model/config.h"

namespace quantbench {
namespace {

struct Published {
  std::string_view id, config, generation;
};

constexpr Published kPublished[] = {
    {"meta-llama/Llama-3.2-1B", R"({
      "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
      "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
      "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
      "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "hidden_act": "silu",
      "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": true,
      "rope_theta": 500000.0,
      "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                       "original_max_position_embeddings": 8192},
      "bos_token_id": 128000, "eos_token_id": 128001})",
     R"({"bos_token_id": 128000, "eos_token_id": 128001})"},
    {"microsoft/phi-2", R"({
      "architectures": ["PhiForCausalLM"], "model_type": "phi", "torch_dtype": "float16",
      "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32,
      "num_attention_heads": 32, "num_key_value_heads": 32, "partial_rotary_factor": 0.4, "qk_layernorm": false,
      "vocab_size": 51200, "max_position_embeddings": 2048, "layer_norm_eps": 1e-05, "hidden_act": "gelu_new",
      "tie_word_embeddings": false, "rope_theta": 10000.0, "rope_scaling": null,
      "bos_token_id": 50256, "eos_token_id": 50256})",
     R"({"bos_token_id": 50256, "eos_token_id": 50256})"},
    {"Qwen/Qwen2.5-0.5B", R"({
      "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "torch_dtype": "bfloat16",
      "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
      "num_attention_heads": 14, "num_key_value_heads": 2, "attention_dropout": 0.0,
      "vocab_size": 151936, "max_position_embeddings": 32768, "rms_norm_eps": 1e-06, "hidden_act": "silu",
      "tie_word_embeddings": true, "rope_theta": 1000000.0,
      "use_sliding_window": false, "sliding_window": 32768, "max_window_layers": 24,
      "bos_token_id": 151643, "eos_token_id": 151643})",
     R"({"bos_token_id": 151643, "eos_token_id": 151643})"},
    {"google/flan-t5-base", R"({
      "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": true,
      "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_heads": 12, "num_layers": 12, "num_decoder_layers": 12,
      "vocab_size": 32128, "n_positions": 512, "feed_forward_proj": "gated-gelu", "layer_norm_epsilon": 1e-06,
      "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "tie_word_embeddings": false,
      "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0})",
     R"({"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0})"},
    {"google/paligemma-3b-pt-224", R"({
      "architectures": ["PaliGemmaForConditionalGeneration"], "model_type": "paligemma", "torch_dtype": "float32",
      "hidden_size": 2048, "projection_dim": 2048, "image_token_index": 257152, "vocab_size": 257152,
      "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "ignore_index": -100,
      "text_config": {"model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18,
                      "num_attention_heads": 8, "num_key_value_heads": 1, "num_image_tokens": 256, "vocab_size": 257216},
      "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
                        "num_hidden_layers": 27, "num_attention_heads": 16, "patch_size": 14, "num_image_tokens": 256,
                        "projection_dim": 2048, "projector_hidden_act": "gelu_fast", "vision_use_head": false}})",
     R"({"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0})"},
    {"google/paligemma-3b-pt-448", R"({
      "architectures": ["PaliGemmaForConditionalGeneration"], "model_type": "paligemma", "torch_dtype": "float32",
      "hidden_size": 2048, "projection_dim": 2048, "image_token_index": 257152, "vocab_size": 257152,
      "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "ignore_index": -100,
      "text_config": {"model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18,
                      "num_attention_heads": 8, "num_key_value_heads": 1, "num_image_tokens": 1024, "vocab_size": 257216},
      "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
                        "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 448, "patch_size": 14,
                        "num_image_tokens": 1024, "projection_dim": 2048, "projector_hidden_act": "gelu_fast",
                        "vision_use_head": false}})",
     R"({"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0})"},
};

}  // namespace

std::vector<std::string> published_ids() {
  std::vector<std::string> ids;
  for (const Published& one : kPublished) ids.emplace_back(one.id);
  return ids;
}

ModelConfig published_config(std::string_view id) {
  for (const Published& one : kPublished) {
    if (one.id != id) continue;
    const std::string where = fmt::format("built-in configuration of {}", id);
    return {parse_json(one.config, where), parse_json(one.generation, where), where};
  }
  fail(ErrorKind::usage, "no configuration of '{}' is built in; --random-weights knows {}, or give a model folder", id,
       fmt::join(published_ids(), ", "));
}

}  // namespace quantbench
