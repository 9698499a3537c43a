// How near whole-model decoding and prefill come to what the machine gives: tokens/s, bytes/s and their share of the
// read bandwidth measured right before and after each round, prefill flop/s beside OpenBLAS's sgemm (where it was found
// at build time). docs/performance.md quotes this program.
//
//   bench_decode [--model-id meta-llama/Llama-3.2-1B,microsoft/phi-2] [--precision fp16,int8,4bit] [-b 1,8] [-d 0,512]
//   …
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <numeric>
#include <optional>

#include "backend/cost_ops.h"
#include "core/os.h"
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
  std::string device = "cpu", isa = "auto", engine = "auto", check_with;
  int threads = 0, rounds = 12, new_tokens = 17, prompt = 8, prefill = 512, prefill_rounds = 5, outliers = 0,
      checked = 0;
  std::vector<int> batches{1}, depths{0};
  size_t read_bytes = size_t{1} << 30;
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
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
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

// A model of random weights on a backend.
struct Loaded {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
  Plan plan;
  LoadReport report;

  Loaded(const std::string& id, Precision precision, const Options& o, const std::string& engine)
      : backend(make_backend(o.device, {.threads = o.threads, .isa = o.isa, .engine = engine})),
        model(make_model(published_config(id), precision)),
        plan(backend->plan(decode_shapes(*model), std::max(o.prefill, o.prompt))),
        report(load(*model, RandomWeights(42, random_tensors(*model), o.outliers), *backend, plan)) {}
};

std::vector<int32_t> some_ids(int count, int vocab) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>((i * 7919 + 13) % static_cast<size_t>(vocab));
  }
  return ids;
}

double most_error(Precision precision) {
  return precision == Precision::int8 ? 5e-2 : 1e-2;  // int8: an activation's code may fall the other way
}

// The engine's logits, one token a step, beside those of the graph engine, and beside its own of a second run: nothing
// is timed that does not agree.
void check_engine(const std::string& id, Precision precision, const Options& o) {
  const StateShape shape{.rows = o.checked, .logit_rows = 1, .sequences = 1, .positions = o.checked};
  const auto logits = [&](const std::string& device, const std::string& engine, int runs) {
    std::vector<std::vector<float>> out;
    Options of = o;
    of.device = device;
    const Loaded loaded(id, precision, of, engine);
    Session session(*loaded.backend, *loaded.model, shape);
    for (int i = 0; i < runs; ++i) {
      out.push_back(session.logits(some_ids(o.checked, loaded.model->shape().vocab), true));
    }
    return out;
  };
  const std::string beside = o.check_with.empty() ? o.device : o.check_with;
  const auto expected = logits(beside, "graph", 1), found = logits(o.device, o.engine, 2);
  const size_t vocab = expected[0].size() / static_cast<size_t>(o.checked);
  double worst = 0;
  int same = 0;
  for (size_t row = 0; row < static_cast<size_t>(o.checked); ++row) {
    const std::span<const float> a(found[0].data() + row * vocab, vocab), b(expected[0].data() + row * vocab, vocab);
    const double error = relative_error(a, b);
    if (!(error <= worst)) worst = error;
    same += std::max_element(a.begin(), a.end()) - a.begin() == std::max_element(b.begin(), b.end()) - b.begin();
  }
  const bool repeats = found[0] == found[1];
  print(
      fmt::format("  {} positions beside {}: relative error at most {:.1e}, same best token {} times; a "
                  "second run is {}",
                  o.checked, o.check_with.empty() ? "the graph engine" : beside, worst, same,
                  repeats ? "the same to the bit" : "DIFFERENT"));
  if (!(worst <= most_error(precision)) || !repeats)
    fail(ErrorKind::internal, "{}: the engine's logits are wrong; nothing is timed", id);
}

