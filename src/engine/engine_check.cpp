// What takes whole models of the published sizes, random weights and a GPU, and is not a measurement:
//  - engine_check logits: teacher-forced logits into a folder, for tools/parity.py to hold beside transformers; behind
//  a
//    prompt of a model with an encoder, and with a picture those of the prompt's last token come first;
//  - engine_check soak: the same generations again and again, of which every bit must come out the same;
//  - engine_check config, weights: a built-in configuration, a random tensor, for tools/parity.py;
//  - engine_check checkpoint: all of the random tensors as a checkpoint in fp16, whose loading can be timed.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstring>
#include <iostream>
#include <set>

#include "backend/hashing.h"
#include "backend/sampling.h"
#include "backend/test_backends.h"
#include "checkpoint/random_weights.h"
#include "checkpoint/safetensors.h"
#include "core/json.h"
#include "core/os.h"
#include "engine/test_whole_model.h"
#include "image/pixels.h"
#include "model/loader.h"
#include "model/registry.h"

namespace quantbench {
namespace {

struct Options {
  std::string model = "meta-llama/Llama-3.2-1B", precision = "fp16", device = "cuda", engine = "auto";
  int outliers = 16, threads = 0;
  uint64_t seed = 42;
  bool skip_refused = false;
  // logits
  std::string ids, prompt, picture, out;
  std::vector<std::string> cases;
  int chunk = 1024;
  // soak
  int64_t tokens = 100000;
  int generations = 48, passes_at_least = 2;
  // weights
  std::string tensor;
};

std::unique_ptr<Backend> backend_of(const Options& o) {
#if defined(QB_HAS_CUDA_EMULATOR)
  if (o.device == kEmulatedCuda) return cuda_emulated::make_backend({.engine = o.engine});
#endif
  return make_backend(o.device, {.threads = o.threads, .engine = o.engine});
}

// A loaded model, ready to run.
struct Loaded {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
  std::unique_ptr<Runner> run;

  Loaded(const Options& o, const StateShape& shape, const Sampling& sampling = {})
      : backend(backend_of(o)), model(make_model(config_of(o.model), precision_of(o.precision))) {
    const int64_t start_ns = os::steady_now_ns();
    const Plan plan = backend->plan(decode_shapes(*model, 1, shape.encoder_positions), shape.rows,
                                    encode_shapes(*model, shape.encoder_rows));
    load(*model, RandomWeights(o.seed, telling_tensors(*model, o.outliers), o.outliers), *backend, plan);
    run = std::make_unique<Runner>(*backend, *model, shape, std::string_view(), sampling);
    print(fmt::format("{} {} on {}, engine {}, {} outlier channels: loaded in {:.1f} s", o.model, o.precision,
                      backend->device().name, plan.engines.front().name, o.outliers,
                      static_cast<double>(os::steady_now_ns() - start_ns) * 1e-9));
  }
};

// "steps:1536:128": the logits of 128 positions behind a context of 1,536, whose ids are given `chunk` a call; the 128
// one a step, or ("prompt") in one call.
struct LogitsCase {
  std::string name;
  bool steps;
  int context, count;

