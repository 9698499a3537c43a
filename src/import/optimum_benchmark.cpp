// optimum-benchmark's benchmark.json (seen: version 0.6.0): a config and a report with the latencies of every
// iteration, of prefill, of the decode steps behind it, and of both.
#include <algorithm>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "import/imported_row.h"

namespace quantbench {
namespace {

constexpr double kMegabyte = 1e6;  // its MB

std::string text_at(const Record& from, const char* key) {
  return from.is_object() && from.contains(key) && from[key].is_string() ? from[key].get<std::string>() : "";
}

const Record& part_of(const Record& from, const char* key, const Where& where) {
  if (!from.contains(key) || !from[key].is_object())
    where.refuse(fmt::format("an object \"{}\", as optimum-benchmark writes", key), "none");
  return from[key];
}

// Empty where there is something else, or nothing.
Record object_at(const Record& from, const char* key) {
  return from.contains(key) && from[key].is_object() ? from[key] : Record::object();
}

std::optional<int> count_at(const Record& from, const char* key) {
  if (!from.is_object() || !from.contains(key) || !from[key].is_number_integer()) return std::nullopt;
  const auto value = from[key].get<int64_t>();
  if (value < 1 || static_cast<double>(value) > kMostTokens) return std::nullopt;
  return static_cast<int>(value);
}

// Seconds of every iteration of a phase, as nanoseconds; empty where the report has no such phase.
std::vector<double> latencies_ns(const Record& report, const char* phase, const Where& where) {
  std::vector<double> values;
  if (!report.contains(phase) || !report[phase].is_object()) return values;
  const Record latency = report[phase].value("latency", Record());
  if (!latency.is_object()) return values;
  if (text_at(latency, "unit") != "s") where.refuse(fmt::format("the latency of {} in s", phase), latency.dump());
  for (const Record& value : latency.value("values", Record::array())) {
    values.push_back(where.time_ns(fmt::format("the values of {}", phase), value, 1e9));
  }
  return values;
}

void take_precision(const Record& backend, ImportedRow* row) {
  const Record quantized = object_at(backend, "quantization_config");
  const std::string scheme = text_at(backend, "quantization_scheme"), type = text_at(backend, "torch_dtype");
  const auto says = [&](const char* key) { return quantized.value(key, Record()) == true; };
  if (scheme == "bnb" && says("load_in_8bit")) {
    row->precision = "int8";
    row->precision_long = "LLM.int8 (bitsandbytes)";
  } else if (scheme == "bnb" && says("load_in_4bit")) {
    const std::string form = text_at(quantized, "bnb_4bit_quant_type");
    row->precision = form == "nf4" ? "4bit" : "fp4";
    row->precision_long = fmt::format("{} (bitsandbytes){}", form == "nf4" ? "NF4" : "FP4",
                                      says("bnb_4bit_use_double_quant") ? ", double quantisation" : "");
  } else if (!scheme.empty()) {
    row->precision = scheme;
    row->precision_long = fmt::format("{} {}", scheme, quantized.dump());
  } else {
    row->precision = type == "float16" ? "fp16" : type == "bfloat16" ? "bf16" : type == "float32" ? "fp32" : "unknown";
    row->precision_long = type.empty() ? "a type that is not told" : type;
  }
}

// The most that any phase had: of a GPU what the process has on it, else what PyTorch reserved; else the host's.
std::optional<double> peak_bytes(const Record& report, bool on_gpu) {
  for (const char* field : {"max_process_vram", "max_reserved", "max_ram"}) {
    if (on_gpu == (std::string_view(field) == "max_ram")) continue;
    std::optional<double> most;
    for (const auto& [phase, part] : report.items()) {
      const Record memory = part.is_object() ? part.value("memory", Record()) : Record();
      if (!memory.is_object() || text_at(memory, "unit") != "MB") continue;
      const Record value = memory.value(field, Record());
      const double bytes = value.is_number() ? value.get<double>() * kMegabyte : 0;
      if (bytes <= kLargestNumber) most = std::max(most.value_or(0), bytes);
    }
    if (most && *most > 0) return most;
  }
  return std::nullopt;
}

}  // namespace

std::vector<ImportedRow> optimum_benchmark(const Record& benchmark, const Where& where) {
  const Record &config = part_of(benchmark, "config", where), &report = part_of(benchmark, "report", where);
  const Record &backend = part_of(config, "backend", where), &scenario = part_of(config, "scenario", where);
  const Record environment = object_at(config, "environment");
  const Record shapes = object_at(scenario, "input_shapes");
  const Record generate = object_at(scenario, "generate_kwargs");
  ImportedRow row{.line = where.line, .tool = "optimum-benchmark", .format = "benchmark.json"};
  const std::string library = text_at(backend, "library");
  row.engine = library.empty() ? text_at(backend, "name") : library;
  row.tuning = text_at(backend, "name");
  if (const std::string version = text_at(backend, "version"); !version.empty()) row.tuning += " " + version;
  if (const std::string version = text_at(environment, "transformers_version"); !version.empty())
    row.tuning += ", transformers " + version;
  if (backend.value("torch_compile", Record()) == true) row.tuning += ", compiled";
  row.model = text_at(backend, "model");
  if (row.model.starts_with("/")) row.model.erase(0, row.model.rfind('/') + 1);
  take_precision(backend, &row);
  row.batch = count_at(shapes, "batch_size");
  row.prompt_tokens = count_at(shapes, "sequence_length");
  const auto least = count_at(generate, "min_new_tokens"), most = count_at(generate, "max_new_tokens");
  if (least == most) row.new_tokens = most;
  row.depth = 0;
  row.cpu = trimmed(text_at(environment, "cpu"));
  const bool on_gpu = text_at(backend, "device") == "cuda";
  row.on_cpu = text_at(backend, "device") == "cpu";
  if (!on_gpu) {
    row.device = row.cpu;
  } else if (const Record gpu = environment.value("gpu", Record());
             gpu.is_array() && !gpu.empty() && gpu[0].is_string()) {
    row.device = gpu[0];
  }

  const std::vector<double> prefill = latencies_ns(report, "prefill", where),
                            decode = latencies_ns(report, "decode", where);
  row.run_ns = latencies_ns(report, "generate", where);
  if (row.run_ns.empty() && prefill.size() == decode.size()) {
    for (size_t i = 0; i < prefill.size(); ++i) row.run_ns.push_back(prefill[i] + decode[i]);
    if (!row.run_ns.empty()) row.derived_from.emplace_back("total_latency: prefill + decode of each iteration");
  }
  if (row.run_ns.empty())
    where.refuse("latencies of generate, or as many of prefill as of decode", "none; was the scenario a generation?");
  const double sequences = row.batch.value_or(1);
  row.samples["total_latency"] = row.run_ns;
  row.samples["prefill_time"] = row.samples["time_to_first_token"] = prefill;
  row.samples["decode_time"] = decode;
  for (const double ns : prefill) {
    if (row.prompt_tokens)
      row.samples["prefill_tokens_per_second"].push_back(sequences * *row.prompt_tokens * 1e9 / ns);
  }
  for (const double ns : decode) {
    if (row.new_tokens && *row.new_tokens > 1)
      row.samples["decode_tokens_per_second"].push_back(sequences * (*row.new_tokens - 1) * 1e9 / ns);
  }
  for (const double ns : row.run_ns) {
    if (!row.new_tokens) break;
    row.samples["latency_per_token"].push_back(ns / *row.new_tokens);
    row.samples["tokens_per_second"].push_back(sequences * *row.new_tokens * 1e9 / ns);
  }
  if (const auto peak = peak_bytes(report, on_gpu)) row.figures["memory_peak"] = {*peak, std::nullopt};
  if (const std::vector<double> load = latencies_ns(report, "load_model", where); load.size() == 1)
    row.figures["load_time"] = {load[0], std::nullopt};
  row.as_read = {{"config", config}};
  return {row};
}

}  // namespace quantbench
