// How near whole-model decoding and prefill come to what the machine gives: tokens/s, bytes/s and their share of the
// read bandwidth measured right before and after each round, prefill flop/s beside OpenBLAS's sgemm (where it was found
// at build time). docs/performance.md quotes this program. With --check nothing is timed before its logits agree with
// those that another path gives; with --json each figure is also a line of JSON, which tools/gpu_figures.awk reads.
//
//   bench_decode [--model-id meta-llama/Llama-3.2-1B,microsoft/phi-2] [--precision fp16,int8,4bit] [-b 1,8] [-d 0,512]
//   …
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iostream>
#include <optional>
#include <set>

#include "backend/cost_ops.h"
#include "core/error.h"
#include "core/json.h"
#include "engine/bench_checks.h"
#include "engine/bench_model.h"
#include "engine/bench_sgemm.h"
#include "model/registry.h"

namespace quantbench {
namespace {

double median(std::vector<double> values) {
  if (values.empty()) return NAN;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// One figure for programs to read.
void print_json(const Loaded& loaded, const std::string& figure, const std::string& engine, const BenchOptions& o,
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

// The end of the run's first token.
int64_t first_token_ns(const Run& run) {
  int64_t end_ns = 0;
  for (const Span& span : run.spans) {
    if (span.phase != Phase::decode && span.clock == Clock::host) end_ns = span.end_ns;
  }
  return end_ns;
}

nlohmann::json picture_tokens(const Loaded& loaded) { return prompt_tokens(loaded.shape(), 0); }

// The end of its last, as the host saw it.
int64_t last_token_ns(const Run& run) {
  int64_t end_ns = 0;
  for (const Span& span : run.spans) {
    if (span.clock == Clock::host) end_ns = span.end_ns;
  }
  return end_ns;
}

// Rounds of read, decode, read.
void measure_decode(const Loaded& loaded, const std::string& asked_for, int depth, int batch, ReadProbe* probe,
                    Beside* beside, const BenchOptions& o) {
  const std::string engine = loaded.engine(asked_for, batch);
  const Shape& shape = loaded.shape();
  if (shape.encoder && batch > 1) fail(ErrorKind::usage, "--batch {}: one sequence of {}", batch, shape.architecture);
  if (batch > 1) check_batch(loaded, engine, depth, batch, o.outliers);
  if (batch == 1 && o.checked > 0) check_engine(loaded, engine, depth, o, beside);
  const Input input = batch > 1 ? Input{some_ids(batch * o.prompt, shape.vocab), {}} : some_input(shape, o.prompt);
  Session session(*loaded.backend, *loaded.model,
                  session_shape(shape, batch, depth, prompt_tokens(shape, o.prompt), o.new_tokens), engine);
  session.fill_context(some_ids(batch * depth, shape.vocab));
  const int steps = o.new_tokens - 1;  // the first token comes out of the prefill
  const int context = depth + fed_before(shape, o.prompt) + (steps + 1) / 2;
  const Tape step = decode_shapes(*loaded.model, batch, o.prompt);
  const auto bytes = static_cast<double>(cost_of(step, context).total().bytes());

  const auto steps_per_second = [&] {
    const Run run = session.generate(input, {.max_new_tokens = o.new_tokens});
    require_finite(loaded, run);
    return static_cast<double>(steps) * 1e9 / static_cast<double>(last_token_ns(run) - first_token_ns(run));
  };
  steps_per_second();  // the first of a size
  std::vector<double> rates, shares, reads;
  for (int round = 0; round < o.rounds; ++round) {
    const auto read = [&] { return probe ? probe->measure() : NAN; };
    const double before = read(), rate = steps_per_second(), after = read();
    rates.push_back(rate);
    reads.push_back((before + after) / 2);
    shares.push_back(rate * bytes / reads.back());
  }
  const auto [low, high] = std::minmax_element(shares.begin(), shares.end());
  std::string what = " " + engine;
  if (depth > 0) what += fmt::format(" @ d{}", depth);
  if (batch > 1) what += fmt::format(" b{}", batch);
  print(fmt::format(
      "  decode{}: {:.2f} tokens/s, {:.1f} µs and {:.3f} GB a step, {:.1f} GB/s of {:.1f} read: {:.1f} % (median of {} "
      "rounds, {:.1f} to {:.1f})",
      what, batch * median(rates), 1e6 / median(rates), bytes / 1e9, median(rates) * bytes / 1e9, median(reads) / 1e9,
      100 * median(shares), o.rounds, 100 * *low, 100 * *high));
  print_json(loaded, "decode", engine, o,
             {{"batch", batch},
              {"depth", depth},
              {"prompt_tokens", o.prompt},
              {"picture_tokens", picture_tokens(loaded)},
              {"new_tokens", o.new_tokens},
              {"value", batch * median(rates)},
              {"unit", "tokens/s"},
              {"share", median(shares)},
              {"step_bytes", bytes},
              {"read_bytes_per_second", median(reads)}});
}

// From the ids (and pixel values) on the host to the first token, behind a text of so many.
void measure_first_token(const Loaded& loaded, int text, Beside* beside, const BenchOptions& o) {
  Backend* const backend = loaded.backend.get();
  const Shape& shape = loaded.shape();
  if (o.checked > 0) check_prompt(loaded, text, o, beside);
  const Input input = some_input(shape, text);
  const auto tokens = static_cast<int>(input.ids.size());
  Session session(*backend, *loaded.model, session_shape(shape, 1, 0, tokens, 1));
  const bool is_cpu = backend->device().backend == "cpu";
  std::vector<double> encoders;
  const auto seconds_of_one = [&] {
    const Run run = session.generate(input, {.max_new_tokens = 1});
    require_finite(loaded, run);
    if (shape.encoder) encoders.push_back(static_cast<double>(run.spans.front().end_ns) * 1e-9);
    return static_cast<double>(first_token_ns(run)) * 1e-9;
  };
  seconds_of_one();  // the first of a size
  encoders.clear();
  std::optional<Sgemm> sgemm;
  if (is_cpu && Sgemm::kIsThere) sgemm.emplace(backend->device().threads);
  const double flops = prompt_flops(*loaded.model, text);
  std::vector<double> seconds, blas, ratios;
  for (int round = 0; round < o.prefill_rounds; ++round) {
    const double before = sgemm ? sgemm->measure() : 0;
    seconds.push_back(seconds_of_one());
    if (!sgemm) continue;
    blas.push_back((before + sgemm->measure()) / 2);
    ratios.push_back(flops / seconds.back() / blas.back());
  }
  const auto [least, most] = std::minmax_element(seconds.begin(), seconds.end());
  std::string line = fmt::format(
      "  prefill of {}: {:.3f} ms to the first token ({:.3f} to {:.3f}, {} rounds), {:.0f} tokens/s, {:.3f} Tflop/s",
      tokens, 1e3 * median(seconds), 1e3 * *least, 1e3 * *most, o.prefill_rounds, tokens / median(seconds),
      flops / median(seconds) / 1e12);
  if (shape.encoder) line += fmt::format(", {:.3f} ms of it the encoder", 1e3 * median(encoders));
  if (sgemm) line += fmt::format("; sgemm {:.3f}: {:.0f} %", median(blas) / 1e12, 100 * median(ratios));
  if (is_cpu && !sgemm) line += "; no sgemm beside it: OpenBLAS was not found when this was built (libopenblas-dev)";
  print(line);
  print_json(loaded, "first_token", "any", o,
             {{"prompt_tokens", text},
              {"picture_tokens", picture_tokens(loaded)},
              {"value", 1e3 * median(seconds)},
              {"unit", "ms"}});
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

// skipped: engines that cannot run a model, for the last line.
void measure(const std::string& id, Precision precision, const BenchOptions& o, int* status,
             std::set<std::string>* skipped) {
  const Loaded loaded(id, precision, o, o.device);
  Beside beside(loaded, o);
  const DeviceInfo& device = loaded.backend->device();
  const auto probe = o.read_bytes > 0 ? loaded.backend->read_probe(o.read_bytes) : nullptr;
  if (!probe && o.read_bytes > 0 && o.rounds > 0) {
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
        if (o.skip_refused && !loaded.can_run(engine, batch)) {
          skipped->insert(fmt::format("{} of {} {}", engine, id, name_of(precision)));
          print(fmt::format("  SKIPPED: {} cannot run this model on this device", engine));
          continue;
        }
        attempt(status, [&] { measure_decode(loaded, engine, depth, batch, probe.get(), &beside, o); });
      }
    }
  }
  for (const int text : o.prefill_rounds > 0 ? o.prefills : std::vector<int>{}) {
    attempt(status, [&] { measure_first_token(loaded, text, &beside, o); });
  }
}

int bench(int argc, char** argv) {
  BenchOptions o;
  CLI::App app("Measures decoding and prefill of published shapes with random weights against this machine's limits.");
  app.add_option("--model-id", o.models, "built-in configurations, or files config.json")->delimiter(',');
  app.add_option("--precision", o.precisions, "fp16, bf16, int8, 4bit")->delimiter(',');
  app.add_option("--device", o.device, "a backend of this build");
  app.add_option("--engine", o.engines, "of a GPU: graph (also: auto), persistent; several by commas")->delimiter(',');
  app.add_option("--check", o.checked,
                 "before timing, so many positions' logits again, beside another engine's (graph: its ops called one "
                 "by one) and beside the tokens in one call; a prompt's again and beside its tokens one a step")
      ->check(CLI::Range(0, 1024));
  app.add_option("--check-with", o.check_with, "a backend to compare with as well");
  app.add_option("--isa", o.isa, "auto, avx2, avx512");
  app.add_option("--read-bytes", o.read_bytes, "of the read that shares are of; 0: none, and no shares");
  app.add_option("--threads", o.threads, "0: one per physical core");
  app.add_option("--rounds", o.rounds, "of read, decode, read")->check(CLI::Range(0, 1000));
  app.add_option("-n,--new-tokens", o.new_tokens, "a round")->check(CLI::Range(2, 4096));
  app.add_option("-p,--prompt", o.prompt,
                 "tokens of text before those; a picture comes in front where a model reads one")
      ->check(CLI::Range(1, 4096));
  app.add_option("-d,--depth", o.depths, "tokens in the context before that; several by commas")
      ->delimiter(',')
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("-b,--batch", o.batches, "sequences side by side; several by commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 32));
  app.add_option("--prefill", o.prefills, "tokens of text that a first token is measured behind; several by commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096));
  app.add_option("--prefill-rounds", o.prefill_rounds, "0: none")->check(CLI::Range(0, 1000));
  app.add_option("--outlier-channels", o.outliers, "channels above LLM.int8's threshold")->check(CLI::Range(0, 4096));
  app.add_flag("--skip-refused", o.skip_refused, "an engine that cannot run a model is no failure, and said aloud");
  app.add_flag("--json", o.json, "behind each figure, the same as a line of JSON");
  CLI11_PARSE(app, argc, argv);
  int status = 0;
  std::set<std::string> skipped;
  for (const std::string& model : o.models) {
    for (const std::string& precision : o.precisions) {
      attempt(&status, [&] { measure(model, precision_of(precision), o, &status, &skipped); });
    }
  }
  if (!skipped.empty()) print(fmt::format("SKIPPED, since it cannot run the model: {}", fmt::join(skipped, ", ")));
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
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return quantbench::exit_code(quantbench::ErrorKind::internal);
  }
}
