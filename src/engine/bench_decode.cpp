// How near whole-model decoding and prefill come to what the machine gives: tokens/s, bytes/s and their share of the
// read bandwidth measured right before and after each round, prefill flop/s beside OpenBLAS's sgemm (where it was found
// at build time). docs/performance.md quotes this program. With --check nothing is timed before its logits agree with
// those that another path gives; with --json each figure is also a line of JSON, which tools/gpu_figures.awk reads.
//
//   bench_decode [--model-id meta-llama/Llama-3.2-1B,microsoft/phi-2] [--precision fp16,int8,4bit] [-b 1,8] [-d 0,512]
//   …
#include <CLI/CLI.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <iostream>
#include <numeric>
#include <optional>

#include "backend/cost_ops.h"
#include "backend/test_backends.h"
#include "core/json.h"
#include "core/os.h"
#include "engine/buffers.h"
#include "engine/relative_error.h"
#include "engine/session.h"
#include "model/loader.h"
#include "model/registry.h"

#if defined(QB_OPENBLAS)
#include <cblas.h>
#endif

namespace quantbench {
namespace {

struct Options {
  std::vector<std::string> models{"meta-llama/Llama-3.2-1B"}, precisions{"fp16", "int8", "4bit"};
  std::string device = "cpu", isa = "auto", check_with;
  std::vector<std::string> engines{"auto"};
  int threads = 0, rounds = 12, new_tokens = 17, prompt = 8, prefill_rounds = 5, outliers = 0, checked = 0;
  std::vector<int> batches{1}, depths{0}, prefills{512};
  size_t read_bytes = size_t{1} << 30;
  bool json = false;
};

void print(const std::string& text) { std::cout << text << '\n' << std::flush; }

// Multiplications and additions of a prefill of `rows` tokens: linears, causal attention, the head for one row.
double prefill_flops(Model& model, int rows) {
  const Shape& s = model.shape();
  double linear = 0, head = 0;
  for (const WeightSlot& slot : model.weights()) {
    if (slot.role == Role::output_head)
      head += 2.0 * slot.rows * slot.cols;
    else if (std::holds_alternative<Matrix*>(slot.target))
      linear += 2.0 * slot.rows * slot.cols;
  }
  const double pairs = 0.5 * rows * (rows + 1.0);
  return linear * rows + head + 4.0 * pairs * s.heads * s.head_dim * s.layers;
}

double median(std::vector<double> values) {
  if (values.empty()) return NAN;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// flop/s of a product of the sizes of a prefill in fp32; without OpenBLAS there is none.
class Sgemm {
 public:
#if defined(QB_OPENBLAS)
  static constexpr bool kIsThere = true;
#else
  static constexpr bool kIsThere = false;
#endif
  explicit Sgemm(int threads) {
#if defined(QB_OPENBLAS)
    openblas_set_num_threads(threads);
    for (size_t i = 0; i < x_.size(); ++i) x_[i] = static_cast<float>(i % 251) / 251 - 0.5f;
    for (size_t i = 0; i < w_.size(); ++i) w_[i] = static_cast<float>(i % 241) / 241 - 0.5f;
    measure();
#else
    (void)threads;
#endif
  }
  double measure() {
#if defined(QB_OPENBLAS)
    const int64_t start_ns = os::steady_now_ns();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, kRows, kN, kK, 1, x_.data(), kK, w_.data(), kK, 0, y_.data(),
                kN);
    return 2.0 * kRows * kN * kK * 1e9 / static_cast<double>(os::steady_now_ns() - start_ns);
#else
    return 0;
#endif
  }

 private:
#if defined(QB_OPENBLAS)
  static constexpr int kRows = 512, kN = 4096, kK = 2048;
  std::vector<float> x_ = std::vector<float>(size_t{kRows} * kK), w_ = std::vector<float>(size_t{kN} * kK),
                     y_ = std::vector<float>(size_t{kRows} * kN);
#endif
};

Precision precision_of(const std::string& name) {
  for (const Precision p : {Precision::fp16, Precision::int8, Precision::nf4}) {
    if (name == name_of(p)) return p;
  }
  fail(ErrorKind::usage, "--precision: expected fp16, int8 or 4bit, found '{}'", name);
}

std::unique_ptr<Backend> backend_of(const std::string& device, const Options& o) {
#if defined(QB_HAS_CUDA_EMULATOR)
  // For trying this program out: what it times there says nothing.
  if (device == kEmulatedCuda) return cuda_emulated::make_backend({.gpu = cuda_emulated::kEmulatedHopper});
#endif
  return make_backend(device, {.threads = o.threads, .isa = o.isa});
}

ModelConfig config_of(const std::string& model) {
  if (!os::exists(model)) return published_config(model);
  return {read_json_file(model), nullptr, model};
}

// A model of random weights on a backend.
struct Loaded {
  std::string id;
  Precision precision;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
  Plan plan;
  LoadReport report;

