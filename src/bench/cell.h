// What is to be measured: a cell = a model in one precision on one test. Plain data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/model.h"

namespace quantbench {

enum class TestKind : uint8_t {
  generation,  // a prompt, then new tokens: "p8+n64"
  prefill,     // prompt alone, up to its first token: "pp512"
  decode,      // from one token on: "tg64"
};
std::string_view name_of(TestKind kind);  // "generation", "prefill", "decode"

struct Test {
  TestKind kind = TestKind::generation;
  int prompt_tokens = 0;  // these three of each sequence
  int new_tokens = 0;
  int depth = 0;             // tokens in the cache before the prompt; made, but not timed
  int batch = 1;             // sequences side by side
  std::string name() const;  // "tg64", "tg64 @ d512 b8"
};

// Where weights come from; enough for a worker to load them.
struct ModelSource {
  std::string name;           // as shown and recorded: a Hub id, or the folder as given
  std::string shown() const;  // for messages: "meta-llama/Llama-3.2-1B (random)"
  std::string commit;         // of a snapshot of the Hub's cache; empty otherwise
  std::string folder;         // of the checkpoint or configuration; may be empty with random weights of a built-in one
  bool random_weights = false;
  uint64_t weight_seed = 0;
  int outlier_channels = 0;
  bool allow_nonfinite = false, allow_symlinks = false;
};

struct EngineOptions {
  std::string device = "auto";
  int threads = 0;              // 0: one per physical core
  std::string engine = "auto";  // how a GPU repeats the step (BackendOptions)
};

struct Cell {
  ModelSource model;
  Precision precision = Precision::fp16;
  Test test;
  EngineOptions engine;
  std::vector<int32_t> prompt;  // ids [batch, prompt_tokens], identical in every precision, as are those of the context
  std::vector<int32_t> stop_at;  // empty: exactly test.new_tokens
  std::vector<int32_t> context;  // ids [batch, depth]
  bool host_tokens = false;      // the host looks at each token of the one sequence as it comes, on a GPU too
  std::string picture = {};      // a file, of a model that takes pictures; each sequence has the same one
  // What 4bit is in this model, for the record; nothing: it could not be opened.
  std::optional<bool> nf4_double_quantized = {};
  std::string half = {};      // "A" or "B" of an A/A run, which measures each cell as if it were two
  std::string label() const;  // "Llama-3.2-1B int8 p8+n64", of a half "… int8 A p8+n64", for messages
};

}  // namespace quantbench
