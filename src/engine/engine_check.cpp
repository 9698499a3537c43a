// What takes whole models of the published sizes, random weights and a GPU, and is not a measurement:
//  - engine_check logits: teacher-forced logits into a folder, for tools/parity.py to hold beside transformers;
//  - engine_check soak: the same generations again and again, of which every bit must come out the same;
//  - engine_check config, weights: a built-in configuration, a random tensor, for tools/parity.py;
//  - engine_check checkpoint: all of the random tensors as a checkpoint in fp16, whose loading can be timed.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>
#include <numeric>
#include <set>

#include "backend/hashing.h"
#include "backend/sampling.h"
#include "backend/test_backends.h"
#include "checkpoint/random_weights.h"
#include "checkpoint/safetensors.h"
#include "core/json.h"
#include "core/os.h"
#include "engine/buffers.h"
#include "model/loader.h"
#include "model/registry.h"

namespace quantbench {
namespace {

struct Options {
  std::string model = "meta-llama/Llama-3.2-1B", precision = "fp16", device = "cuda", engine = "auto";
  int outliers = 16, threads = 0;
  uint64_t seed = 42;
  // logits
  std::string ids, out;
  std::vector<std::string> cases;
  int chunk = 1024;
  // soak
  int64_t tokens = 100000;
  int generations = 48, passes_at_least = 2;
  // weights
  std::string tensor;
};

void print(const std::string& text) { std::cout << text << '\n' << std::flush; }

ModelConfig config_of(const std::string& model) {
  if (!os::exists(model)) return published_config(model);
  return {read_json_file(model), nullptr, model};
}

Precision precision_of(const std::string& name) {
  for (const Precision p : {Precision::fp16, Precision::int8, Precision::nf4}) {
    if (name == name_of(p)) return p;
  }
  fail(ErrorKind::usage, "--precision: expected fp16, int8 or 4bit, found '{}'", name);
}

std::unique_ptr<Backend> backend_of(const Options& o) {
#if defined(QB_HAS_CUDA_EMULATOR)
  if (o.device == kEmulatedCuda) return cuda_emulated::make_backend({.engine = o.engine});
#endif
  return make_backend(o.device, {.threads = o.threads, .engine = o.engine});
}

// Random weights whose logits say something of every layer, and of two right implementations nearly the same: what all
// layers add is a third of the embedding, so that a rounding does not grow from layer to layer; the last norm's weights
// are of both signs, or a tied head would only give every token itself back; logits have a sigma of about 3.
// tools/parity.py has the same table.
std::vector<RandomTensor> tensors_of(Model& model, int outliers) {
  const Shape& shape = model.shape();
  // Planted channels add their weight's square each to what the inputs' squares add up to.
  const double planted = outliers * (double{kOutlierNormWeight} * kOutlierNormWeight - 1.0);
  const auto root = [](double x) { return std::sqrt(x); };
  const double stream = 3.0 / root(shape.hidden);
  std::vector<RandomTensor> tensors;
  for (const WeightSlot& slot : model.weights()) {
    if (!slot.tied_to.empty()) continue;
    const auto is = [&](std::string_view part) { return slot.name.find(part) != std::string::npos; };
    const bool is_bias = slot.name.ends_with(".bias"),
               writes_stream = is("o_proj") || is("dense") || is("down_proj") || is("fc2");
    RandomTensor tensor{slot.name, slot.rows, slot.cols, RandomKind::linear};
    if (is("model.norm.weight") || is("final_layernorm.weight")) {
      tensor.kind = RandomKind::bias;  // of mean 0, without planted channels
      tensor.sigma = 1;
    } else if (slot.role == Role::vector) {
      tensor.kind = is_bias ? RandomKind::bias : RandomKind::norm;
      tensor.sigma = !is_bias ? 0.3 : writes_stream ? 0.1 * stream : 0.1;
    } else if (is("embed") || is("lm_head")) {
      tensor.sigma = stream;
    } else if (writes_stream) {
      tensor.sigma = 0.4 * stream / root(slot.cols) / root(shape.layers);
    } else {
      const double gain = is("q_proj") || is("k_proj") ? 1.4 : is("v_proj") ? 2.0 : is("up_proj") ? 1.0 : 1.5;
      tensor.sigma = gain / root(slot.cols + planted);
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

// A loaded model with the buffers and the recorded step of one sequence.
class Runner {
 public:
  Runner(const Options& o, int rows, int logit_rows, int positions, const Sampling& sampling = {})
      : backend_(backend_of(o)),
        model_(make_model(config_of(o.model), precision_of(o.precision))),
        shape_{.rows = rows, .logit_rows = logit_rows, .sequences = 1, .positions = positions} {
    const int64_t start_ns = os::steady_now_ns();
    const Plan plan = backend_->plan(decode_shapes(*model_), rows);
    load(*model_, RandomWeights(o.seed, tensors_of(*model_, o.outliers), o.outliers), *backend_, plan);
    buffers_ = std::make_unique<RunBuffers>(*backend_, model_->shape(), shape_);
    model_->make_tables(*backend_, positions);
    buffers_->decode.sampling = sampling;
    TapeOps tape;
    model_->decode(tape, buffers_->decode);
    const Plan step = backend_->plan(tape.tape(), rows);
    step_ = backend_->record(step);
    print(fmt::format("{} {} on {}, engine {}, {} outlier channels: loaded in {:.1f} s", o.model, o.precision,
                      backend_->device().name, step.engines.front().name, o.outliers,
                      static_cast<double>(os::steady_now_ns() - start_ns) * 1e-9));
  }

  Backend& backend() { return *backend_; }
  const Shape& shape() const { return model_->shape(); }
  const float* logits() const { return static_cast<const float*>(buffers_->decode.logits.data); }

  // Ids from `position` on in one call; the stream is left for head().
  void forward(std::span<const int32_t> ids, int position) {
    std::vector<int32_t> positions(ids.size()), sequences(ids.size());
    std::iota(positions.begin(), positions.end(), position);
    buffers_->upload_rows(buffers_->prefill.rows, ids, positions, sequences);
    state_ = buffers_->prefill.first(static_cast<int>(ids.size()));
    model_->forward(backend_->ops(), state_);
  }
  void head(int first, int count) { model_->head(backend_->ops(), state_, first, count); }
  void place(int32_t token, int32_t position) {
    const int32_t sequence = 0;
    buffers_->upload_rows(buffers_->decode.rows, {&token, 1}, {&position, 1}, {&sequence, 1});
  }
  void next_token() {
    const State& s = buffers_->decode;
    backend_->ops().next_token({.rows = s.rows, .logits = s.logits.slice(0, 1), .sampling = s.sampling});
  }
  void step() { step_->run(); }
  int32_t token() {
    int32_t token = 0;
    backend_->download(&token, buffers_->decode.rows.token, sizeof token);
    return token;
  }

 private:
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  StateShape shape_;
  std::unique_ptr<RunBuffers> buffers_;
  std::unique_ptr<Program> step_;
  State state_;
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

void write_logits(const Options& o) {
  const std::string bytes = os::read_file(o.ids, int64_t{1} << 30);
  std::vector<int32_t> all(bytes.size() / sizeof(int32_t));
  std::memcpy(all.data(), bytes.data(), all.size() * sizeof(int32_t));
  const std::span<const int32_t> ids(all);
  const std::vector<LogitsCase> cases(o.cases.begin(), o.cases.end());
  constexpr int kLogitRows = 64;
  int rows = 1, positions = 1;
  for (const LogitsCase& c : cases) {
    if (c.context < 0 || c.count < 1 || static_cast<size_t>(c.context + c.count) > ids.size())
      fail(ErrorKind::usage, "{}: the file of ids has {}", c.name, ids.size());
    rows = std::max({rows, c.steps ? 1 : c.count, std::min(c.context, o.chunk)});
    positions = std::max(positions, c.context + c.count);
  }
  Runner run(o, rows, kLogitRows, positions);
  const auto vocab = static_cast<size_t>(run.shape().vocab);
  std::vector<float> some(kLogitRows * vocab);
  os::make_directories(o.out);
  for (const LogitsCase& c : cases) {
    const int64_t start_ns = os::steady_now_ns();
    os::OutputFile file(fmt::format("{}/{}.f32", o.out, c.name));
    const auto write = [&](int count) {
      const std::span<float> part(some.data(), static_cast<size_t>(count) * vocab);
      run.backend().synchronize();
      run.backend().download(part.data(), run.logits(), part.size_bytes());
      file.write(std::as_bytes(part));
    };
    const auto slice = [&](int first, int count) {
      return ids.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
    };
    for (int first = 0; first < c.context; first += o.chunk) {
      run.forward(slice(first, std::min(o.chunk, c.context - first)), first);
    }
    if (c.steps) {
      for (int i = c.context; i < c.context + c.count; ++i) {
        run.place(ids[static_cast<size_t>(i)], i);
        run.step();
        write(1);
      }
    } else {
      run.forward(slice(c.context, c.count), c.context);
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
  std::vector<int32_t> prompt;
  int new_tokens;

  Generation(uint64_t number, int vocab) {
    uint64_t draws = 0;
    const auto below = [&](int count) {
      return static_cast<int>(mix64(number << 32 | draws++) % static_cast<uint64_t>(count));
    };
    // More rows than 64 take other kernels of a GPU, and more than 128 two of their tiles.
    constexpr int kMostPrompt = 160, kLeastNew = 64, kMostNew = 448;
    prompt.resize(static_cast<size_t>(1 + below(kMostPrompt)));
    for (int32_t& id : prompt) id = below(vocab);
    new_tokens = kLeastNew + below(kMostNew - kLeastNew + 1);
  }
  int positions() const { return static_cast<int>(prompt.size()) + new_tokens; }
};

// The hash of all logits, which lies on the device until the generation is over: nothing is read back on the way.
uint64_t generate(Runner& run, const Generation& g, Buffer& hash) {
  const auto* const words = reinterpret_cast<const uint32_t*>(run.logits());
  const int vocab = run.shape().vocab, last = static_cast<int>(g.prompt.size()) - 1;
  auto* const on_device = static_cast<uint64_t*>(hash.data());
  uint64_t value = 0;
  run.backend().upload(hash, 0, &value, sizeof value);
  run.place(0, last);  // the token comes out of the prompt
  run.forward(g.prompt, 0);
  run.head(last, 1);
  run.next_token();
  run.backend().hash(on_device, words, vocab);
  for (int i = 1; i < g.new_tokens; ++i) {
    run.step();
    run.backend().hash(on_device, words, vocab);
  }
  run.backend().synchronize();
  run.backend().download(&value, on_device, sizeof value);
  return fold_hash(value, static_cast<uint64_t>(run.token()));
}

bool soak(const Options& o) {
  const Shape shape = make_model(config_of(o.model), precision_of(o.precision))->shape();
  const int vocab = shape.vocab;
  std::vector<Generation> set;
  int rows = 1, positions = 1, above_64 = 0, above_128 = 0;
  for (int i = 0; i < o.generations; ++i) {
    set.emplace_back(static_cast<uint64_t>(i), vocab);
    const auto prompt = static_cast<int>(set.back().prompt.size());
    rows = std::max(rows, prompt);
    above_64 += prompt > 64;
    above_128 += prompt > 128;
    positions = std::max(positions, set.back().positions());
  }
  if (positions - 1 > shape.max_positions) {  // the last token is not fed
    fail(ErrorKind::usage,
         "soak: these generations have {} positions, the model {}; fewer --generations, or another model",
         positions - 1, shape.max_positions);
  }
  // Sampled, so that the text does not go round in a circle.
  Runner run(o, rows, 1, positions, {.temperature = 1, .seed = o.seed});
#if defined(QB_CHAOS)
  print("  chaos build: the persistent kernel waits at random");
#endif
  print(fmt::format("  prompts of at most {} tokens: {} of more than 64, {} of more than 128", rows, above_64,
                    above_128));
  const auto hash = run.backend().allocate(Use::workspace, sizeof(uint64_t));
  std::vector<uint64_t> first;
  int64_t made = 0, different = 0, repeated = 0;
  int passes = 0;
  const int64_t start_ns = os::steady_now_ns();
  const auto seconds = [&] { return static_cast<double>(os::steady_now_ns() - start_ns) * 1e-9; };
  for (; made < o.tokens || passes < o.passes_at_least; ++passes) {
    for (size_t i = 0; i < set.size(); ++i) {
      const uint64_t found = generate(run, set[i], *hash);
      made += set[i].new_tokens;
      if (passes == 0) {
        first.push_back(found);
        continue;
      }
      ++repeated;
      if (found == first[i]) continue;
      ++different;
      print(fmt::format("  DIFFERENT: pass {}, generation {} ({} + {} tokens): {:016x} instead of {:016x}", passes, i,
                        set[i].prompt.size(), set[i].new_tokens, found, first[i]));
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

void write_weights(const Options& o) {
  const auto model = make_model(config_of(o.model), precision_of(o.precision));
  const RandomWeights weights(o.seed, tensors_of(*model, o.outliers), o.outliers);
  const auto info = weights.find(o.tensor);
  if (!info) fail(ErrorKind::usage, "--tensor: there is no '{}'", o.tensor);
  const int64_t rows = info->shape.size() == 1 ? 1 : info->shape[0], cols = info->shape.back();
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
  const RandomWeights weights(o.seed, tensors_of(*model, o.outliers), o.outliers);
  std::vector<std::pair<std::string, TensorInfo>> tensors;
  for (const std::string& name : weights.names()) tensors.emplace_back(name, *weights.find(name));
  os::make_directories(o.out);
  SafetensorsWriter file(o.out + "/model.safetensors", tensors);
  constexpr int64_t kAtOnce = int64_t{4} << 20;
  std::vector<f16> some;
  for (const auto& [name, info] : tensors) {
    const int64_t rows = info.shape.size() == 1 ? 1 : info.shape[0], cols = info.shape.back(),
                  most = std::max<int64_t>(1, kAtOnce / cols);
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

int check(int argc, char** argv) {
  Options o;
  CLI::App app("Checks of whole models with random weights.");
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--model", o.model, "a built-in configuration, or a config.json");
  app.add_option("--precision", o.precision, "fp16, int8, 4bit");
  app.add_option("--device", o.device, "a backend of this build");
  app.add_option("--engine", o.engine, "of a GPU: graph (also: auto), persistent");
  app.add_option("--threads", o.threads, "0: one per physical core");
  app.add_option("--outlier-channels", o.outliers, "channels above LLM.int8's threshold")->check(CLI::Range(0, 4096));
  app.add_option("--seed", o.seed, "of the weights");
  auto* const logits = app.add_subcommand("logits", "teacher-forced logits [positions, vocab] in fp32");
  logits->add_option("--ids", o.ids, "a file of int32")->required();
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
  }
}