  Loaded(const std::string& of, Precision p, const Options& o, const std::string& device)
      : id(of),
        precision(p),
        backend(backend_of(device, o)),
        model(make_model(config_of(id), precision)),
        plan(backend->plan(decode_shapes(*model),
                           std::max(*std::max_element(o.prefills.begin(), o.prefills.end()), o.prompt))),
        report(load(*model, RandomWeights(42, random_tensors(*model), o.outliers), *backend, plan)) {}

  int vocab() const { return model->shape().vocab; }
  // Of a step of `batch` sequences: what --engine names, where there are engines to choose from.
  std::string engine(const std::string& asked_for, int batch) const {
    const Plan step = backend->plan(decode_shapes(*model, batch), batch);
    if (asked_for == "auto" || !backend->device().gpu) return std::string(step.engines.front().name);
    if (step.has(asked_for)) return asked_for;
    fail(ErrorKind::device, "--engine {}: this GPU, this model or a batch of sequences cannot run so", asked_for);
  }
};

std::vector<int32_t> some_ids(int count, int vocab) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>((i * 7919 + 13) % static_cast<size_t>(vocab));
  }
  return ids;
}

// How far logits may be from those of another right path, as a share of them: of any position, and of all together.
struct Limits {
  double worst, all;
};
Limits limits_of(Precision precision, int outliers, bool same_rows) {
  if (precision != Precision::int8) return {1e-2, 1e-2};
  // An activation that rounding takes across the threshold changes what follows, and with planted channels many are
  // near it: on the CPU two right paths were 0.24 apart at the worst of 64 positions and 0.09 in all, and one that left
  // out a single outlier of each row was 1.8 and 1.1 away.
  if (outliers > 0) return {0.6, 0.25};
  // An activation's code may fall the other way; and LLM.int8's rule for more than one row takes columns apart that a
  // step alone does not (seen: 0.04; another sequence's logits are off by more than 1).
  return same_rows ? Limits{5e-2, 5e-2} : Limits{0.1, 0.1};
}

struct Apart {
  double worst = 0, all = 0;
  bool is_within(const Limits& limits) const { return worst <= limits.worst && all <= limits.all; }
};

// Logits [rows, vocab] beside those that something else gave.
Apart distance(std::span<const float> found, std::span<const float> expected, size_t vocab) {
  Apart apart{0, relative_error(found, expected)};
  for (size_t at = 0; at < expected.size(); at += vocab) {
    const double error = relative_error(found.subspan(at, vocab), expected.subspan(at, vocab));
    if (!(error <= apart.worst)) apart.worst = std::isnan(error) ? INFINITY : error;
  }
  return apart;
}

std::string text_of(const Apart& apart) {
  if (apart.worst == 0) return "equal";
  return fmt::format("relative error at most {:.1e}, {:.1e} in all", apart.worst, apart.all);
}

void compare(const Loaded& loaded, const std::string& what, const std::string& beside, std::span<const float> found,
             std::span<const float> expected, const Limits& limits) {
  const auto vocab = static_cast<size_t>(loaded.vocab());
  const Apart apart = distance(found, expected, vocab);
  size_t same = 0;
  for (size_t at = 0; at < expected.size(); at += vocab) {
    const auto a = found.subspan(at, vocab), b = expected.subspan(at, vocab);
    same += std::max_element(a.begin(), a.end()) - a.begin() == std::max_element(b.begin(), b.end()) - b.begin();
  }
  print(fmt::format("  {} beside {}, {} positions: {}, same best token {} times", what, beside, expected.size() / vocab,
                    text_of(apart), same));
  if (apart.is_within(limits)) return;
  fail(ErrorKind::internal, "{} {}: the logits of {} are wrong ({}; expected {} and {}); not timed", loaded.id,
       name_of(loaded.precision), what, text_of(apart), limits.worst, limits.all);
}

