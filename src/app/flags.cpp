#include "app/flags.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "bench/environment.h"
#include "core/error.h"

namespace quantbench {
namespace {

template <typename T>
T parse_whole(const std::string& flag, const std::string& text, T low, T high) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
    fail(ErrorKind::usage, "{}: '{}' is not a whole number from {} to {}", flag, text, low, high);
  }
  return value;
}

}  // namespace

const char* const kDeviceHelp =
    "auto (the first NVIDIA GPU that can be used, else the CPU), cpu, cuda[:N] (N counts the GPUs that "
    "CUDA_VISIBLE_DEVICES lets it see), or reference (scalar, slow: the specification)";

const char* const kOfflineHelp = "download nothing: models come from folders and the cache (also: HF_HUB_OFFLINE=1)";

const char* const kEngineHelp =
    "how a GPU makes a token: graph (one CUDA graph, every card), persistent (one kernel that streams the whole model, "
    "compute capability 9.0, one sequence), or auto (where card and model allow both, the faster of a test of one "
    "second, "
    "which is remembered)";

void check_engine(const std::string& name, const std::string& device) {
  if (name != "auto" && name != "graph" && name != "persistent") {
    fail(ErrorKind::usage, "--engine: expected auto, graph or persistent, found '{}'", name);
  }
  if (name == "auto" || device == "auto" || device.starts_with("cuda")) return;
  fail(ErrorKind::usage,
       "--engine {}: only a GPU has engines to choose from, --device {} is none; leave one of the two out", name,
       device);
}

void check_engine_acts(const std::string& name, const DeviceInfo& device, const std::string& passed_over) {
  if (name == "auto" || device.gpu) return;
  fail(ErrorKind::usage,
       "--engine {}: only a GPU has engines to choose from, and --device auto took {}: {}; leave --engine out", name,
       device.id, passed_over.empty() ? "there is no NVIDIA GPU here" : passed_over);
}

std::vector<std::string> parse_list(const std::string& flag, const std::string& text) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    if (end == at)
      fail(ErrorKind::usage, "{}: '{}' has an empty part; expected values between single commas", flag, text);
    parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

int parse_count(const std::string& flag, const std::string& text, int low, int high) {
  return parse_whole<int>(flag, text, low, high);
}

std::vector<int> parse_counts(const std::string& flag, const std::string& text, int low, int high) {
  std::vector<int> counts;
  for (const std::string& part : parse_list(flag, text)) counts.push_back(parse_count(flag, part, low, high));
  return counts;
}

uint64_t parse_seed(const std::string& flag, const std::string& text) {
  return parse_whole<uint64_t>(flag, text, 0, UINT64_MAX);
}

int parse_threads(const std::string& text) {
  constexpr int kMostThreads = 4096;
  const int threads = parse_count("--threads", text, 0, kMostThreads), cpus = read_environment().logical_cpus;
  if (threads > cpus) {
    fail(ErrorKind::usage, "--threads: {} are more than the {} CPU{} that this process may use; give at most {}",
         threads, cpus, cpus == 1 ? "" : "s", cpus);
  }
  return threads;
}

double parse_number(const std::string& flag, const std::string& text, double low, double high) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= low && value <= high)) {
    fail(ErrorKind::usage, "{}: '{}' is not a number from {:g} to {:g}", flag, text, low, high);
  }
  return value;
}

double parse_share(const std::string& flag, const std::string& text, double low, double high) {
  if (text.ends_with('%')) return parse_number(flag, text.substr(0, text.size() - 1), 100 * low, 100 * high) / 100;
  const double share = parse_number(flag, text, low, high);
  if (share >= 1) {
    fail(ErrorKind::usage, "{}: '{}' is all of it; {} % is written {}% or {:g}", flag, text, text, text, share / 100);
  }
  return share;
}

Precision parse_precision(const std::string& text) {
  for (Precision precision : {Precision::fp16, Precision::bf16, Precision::int8, Precision::nf4}) {
    if (text == name_of(precision)) return precision;
  }
  if (text == "nf4") return Precision::nf4;
  fail(
      ErrorKind::usage,
      "--precision: '{}' is not known; expected fp16, bf16 (a baseline), int8 (LLM.int8) or 4bit (NF4, also spelt nf4)",
      text);
}

std::vector<Precision> parse_precisions(const std::string& text) {
  std::vector<Precision> precisions;
  for (const std::string& part : parse_list("--precision", text)) {
    const Precision precision = parse_precision(part);
    if (std::find(precisions.begin(), precisions.end(), precision) != precisions.end()) {
      fail(ErrorKind::usage, "--precision: '{}' names {} twice", text, name_of(precision));
    }
    precisions.push_back(precision);
  }
  return precisions;
}

}  // namespace quantbench
