// From the flags of `run` to cells: models found, prompts encoded, everything refused that can be before measuring.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/cell.h"
#include "bench/identity.h"
#include "bench/measure.h"
#include "bench/quality.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace quantbench {

// Flags as they were typed; `given` ones were not left at their default.
struct RunFlags {
  std::string model_ids;   // empty: the bundled model
  std::string precisions;  // empty: all, or the one that a checkpoint is stored in
  std::string prompt = "Explain quantization in simple terms.";
  bool prompt_given = false;  // else see prompt_of()
  std::string max_new_tokens = "64";
  bool max_new_tokens_given = false;
  std::vector<std::string> prompt_counts, new_counts, pairs;  // -p, -n, -pg
  std::vector<std::string> depths, batches;                   // -d, -b
  std::string image_path, tokenizer;
  std::string device = "auto";  // of run: a list
  std::string engine = "auto", threads = "0";
  std::string seed = "42";
  std::string runs = "auto", target_ci = "1%", max_time = "120", cell_timeout = "900";
  bool target_ci_given = false, max_time_given = false;
  bool aa = false;  // each cell twice
  bool host_tokens = false;
  bool offline = false;  // nothing is downloaded
  bool random_weights = false, stop_at_eos = false, energy = false, explain = false, allow_nonfinite = false,
       allow_symlinks = false;
  std::string outlier_channels = "0";
  bool quality_given = false;
  std::string quality;  // a file; empty: the built-in text
  std::string quality_windows = "all", quality_reference = "none";
  std::string out, database;
  bool resume = false, dry_run = false, no_probe = false;
};

struct PlannedModel {
  ModelSource source;
  Shape shape;
  std::shared_ptr<const Tokenizer> tokenizer;  // null with random weights and no --tokenizer
  ModelIdentity identity;
  std::string picture;          // a file, of a model that takes pictures
  std::string picture_warning;  // what the user should know of it, or nothing
  std::optional<QualityText> quality;
};

struct RefusedCell {
  Cell cell;  // of a model that could not be opened: without prompt, prompt_tokens may be 0
  Error error;
};

// The cells that are compared with one another: a model, a test, all precisions.
struct PlannedGroup {
  size_t model = 0, device = 0;  // indices
  size_t first_row = 0;          // of its rows among those of the plan: those that are refused, then its cells
  std::vector<Cell> cells;
  std::vector<RefusedCell> refused;  // what is wrong with one model or precision must not cost the others
  std::optional<std::string> prompt_text;
};

struct RunPlan {
  std::vector<PlannedModel> models;
  std::vector<std::string> devices;  // as --device names them
  std::vector<PlannedGroup> groups;  // one device after another
  MeasureOptions options;
  std::string quality_reference;  // as --quality-reference names it; empty: quality is not measured
  size_t rows = 0;
};

// Error usage, bad_model, hub, disk, where not a single cell can be measured.
RunPlan plan_run(const RunFlags& flags);

// Finds a model as --model-id names it: "bundled" or nothing, a folder, a Hub id (in the cache, else downloaded with
// its progress on standard error), or (random weights) a built-in configuration.
ModelSource find_model(const std::string& id, const RunFlags& flags);
std::shared_ptr<const Tokenizer> open_tokenizer(const std::string& file_or_folder, const Shape& shape,
                                                bool allow_symlinks);
// The file that --image-path names, or the sample picture of a model that takes one; empty of one that takes none.
// warning: what decoding it remarked. Error usage where the flag and the model do not belong together, or there is no
// such file, or it is no picture that can be read.
std::string picture_for(const std::string& path, const Shape& shape, std::string* warning = nullptr);
// The prompt that was given, else the usual one: of a model that takes pictures "caption en".
std::string prompt_of(const RunFlags& flags, const Shape& shape);
// The ids of a prompt. Of a model that takes pictures, as transformers' PaliGemmaProcessor makes them whatever the
// tokenizer's template says: those that stand for a picture, <bos>, the text, a line's end. A prompt may begin with one
// token of a picture, which is how that processor asks for them to be written: it is the picture that comes first
// anyway. Error bad_model where there is no <bos>; usage for a prompt that has such tokens elsewhere, is empty (and no
// BOS makes it one token), not UTF-8, or too long.
std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, const std::string& prompt, const Shape& shape,
                                   int new_tokens);

}  // namespace quantbench