// The same calls with the same ids a second time: not even the order of a sum may depend on which block came first.
void require_same_bits(const Loaded& loaded, const std::string& what, std::span<const float> found,
                       std::span<const float> again) {
  const auto differ = [](float a, float b) { return std::bit_cast<uint32_t>(a) != std::bit_cast<uint32_t>(b); };
  size_t different = 0, first = 0;
  for (size_t i = found.size(); i-- > 0;) {
    if (!differ(found[i], again[i])) continue;
    ++different;
    first = i;
  }
  if (different == 0) {
    print(fmt::format("  {} a second time: the same to the bit", what));
    return;
  }
  const auto vocab = static_cast<size_t>(loaded.vocab());
  fail(ErrorKind::internal, "{} {}: {}: {} of {} logits of a second run are DIFFERENT, the first in row {}; not timed",
       loaded.id, name_of(loaded.precision), what, different, found.size(), first / vocab);
}

std::vector<float> steps_of(const Loaded& loaded, const std::string& engine, std::span<const int32_t> ids, int depth) {
  const auto count = static_cast<int>(ids.size()) - depth;
  Session session(*loaded.backend, *loaded.model, session_shape(1, depth, count, 0), engine);
  session.fill_context(ids.first(static_cast<size_t>(depth)));
  return session.logits(ids.subspan(static_cast<size_t>(depth)), true);
}

// The same steps with each op called by itself: no graph, nothing recorded.
std::vector<float> steps_op_by_op(const Loaded& loaded, std::span<const int32_t> ids, int depth) {
  Backend& backend = *loaded.backend;
  Model& model = *loaded.model;
  const auto count = static_cast<int>(ids.size());
  const StateShape shape = session_shape(1, depth, 1, count - depth);
  RunBuffers buffers(backend, model.shape(), shape);
  model.make_tables(backend, shape.positions);
  TapeOps tape;
  model.decode(tape, buffers.decode);
  const auto workspace_of = backend.record(backend.plan(tape.tape(), shape.rows));
  const auto vocab = static_cast<size_t>(loaded.vocab());
  std::vector<float> out(static_cast<size_t>(count - depth) * vocab);
  for (int first = 0, rows = 0; first < count; first += rows) {
    rows = first < depth ? std::min(kContextRows, depth - first) : 1;
    std::vector<int32_t> positions(static_cast<size_t>(rows)), sequences(positions.size());
    std::iota(positions.begin(), positions.end(), first);
    buffers.upload_rows(buffers.prefill.rows, ids.subspan(static_cast<size_t>(first), positions.size()), positions,
                        sequences);
    State state = buffers.prefill.first(rows);
    model.forward(backend.ops(), state);
    backend.synchronize();
    if (first < depth) continue;
    model.head(backend.ops(), state, 0, 1);
    backend.synchronize();
    backend.download(out.data() + static_cast<size_t>(first - depth) * vocab, buffers.decode.logits.data,
                     vocab * sizeof(float));
  }
  return out;
}

// An engine's logits, one token a step, behind `depth` tokens: a second time, beside another way of making the same
// steps, and beside all of the tokens in one call, which other kernels compute. Nothing is timed that does not agree.
void check_engine(const Loaded& loaded, const std::string& engine, int depth, const Options& o) {
  const std::vector<int32_t> ids = some_ids(depth + o.checked, loaded.vocab());
  const std::span<const int32_t> own = std::span(ids).subspan(static_cast<size_t>(depth));
  std::vector<float> found, again, in_one_call;
  {
    Session session(*loaded.backend, *loaded.model, session_shape(1, depth, o.checked, 0), engine);
    session.fill_context(std::span(ids).first(static_cast<size_t>(depth)));
    found = session.logits(own, true);
    again = session.logits(own, true);
    in_one_call = session.logits(own, false);
  }
  const std::string what = depth > 0 ? fmt::format("{} @ d{}", engine, depth) : engine;
  require_same_bits(loaded, fmt::format("{}, {} positions,", what, o.checked), found, again);
  const Limits limits = limits_of(loaded.precision, o.outliers, true);
  if (!o.check_with.empty()) {
    const Loaded other(loaded.id, loaded.precision, o, o.check_with);
    compare(loaded, what, o.check_with, found, steps_of(other, other.engine("auto", 1), ids, depth), limits);
  } else if (engine == "persistent") {
    compare(loaded, what, "the graph engine", found, steps_of(loaded, "graph", ids, depth), limits);
  } else if (engine == "graph") {
    compare(loaded, what, "its ops called one by one", found, steps_op_by_op(loaded, ids, depth), limits);
  }
  compare(loaded, what, "the same tokens in one call", found, in_one_call,
          limits_of(loaded.precision, o.outliers, false));
}

