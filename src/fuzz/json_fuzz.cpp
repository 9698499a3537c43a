// JSON as every reader here takes it, and the readers of config.json and generation_config.json: an input is these two,
// with a zero byte between them. A config that is taken becomes a model whose decode step is taken down with its
// shapes.
#include "core/json.h"

#include "core/os.h"
#include "fuzz/json_tree.h"
#include "model/registry.h"

namespace quantbench::fuzz {
namespace {

constexpr std::string_view kWords[] = {
    "\"LlamaForCausalLM\"",
    "\"PhiForCausalLM\"",
    "\"Qwen2ForCausalLM\"",
    "\"T5ForConditionalGeneration\"",
    "\"PaliGemmaForConditionalGeneration\"",
    "\"llama\"",
    "\"phi\"",
    "\"qwen2\"",
    "\"t5\"",
    "\"paligemma\"",
    "\"rope_scaling\"",
    "\"rope_parameters\"",
    "\"rope_type\"",
    "\"linear\"",
    "\"dynamic\"",
    "\"llama3\"",
    "\"yarn\"",
    "\"longrope\"",
    "\"factor\"",
    "\"rope_theta\"",
    "\"partial_rotary_factor\"",
    "\"beta_fast\"",
    "\"mscale\"",
    "\"low_freq_factor\"",
    "\"original_max_position_embeddings\"",
    "\"attention_factor\"",
    "\"head_dim\"",
    "\"num_key_value_heads\"",
    "\"hidden_act\"",
    "\"silu\"",
    "\"gelu_new\"",
    "\"gelu_pytorch_tanh\"",
    "\"relu\"",
    "\"gated-gelu\"",
    "\"tie_word_embeddings\"",
    "\"eos_token_id\"",
    "[1,2]",
    "1048576",
    "16777216",
    "268435456",
    "{\"rope_type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":256}"};

}  // namespace

void run(std::string_view input) {
  const size_t cut = std::min(input.find('\0'), input.size());
  const nlohmann::json config = parse_json(input.substr(0, cut), "config.json");
  // What was taken can be written, and read again as the same: it is UTF-8, and no key came twice.
  const size_t draw = drawn(input, 12);
  if (draw % 4 == 0)
    check(parse_json(config.dump(), "again") == config, "JSON that was taken is written and read as the same");
  const nlohmann::json generation =
      cut < input.size() ? parse_json(input.substr(cut + 1), "generation_config.json") : nlohmann::json();
  const auto model = make_model({config, generation, "config.json"}, draw % 2 == 0 ? Precision::fp16 : Precision::nf4);
  const Shape& shape = model->shape();
  check(shape.layers >= 1 && shape.vocab >= 1 && shape.parameters >= 1,
        "a model has layers, a vocabulary and parameters");
  if (shape.layers <= 64 && draw % 3 == 0) decode_shapes(*model);
}

std::vector<std::string> seeds() {
  std::vector<std::string> seeds = {"{}", "[1,2.5,-3,\"a\\u00e9\\ud83d\\ude00\",null,true,{\"b\":[]}]"};
  const std::string folder = QB_SOURCE_DIR "/testdata/models/";
  for (const std::string name : {"llama-gqa", "llama-untied", "llama-gqa-int8", "llama-gqa-nf4", "phi", "qwen2", "t5",
                                 "t5-relu-tied", "paligemma"}) {
    seeds.push_back(read_json_file(folder + name + "/config.json").dump() + '\0' +
                    read_json_file(folder + name + "/generation_config.json").dump());
  }
  for (const std::string& id : published_ids()) {
    const ModelConfig config = published_config(id);
    seeds.push_back(config.config.dump() + '\0' + config.generation.dump());
  }
  // The kinds of scaling.
  nlohmann::json llama = read_json_file(folder + "llama-gqa/config.json");
  for (
      const char* scaling :
      {R"({"rope_type":"linear","factor":2.0})", R"({"type":"dynamic","factor":2.0})",
       R"({"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64})",
       R"({"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":64,"beta_fast":32,"beta_slow":1,"mscale":1.0})"}) {
    llama["rope_scaling"] = nlohmann::json::parse(scaling);
    seeds.push_back(llama.dump());
  }
  return seeds;
}

void mutate(std::string* input, std::string_view other, Random& random) {
  std::vector<std::string> parts = split_sections(*input, '\0');
  const std::vector<std::string> others = split_sections(other, '\0');
  mutate_json(&parts[random.one_in(6) ? parts.size() - 1 : 0], others[0], random, kWords);
  *input = join_sections(parts, '\0');
}

}  // namespace quantbench::fuzz