// Every sequence's logits in the batch, one token a step, beside those of the sequence alone; behind `depth` tokens.
// LLM.int8 takes an outlier column of one sequence apart for all, so there sequences that are alike, whose outliers are
// those of each, are looked at as well.
void check_batch(const Loaded& loaded, const std::string& id, Precision precision, int depth, int batch) {
  constexpr int kTokens = 4;
  constexpr double kMostWithOthersOutliers = 0.1;  // seen: 0.04; another sequence's logits are off by more than 1
  const int vocab = loaded.model->shape().vocab;
  const size_t each = static_cast<size_t>(depth) + kTokens;
  // ids [sequences, each], the context first.
  const auto logits = [&](std::span<const int32_t> ids, int sequences) {
    std::vector<int32_t> context, own;
    for (auto left = ids; !left.empty(); left = left.subspan(each)) {
      context.insert(context.end(), left.begin(), left.begin() + depth);
      own.insert(own.end(), left.begin() + depth, left.begin() + depth + kTokens);
    }
    Session session(*loaded.backend, *loaded.model, session_shape(sequences, depth, kTokens, 0));
    session.fill_context(context);
    return session.logits(own, true);
  };
  const auto check = [&](bool alike, double most) {
    std::vector<int32_t> ids = some_ids(batch * (depth + kTokens), vocab);
    for (size_t i = each; alike && i < ids.size(); ++i) ids[i] = ids[i - each];
    const std::vector<float> together = logits(ids, batch);
    std::vector<float> alone;
    double worst = 0;
    for (size_t s = 0; s < static_cast<size_t>(batch); ++s) {
      if (s == 0 || !alike) alone = logits(std::span(ids).subspan(s * each, each), 1);
      const double error = relative_error({together.data() + s * alone.size(), alone.size()}, alone);
      if (!(error <= worst)) worst = error;
    }
    print(fmt::format("  {} {}sequences beside each of them alone: {}", batch, alike ? "equal " : "",
                      worst == 0 ? "the same to the bit" : fmt::format("relative error at most {:.1e}", worst)));
    if (!(worst <= most)) fail(ErrorKind::internal, "{}: the batch's logits are wrong; nothing is timed", id);
  };
  const bool int8 = precision == Precision::int8;
  check(false, int8 ? kMostWithOthersOutliers : most_error(precision));
  if (int8) check(true, most_error(precision));
}

// Rounds of read, decode, read.
void measure_decode(const Loaded& loaded, const std::string& id, Precision precision, int depth, int batch,
                    ReadProbe& probe, const Options& o) {
  if (batch > 1) check_batch(loaded, id, precision, depth, batch);
  const int vocab = loaded.model->shape().vocab;
  Session session(*loaded.backend, *loaded.model, session_shape(batch, depth, o.prompt, o.new_tokens));
  session.fill_context(some_ids(batch * depth, vocab));
  const std::vector<int32_t> ids = some_ids(batch * o.prompt, vocab);
  const int steps = o.new_tokens - 1;  // the first token comes out of the prefill
  const int context = depth + o.prompt + (steps + 1) / 2;
  const auto bytes = static_cast<double>(cost_of(decode_shapes(*loaded.model, batch), context).total().bytes());

  const auto steps_per_second = [&] {
    const Run run = session.generate(ids, {.max_new_tokens = o.new_tokens});
    if (!run.finite)
      fail(ErrorKind::internal, "{} {}: logits are not finite, so nothing is timed", id, name_of(precision));
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
  std::string what;
  if (depth > 0) what += fmt::format(" @ d{}", depth);
  if (batch > 1) what += fmt::format(" b{}", batch);
  print(
      fmt::format("  decode{}: {:.2f} tokens/s, {:.3f} GB a step, {:.1f} GB/s of {:.1f} read: {:.1f} % (median of {} "
                  "rounds, {:.1f} to {:.1f})",
                  what, batch * median(rates), bytes / 1e9, median(rates) * bytes / 1e9, median(reads) / 1e9,
                  100 * median(shares), o.rounds, 100 * *low, 100 * *high));
}

void measure_prefill(const Loaded& loaded, const std::string& id, Precision precision, const Options& o) {
  Backend* const backend = loaded.backend.get();
  Session session(*backend, *loaded.model, session_shape(1, 0, o.prefill, 1));
  const std::vector<int32_t> ids = some_ids(o.prefill, loaded.model->shape().vocab);
  const bool is_cpu = backend->device().backend == "cpu";
  const auto prefill_seconds = [&] {
    const Run run = session.generate(ids, {.max_new_tokens = 1});
    if (!run.finite)
      fail(ErrorKind::internal, "{} {}: logits are not finite, so nothing is timed", id, name_of(precision));
    return static_cast<double>(run.spans.front().end_ns) * 1e-9;
  };
  prefill_seconds();  // the first of a size
  std::optional<Sgemm> sgemm;
  if (is_cpu && Sgemm::kIsThere) sgemm.emplace(backend->device().threads);
  const double flops = prefill_flops(*loaded.model, o.prefill);
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
      o.prefill, 1e3 * median(seconds), 1e3 * *least, 1e3 * *most, o.prefill_rounds, o.prefill / median(seconds),
      flops / median(seconds) / 1e12);
  if (sgemm) text += fmt::format("; sgemm {:.3f}: {:.0f} %", median(blas) / 1e12, 100 * median(ratios));
  if (is_cpu && !sgemm) text += "; no sgemm beside it: OpenBLAS was not found when this was built (libopenblas-dev)";
  print(text);
}