// Every sequence's logits in the batch, one token a step: a second time, and beside those of the sequence alone; behind
// `depth` tokens. LLM.int8 takes an outlier column of one sequence apart for all, so there sequences that are alike,
// whose outliers are those of each, are looked at as well.
void check_batch(const Loaded& loaded, const std::string& engine, int depth, int batch, int outliers) {
  constexpr int kTokens = 4;
  const int vocab = loaded.vocab();
  const size_t each = static_cast<size_t>(depth) + kTokens;
  // ids [sequences, each], the context first.
  const auto logits = [&](std::span<const int32_t> ids, int sequences, bool alike) {
    std::vector<int32_t> context, own;
    for (auto left = ids; !left.empty(); left = left.subspan(each)) {
      context.insert(context.end(), left.begin(), left.begin() + depth);
      own.insert(own.end(), left.begin() + depth, left.begin() + depth + kTokens);
    }
    Session session(*loaded.backend, *loaded.model, session_shape(sequences, depth, kTokens, 0), engine);
    session.fill_context(context);
    std::vector<float> found = session.logits(own, true);
    if (sequences > 1) {
      const char* const kind = alike ? "equal " : "";
      require_same_bits(loaded, fmt::format("{} {}sequences", sequences, kind), found, session.logits(own, true));
    }
    return found;
  };
  const auto check = [&](bool alike) {
    std::vector<int32_t> ids = some_ids(batch * (depth + kTokens), vocab);
    for (size_t i = each; alike && i < ids.size(); ++i) ids[i] = ids[i - each];
    const std::vector<float> together = logits(ids, batch, alike);
    std::vector<float> alone;
    Apart most;
    for (size_t s = 0; s < static_cast<size_t>(batch); ++s) {
      if (s == 0 || !alike) alone = logits(std::span(ids).subspan(s * each, each), 1, alike);
      const Apart apart =
          distance({together.data() + s * alone.size(), alone.size()}, alone, static_cast<size_t>(vocab));
      most = {std::max(most.worst, apart.worst), std::max(most.all, apart.all)};
    }
    print(fmt::format("  {} {}sequences beside each of them alone: {}", batch, alike ? "equal " : "", text_of(most)));
    if (most.is_within(limits_of(loaded.precision, outliers, alike))) return;
    fail(ErrorKind::internal, "{} {}: the logits of {} sequences are wrong; not timed", loaded.id,
         name_of(loaded.precision), batch);
  };
  check(false);
  if (loaded.precision == Precision::int8) check(true);
}

// One figure for programs to read.
void print_json(const Loaded& loaded, const std::string& figure, const std::string& engine, const Options& o,
                std::initializer_list<std::pair<const std::string, nlohmann::json>> values) {
  if (!o.json) return;
  nlohmann::json line{{"figure", figure},
                      {"model", loaded.id},
                      {"precision", name_of(loaded.precision)},
                      {"engine", engine},
                      {"device", loaded.backend->device().name},
                      {"outlier_channels", o.outliers}};
  for (const auto& [key, value] : values) line[key] = value;
  print(line.dump());
}

void require_finite(const Loaded& loaded, const Run& run) {
  if (run.finite) return;
  fail(ErrorKind::internal, "{} {}: logits are not finite; not timed", loaded.id, name_of(loaded.precision));
}