  explicit LogitsCase(const std::string& text) : name(text) {
    const size_t first = text.find(':'), second = text.find(':', first + 1);
    const std::string kind = text.substr(0, first);
    if (second == std::string::npos || (kind != "steps" && kind != "prompt"))
      fail(ErrorKind::usage, "--case: expected steps:CONTEXT:COUNT or prompt:CONTEXT:COUNT, found '{}'", text);
    steps = kind == "steps";
    context = std::stoi(text.substr(first + 1, second - first - 1));
    count = std::stoi(text.substr(second + 1));
    std::replace(name.begin(), name.end(), ':', '_');
  }
};

std::vector<int32_t> read_ids(const std::string& path) {
  const std::string bytes = os::read_file(path, int64_t{1} << 30);
  std::vector<int32_t> ids(bytes.size() / sizeof(int32_t));
  std::memcpy(ids.data(), bytes.data(), ids.size() * sizeof(int32_t));
  return ids;
}

// What --prompt and --picture name, of a model with an encoder.
Input read_input(const Options& o, const Shape& shape) {
  const bool wants_prompt = shape.encoder.has_value();
  if (wants_prompt == o.prompt.empty() || shape.has_picture() == o.picture.empty()) {
    fail(ErrorKind::usage, "{}: --prompt belongs to models with an encoder, and --picture to those of pictures",
         o.model);
  }
  Input input;
  if (wants_prompt) input.ids = read_ids(o.prompt);
  if (!shape.has_picture()) return input;
  const Picture& picture = *shape.encoder->picture;
  const std::string bytes = os::read_file(o.picture, int64_t{1} << 30);
  const size_t values = static_cast<size_t>(picture.tokens()) * static_cast<size_t>(picture.values());
  if (bytes.size() != values) {
    fail(ErrorKind::usage, "--picture {}: {} bytes, expected {} of {} x {} pixels in RGB", o.picture, bytes.size(),
         values, picture.size, picture.size);
  }
  Rgb8 rgb(picture.size, picture.size);
  std::memcpy(rgb.row(0), bytes.data(), bytes.size());
  input.pictures.resize(values);
  siglip_patches(rgb, picture.patch, input.pictures);
  return input;
}

void write_logits(const Options& o) {
  const std::vector<int32_t> all = read_ids(o.ids);
  const std::span<const int32_t> ids(all);
  const Shape model = make_model(config_of(o.model), precision_of(o.precision))->shape();
  const Input input = read_input(o, model);
  const auto prompt = static_cast<int>(input.ids.size());
  const std::vector<LogitsCase> cases(o.cases.begin(), o.cases.end());
  constexpr int kLogitRows = 64;
  const int first_position = model.has_picture() ? prompt : 0;  // of the ids
  StateShape shape = session_shape(model, 1, 0, std::max(prompt, 1), 0);
  shape.rows = std::max(first_position, 1);
  shape.logit_rows = kLogitRows;
  for (const LogitsCase& c : cases) {
    if (c.context < 0 || c.count < 1 || static_cast<size_t>(c.context) + c.count > ids.size())
      fail(ErrorKind::usage, "{}: the file of ids has {}", c.name, ids.size());
    shape.rows = std::max({shape.rows, c.steps ? 1 : c.count, std::min(c.context, o.chunk)});
    shape.positions = std::max(shape.positions, first_position + c.context + c.count);
  }
  const Loaded loaded(o, shape);
  Runner& run = *loaded.run;
  os::make_directories(o.out);
  for (const LogitsCase& c : cases) {
    const int64_t start_ns = os::steady_now_ns();
    os::OutputFile file(fmt::format("{}/{}.f32", o.out, c.name));
    const auto write = [&](int count) { file.write(std::as_bytes(std::span<const float>(run.fetch_logits(count)))); };
    const auto slice = [&](int first, int count) {
      return ids.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
    };
    if (model.encoder) run.encode(input);
    if (model.has_picture()) {
      run.forward(input.ids, 0);
      run.head(prompt - 1, 1);
      write(1);
    }
    for (int first = 0; first < c.context; first += o.chunk) {
      run.forward(slice(first, std::min(o.chunk, c.context - first)), first_position + first);
    }
    if (c.steps) {
      for (int i = c.context; i < c.context + c.count; ++i) {
        run.place(ids[static_cast<size_t>(i)], first_position + i);
        run.step();
        write(1);
      }
    } else {
      run.forward(slice(c.context, c.count), first_position + c.context);
      for (int first = 0; first < c.count; first += kLogitRows) {
        const int count = std::min(kLogitRows, c.count - first);
        run.head(first, count);
        write(count);
      }
    }
    file.commit();
    print(fmt::format("  {}: {:.2f} s", c.name, static_cast<double>(os::steady_now_ns() - start_ns) * 1e-9));
  }
}

// A generation whose prompt and length follow from its number.
struct Generation {
  Input input;
  int text, new_tokens, fed_before;