void measure(const std::string& id, Precision precision, const Options& o) {
  if (o.checked > 0) check_engine(id, precision, o);
  const Loaded loaded(id, precision, o, o.engine);
  const DeviceInfo& device = loaded.backend->device();
  const auto probe = loaded.backend->read_probe(o.read_bytes);
  if (!probe && o.rounds > 0) {
    fail(ErrorKind::usage, "the {} backend makes no claim on speed; --rounds 0 leaves decoding out", device.backend);
  }
  print(fmt::format("{} {}: {}; {:.2f} GB resident, made in {:.1f} s{}", id, long_name_of(precision, true),
                    described(device), static_cast<double>(loaded.report.resident.total()) / 1e9,
                    static_cast<double>(loaded.report.duration_ns) / 1e9,
                    probe ? fmt::format("; reads with {}", probe->kernel()) : ""));
  for (const int depth : o.depths) {
    for (const int batch : o.batches) {
      if (o.rounds > 0) measure_decode(loaded, id, precision, depth, batch, *probe, o);
    }
  }
  if (o.prefill_rounds > 0) measure_prefill(loaded, id, precision, o);
}

int bench(int argc, char** argv) {
  Options o;
  CLI::App app("Measures decoding and prefill of published shapes with random weights against this machine's limits.");
  app.add_option("--model-id", o.models, "built-in configurations")->delimiter(',');
  app.add_option("--precision", o.precisions, "fp16, int8, 4bit")->delimiter(',');
  app.add_option("--device", o.device, "a backend of this build");
  app.add_option("--engine", o.engine, "of a GPU: graph (also: auto), persistent");
  app.add_option("--check", o.checked, "positions whose logits are compared with the graph engine's before timing")
      ->check(CLI::Range(0, 1024));
  app.add_option("--check-with", o.check_with, "the backend to compare with instead");
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
  app.add_option("--prefill", o.prefill, "tokens of a prefill")->check(CLI::Range(1, 4096));
  app.add_option("--prefill-rounds", o.prefill_rounds, "0: none")->check(CLI::Range(0, 1000));
  app.add_option("--outlier-channels", o.outliers, "channels above LLM.int8's threshold")->check(CLI::Range(0, 4096));
  CLI11_PARSE(app, argc, argv);
  for (const std::string& model : o.models) {
    for (const std::string& precision : o.precisions) measure(model, precision_of(precision), o);
  }
  return 0;
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