// Rounds of read, decode, read.
void measure_decode(const Loaded& loaded, const std::string& asked_for, int depth, int batch, ReadProbe& probe,
                    const Options& o) {
  const std::string engine = loaded.engine(asked_for, batch);
  if (batch > 1) check_batch(loaded, engine, depth, batch, o.outliers);
  if (batch == 1 && o.checked > 0) check_engine(loaded, engine, depth, o);
  const int vocab = loaded.vocab();
  Session session(*loaded.backend, *loaded.model, session_shape(batch, depth, o.prompt, o.new_tokens), engine);
  session.fill_context(some_ids(batch * depth, vocab));
  const std::vector<int32_t> ids = some_ids(batch * o.prompt, vocab);
  const int steps = o.new_tokens - 1;  // the first token comes out of the prefill
  const int context = depth + o.prompt + (steps + 1) / 2;
  const auto bytes = static_cast<double>(cost_of(decode_shapes(*loaded.model, batch), context).total().bytes());

  const auto steps_per_second = [&] {
    const Run run = session.generate(ids, {.max_new_tokens = o.new_tokens});
    require_finite(loaded, run);
    return static_cast<double>(steps) * 1e9 / static_cast<double>(run.spans.back().end_ns - run.spans.front().end_ns);
  };
  steps_per_second();  // the first of a size
  std::vector<double> rates, shares, reads;
  for (int round = 0; round < o.rounds; ++round) {
    const double before = probe.measure(), rate = steps_per_second(), after = probe.measure();
    rates.push_back(rate);
    reads.push_back((before + after) / 2);
    shares.push_back(rate * bytes / reads.back());
  }
  const auto [low, high] = std::minmax_element(shares.begin(), shares.end());
  std::string what = " " + engine;
  if (depth > 0) what += fmt::format(" @ d{}", depth);
  if (batch > 1) what += fmt::format(" b{}", batch);
  print(
      fmt::format("  decode{}: {:.2f} tokens/s, {:.3f} GB a step, {:.1f} GB/s of {:.1f} read: {:.1f} % (median of {} "
                  "rounds, {:.1f} to {:.1f})",
                  what, batch * median(rates), bytes / 1e9, median(rates) * bytes / 1e9, median(reads) / 1e9,
                  100 * median(shares), o.rounds, 100 * *low, 100 * *high));
  print_json(loaded, "decode", engine, o,
             {{"batch", batch},
              {"depth", depth},
              {"prompt_tokens", o.prompt},
              {"new_tokens", o.new_tokens},
              {"value", batch * median(rates)},
              {"unit", "tokens/s"},
              {"share", median(shares)},
              {"step_bytes", bytes},
              {"read_bytes_per_second", median(reads)}});
}

void measure_prefill(const Loaded& loaded, int tokens, const Options& o) {
  Backend* const backend = loaded.backend.get();
  const std::vector<int32_t> ids = some_ids(tokens, loaded.vocab());
  if (o.checked > 0) {
    Session session(*backend, *loaded.model, session_shape(1, 0, tokens, 0), loaded.engine("auto", 1));
    const std::vector<float> found = session.logits(ids, false);
    require_same_bits(loaded, fmt::format("prefill of {}", tokens), found, session.logits(ids, false));
    compare(loaded, fmt::format("prefill of {}", tokens), "the same tokens one a step", found,
            session.logits(ids, true), limits_of(loaded.precision, o.outliers, false));
  }
  Session session(*backend, *loaded.model, session_shape(1, 0, tokens, 1));
  const bool is_cpu = backend->device().backend == "cpu";
  const auto prefill_seconds = [&] {
    const Run run = session.generate(ids, {.max_new_tokens = 1});
    require_finite(loaded, run);
    return static_cast<double>(run.spans.front().end_ns) * 1e-9;
  };
  prefill_seconds();  // the first of a size
  std::optional<Sgemm> sgemm;
  if (is_cpu && Sgemm::kIsThere) sgemm.emplace(backend->device().threads);
  const double flops = prefill_flops(*loaded.model, tokens);
  std::vector<double> seconds, blas, ratios;
  for (int round = 0; round < o.prefill_rounds; ++round) {
    const double before = sgemm ? sgemm->measure() : 0;
    seconds.push_back(prefill_seconds());
    if (!sgemm) continue;
    blas.push_back((before + sgemm->measure()) / 2);
    ratios.push_back(flops / seconds.back() / blas.back());
  }
  const auto [least, most] = std::minmax_element(seconds.begin(), seconds.end());
  std::string text = fmt::format(
      "  prefill of {}: {:.3f} ms to the first token ({:.3f} to {:.3f}, {} rounds), {:.0f} tokens/s, {:.3f} Tflop/s",
      tokens, 1e3 * median(seconds), 1e3 * *least, 1e3 * *most, o.prefill_rounds, tokens / median(seconds),
      flops / median(seconds) / 1e12);
  if (sgemm) text += fmt::format("; sgemm {:.3f}: {:.0f} %", median(blas) / 1e12, 100 * median(ratios));
  if (is_cpu && !sgemm) text += "; no sgemm beside it: OpenBLAS was not found when this was built (libopenblas-dev)";
  print(text);
  print_json(loaded, "first_token", "any", o,
             {{"prompt_tokens", tokens}, {"value", 1e3 * median(seconds)}, {"unit", "ms"}});
}