  Generation(uint64_t number, const Shape& shape) {
    uint64_t draws = 0;
    const auto below = [&](int count) {
      return static_cast<int>(mix64(number << 32 | draws++) % static_cast<uint64_t>(count));
    };
    // More rows than 64 take other kernels of a GPU, and more than 128 two of their tiles.
    constexpr int kMostPrompt = 160, kLeastNew = 64, kMostNew = 448;
    text = 1 + below(kMostPrompt);
    input = some_input(shape, text, number);
    const int words = shape.has_picture() ? shape.encoder->picture->token : shape.vocab;
    for (int32_t& id : std::span(input.ids).last(static_cast<size_t>(text))) id = below(words);
    new_tokens = kLeastNew + below(kMostNew - kLeastNew + 1);
    fed_before = quantbench::fed_before(shape, text);
  }
  int positions() const { return fed_before + new_tokens; }
};

// The hash of all logits, which lies on the device until the generation is over: nothing is read back on the way.
uint64_t generate(const Loaded& loaded, const Generation& g, Buffer& hash) {
  Runner& run = *loaded.run;
  const Shape& shape = loaded.model->shape();
  const auto* const words = reinterpret_cast<const uint32_t*>(run.logits());
  auto* const on_device = static_cast<uint64_t*>(hash.data());
  uint64_t value = 0;
  loaded.backend->upload(hash, 0, &value, sizeof value);
  const auto keep = [&] { loaded.backend->hash(on_device, words, shape.vocab); };
  if (shape.encoder) run.encode(g.input);
  run.place(shape.decoder_start, g.fed_before - 1);
  if (shape.has_cross_attention()) {
    run.step();
  } else {  // the token comes out of the prompt
    run.forward(g.input.ids, 0);
    run.head(g.fed_before - 1, 1);
    run.next_token();
  }
  keep();
  for (int i = 1; i < g.new_tokens; ++i) {
    run.step();
    keep();
  }
  const int32_t last = run.fetch_token();
  loaded.backend->download(&value, on_device, sizeof value);
  return fold_hash(value, static_cast<uint64_t>(last));
}

bool soak(const Options& o) {
  const Shape model = make_model(config_of(o.model), precision_of(o.precision))->shape();
  std::vector<Generation> set;
  int text = 1, positions = 1, above_64 = 0, above_128 = 0;
  for (int i = 0; i < o.generations; ++i) {
    set.emplace_back(static_cast<uint64_t>(i), model);
    text = std::max(text, set.back().text);
    above_64 += set.back().text > 64;
    above_128 += set.back().text > 128;
    positions = std::max(positions, set.back().positions());
  }
  if (positions - 1 > model.max_positions) {  // the last token is not fed
    fail(ErrorKind::usage,
         "soak: these generations have {} positions, the model {}; fewer --generations, or another model",
         positions - 1, model.max_positions);
  }
  StateShape shape = session_shape(model, 1, 0, prompt_tokens(model, text), 0);
  shape.positions = positions;
  // Sampled, so that the text does not go round in a circle.
  const Loaded loaded(o, shape, {.temperature = 1, .seed = o.seed});
#if defined(QB_CHAOS)
  print("  chaos build: the persistent kernel waits at random");
#endif
  print(
      fmt::format("  texts of at most {} tokens: {} of more than 64, {} of more than 128", text, above_64, above_128));
  const auto hash = loaded.backend->allocate(Use::workspace, sizeof(uint64_t));
  std::vector<uint64_t> first;
  int64_t made = 0, different = 0, repeated = 0;
  int passes = 0;
  const int64_t start_ns = os::steady_now_ns();
  const auto seconds = [&] { return static_cast<double>(os::steady_now_ns() - start_ns) * 1e-9; };
  for (; made < o.tokens || passes < o.passes_at_least; ++passes) {
    for (size_t i = 0; i < set.size(); ++i) {
      const uint64_t found = generate(loaded, set[i], *hash);
      made += set[i].new_tokens;
      if (passes == 0) {
        first.push_back(found);
        continue;
      }
      ++repeated;
      if (found == first[i]) continue;
      ++different;
      print(fmt::format("  DIFFERENT: pass {}, generation {} ({} + {} tokens): {:016x} instead of {:016x}", passes, i,
                        set[i].text, set[i].new_tokens, found, first[i]));
    }
    print(fmt::format("  pass {}: {} tokens, {:.1f} s", passes, made, seconds()));
  }
  uint64_t all = 0;
  for (const uint64_t one : first) all = fold_hash(all, one);
  const std::set<uint64_t> unlike(first.begin(), first.end());
  print(fmt::format(
      "  {} of {} repetitions differed, hash {:016x}: {} {} {}, {} tokens in {:.1f} s, {} passes of {} generations "
      "with {} "
      "different hashes",
      different, repeated, all, o.model, o.precision, o.engine, made, seconds(), passes, set.size(), unlike.size()));
  return different == 0 && unlike.size() == set.size();
}

// Of a tensor that is kept as rows.
std::pair<int64_t, int64_t> rows_and_cols(const TensorInfo& info) {
  if (info.shape.size() == 1) return {1, info.shape[0]};
  int64_t cols = 1;
  for (size_t i = 1; i < info.shape.size(); ++i) cols *= info.shape[i];
  return {info.shape[0], cols};
}

void write_weights(const Options& o) {
  const auto model = make_model(config_of(o.model), precision_of(o.precision));
  const RandomWeights weights(o.seed, telling_tensors(*model, o.outliers), o.outliers);
  const auto info = weights.find(o.tensor);
  if (!info) fail(ErrorKind::usage, "--tensor: there is no '{}'", o.tensor);
  const auto [rows, cols] = rows_and_cols(*info);
  std::vector<f16> values(static_cast<size_t>(rows * cols));
  weights.read_f16(o.tensor, 0, rows, values.data());
  os::OutputFile file(o.out);
  file.write(std::as_bytes(std::span<const f16>(values)));
  file.commit();
}

// A folder that quantbench opens as a model.
void write_checkpoint(const Options& o) {
  const ModelConfig config = config_of(o.model);
  const auto model = make_model(config, Precision::fp16);
  const RandomWeights weights(o.seed, telling_tensors(*model, o.outliers), o.outliers);
  std::vector<std::pair<std::string, TensorInfo>> tensors;
  for (const std::string& name : weights.names()) tensors.emplace_back(name, *weights.find(name));
  os::make_directories(o.out);
  SafetensorsWriter file(o.out + "/model.safetensors", tensors);
  constexpr int64_t kAtOnce = int64_t{4} << 20;
  std::vector<f16> some;
  for (const auto& [name, info] : tensors) {
    const auto [rows, cols] = rows_and_cols(info);
    const int64_t most = std::max<int64_t>(1, kAtOnce / cols);
    for (int64_t first = 0; first < rows; first += most) {
      const int64_t count = std::min(most, rows - first);
      some.resize(static_cast<size_t>(count * cols));
      weights.read_f16(name, first, count, some.data());
      file.write(std::as_bytes(std::span<const f16>(some)));
    }
  }
  file.commit();
  const std::string text = config.config.dump(1);
  os::OutputFile json(o.out + "/config.json");
  json.write(std::as_bytes(std::span<const char>(text)));
  json.commit();
}

// Whether the engine cannot run the model, which is then said.
bool is_refused(const Options& o) {
  const auto backend = backend_of(o);
  try {
    backend->plan(decode_shapes(*make_model(config_of(o.model), precision_of(o.precision))), 1);
    return false;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::device) throw;
    print(fmt::format("SKIPPED: {} {}: {}", o.model, o.precision, error.what()));
    return true;
  }
}

int check(int argc, char** argv) {
  Options o;
  CLI::App app("Checks of whole models with random weights.");
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--model", o.model, "a built-in configuration, or a config.json");
  app.add_option("--precision", o.precision, "fp16, bf16, int8, 4bit");
  app.add_option("--device", o.device, "a backend of this build");
  app.add_option("--engine", o.engine, "of a GPU: graph (also: auto), persistent");
  app.add_option("--threads", o.threads, "0: one per physical core");
  app.add_option("--outlier-channels", o.outliers, "channels above LLM.int8's threshold")->check(CLI::Range(0, 4096));
  app.add_option("--seed", o.seed, "of the weights");
  app.add_flag("--skip-refused", o.skip_refused, "an engine that cannot run the model is no failure, and said aloud");
  auto* const logits = app.add_subcommand("logits", "teacher-forced logits [positions, vocab] in fp32");
  logits->add_option("--ids", o.ids, "a file of int32")->required();
  logits->add_option("--prompt", o.prompt, "a file of int32, of a model with an encoder");
  logits->add_option("--picture", o.picture, "a file of bytes [size, size, 3], RGB, in front of that prompt");
  logits->add_option("--out", o.out, "a folder for a file a case")->required();
  logits->add_option("--case", o.cases, "steps:CONTEXT:COUNT or prompt:CONTEXT:COUNT")->delimiter(',')->required();
  logits->add_option("--chunk", o.chunk, "tokens of the context a call")->check(CLI::Range(1, 1 << 20));
  auto* const soaked = app.add_subcommand("soak", "the same generations again and again, all bits compared");
  soaked->add_option("--tokens", o.tokens, "at least so many")->check(CLI::Range(1, 1 << 30));
  soaked->add_option("--generations", o.generations, "different ones, of 256 tokens on average")
      ->check(CLI::Range(1, 1 << 16));
  soaked->add_option("--passes", o.passes_at_least, "at least so many")->check(CLI::Range(1, 1 << 20));
  auto* const config = app.add_subcommand("config", "prints the model's config.json");
  auto* const weights = app.add_subcommand("weights", "a tensor in fp16");
  weights->add_option("--tensor", o.tensor, "its name")->required();
  weights->add_option("--out", o.out, "a file")->required();
  auto* const checkpoint = app.add_subcommand("checkpoint", "config.json and all tensors in fp16");
  checkpoint->add_option("--out", o.out, "a folder")->required();
  CLI11_PARSE(app, argc, argv);
  if (o.skip_refused && is_refused(o)) return 0;
  if (checkpoint->parsed()) write_checkpoint(o);
  if (logits->parsed()) write_logits(o);
  if (weights->parsed()) write_weights(o);
  if (config->parsed()) print(config_of(o.model).config.dump());
  return soaked->parsed() && !soak(o) ? 1 : 0;
}

}  // namespace
}  // namespace quantbench

int main(int argc, char** argv) {
  try {
    return quantbench::check(argc, argv);
  } catch (const quantbench::Error& error) {
    std::cerr << error.what() << '\n';
    return quantbench::exit_code(error.kind());
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return quantbench::exit_code(quantbench::ErrorKind::internal);
  }
}