// Runs what may fail; what comes after is measured all the same. The first failure's exit status is kept.
void attempt(int* status, const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::usage) throw;
    if (*status == 0) *status = exit_code(error.kind());
    print(fmt::format("  FAILED: {}", error.what()));
  }
}

void measure(const std::string& id, Precision precision, const Options& o, int* status) {
  const Loaded loaded(id, precision, o, o.device);
  const DeviceInfo& device = loaded.backend->device();
  const auto probe = loaded.backend->read_probe(o.read_bytes);
  if (!probe && o.rounds > 0) {
    fail(ErrorKind::usage, "the {} backend makes no claim on speed; --rounds 0 leaves decoding out", device.backend);
  }
  print(fmt::format("{} {}{}: {}; {:.2f} GB resident, made in {:.1f} s{}", id, long_name_of(precision, true),
                    o.outliers > 0 ? fmt::format(", {} planted outlier channels", o.outliers) : "", described(device),
                    static_cast<double>(loaded.report.resident.total()) / 1e9,
                    static_cast<double>(loaded.report.duration_ns) / 1e9,
                    probe ? fmt::format("; reads with {}", probe->kernel()) : ""));
  for (const std::string& engine : o.rounds > 0 ? o.engines : std::vector<std::string>{}) {
    for (const int depth : o.depths) {
      for (const int batch : o.batches) {
        attempt(status, [&] { measure_decode(loaded, engine, depth, batch, *probe, o); });
      }
    }
  }
  for (const int tokens : o.prefill_rounds > 0 ? o.prefills : std::vector<int>{}) {
    attempt(status, [&] { measure_prefill(loaded, tokens, o); });
  }
}

int bench(int argc, char** argv) {
  Options o;
  CLI::App app("Measures decoding and prefill of published shapes with random weights against this machine's limits.");
  app.add_option("--model-id", o.models, "built-in configurations, or files config.json")->delimiter(',');
  app.add_option("--precision", o.precisions, "fp16, int8, 4bit")->delimiter(',');
  app.add_option("--device", o.device, "a backend of this build");
  app.add_option("--engine", o.engines, "of a GPU: graph (also: auto), persistent; several by commas")->delimiter(',');
  app.add_option("--check", o.checked,
                 "before timing, so many positions' logits again, beside another engine's (graph: its ops called one "
                 "by one) and beside the tokens in one call; a prefill again and beside its tokens one a step")
      ->check(CLI::Range(0, 1024));
  app.add_option("--check-with", o.check_with, "a backend to compare with instead of the other engine");
  app.add_option("--isa", o.isa, "auto, avx2, avx512");
  app.add_option("--read-bytes", o.read_bytes, "of the read that shares are of");
  app.add_option("--threads", o.threads, "0: one per physical core");
  app.add_option("--rounds", o.rounds, "of read, decode, read")->check(CLI::Range(0, 1000));
  app.add_option("-n,--new-tokens", o.new_tokens, "a round")->check(CLI::Range(2, 4096));
  app.add_option("-p,--prompt", o.prompt, "tokens before those")->check(CLI::Range(1, 4096));
  app.add_option("-d,--depth", o.depths, "tokens in the context before that; several by commas")
      ->delimiter(',')
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("-b,--batch", o.batches, "sequences side by side; several by commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 32));
  app.add_option("--prefill", o.prefills, "tokens of a prefill; several by commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096));
  app.add_option("--prefill-rounds", o.prefill_rounds, "0: none")->check(CLI::Range(0, 1000));
  app.add_option("--outlier-channels", o.outliers, "channels above LLM.int8's threshold")->check(CLI::Range(0, 4096));
  app.add_flag("--json", o.json, "behind each figure, the same as a line of JSON");
  CLI11_PARSE(app, argc, argv);
  int status = 0;
  for (const std::string& model : o.models) {
    for (const std::string& precision : o.precisions) {
      attempt(&status, [&] { measure(model, precision_of(precision), o, &status); });
    }
  }
  return status;
}

}  // namespace
}  // namespace quantbench

int main(int argc, char** argv) {
  try {
    return quantbench::bench(argc, argv);
  } catch (const quantbench::Error& error) {
    std::cerr << error.what() << '\n';
    return quantbench::exit_code(error.kind());
  }
}
