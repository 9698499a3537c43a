#include "backend/cuda/gemm_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "core/os.h"

namespace quantbench::QB_CUDA {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;

std::string hex_of(const std::string& bytes) {
  std::string hex;
  for (const char byte : bytes) hex += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return hex;
}

// The first proposal stays unless another is clearly faster, so that noise decides as little as it can.
constexpr double kClearly = 0.97;

std::optional<size_t> fastest(const GemmProduct& product) {
  double best = 0;
  std::optional<size_t> chosen;
  for (size_t i = 0; i < product.proposals.size(); ++i) {
    const double seconds = product.seconds(i);
    if (seconds <= 0) continue;
    if (!chosen || seconds < best * kClearly) best = seconds, chosen = i;
  }
  return chosen;
}

}  // namespace

std::string text_of(const GemmShape& s) {
  return fmt::format("{} {}x{}x{}, strides {} and {}{}{}", s.int8 ? "int8" : "fp16", s.rows, s.n, s.k, s.x_stride,
                     s.y_stride, s.add ? ", added" : "", s.biased ? ", biased" : "");
}

GemmCache::GemmCache(const GpuInfo& gpu, const std::string& library, std::optional<std::string> path)
    : file_(std::move(path), kVersion, kMostProducts),
      key_{{"gpu", gpu.uuid}, {"driver", gpu.driver_or_cuda()}, {"program", os::build_id()}, {"library", library}} {}

std::map<std::string, std::string> GemmCache::find() const {
  std::map<std::string, std::string> algorithms;
  for (const json& entry : file_.find(key_)) {
    const auto product = entry.find("product"), algorithm = entry.find("algorithm");
    if (product == entry.end() || algorithm == entry.end() || !product->is_string() || !algorithm->is_string())
      continue;
    algorithms[product->get<std::string>()] = algorithm->get<std::string>();
  }
  return algorithms;
}

void GemmCache::keep(std::span<const std::pair<GemmShape, std::string>> algorithms) const {
  std::vector<CacheFile::Entry> entries;
  for (const auto& [shape, algorithm] : algorithms) {
    CacheFile::Entry entry{key_, {{"algorithm", hex_of(algorithm)}}};
    entry.key["product"] = text_of(shape);
    entries.push_back(std::move(entry));
  }
  file_.keep(entries);
}

std::vector<size_t> choose_algorithms(std::span<const GemmProduct> products, const GemmCache& cache) {
  std::vector<size_t> chosen;
  std::vector<std::pair<GemmShape, std::string>> timed;
  const auto kept = products.empty() ? std::map<std::string, std::string>() : cache.find();
  for (const GemmProduct& product : products) {
    assert(!product.proposals.empty());
    const auto known = kept.find(text_of(product.shape));
    const auto& proposals = product.proposals;
    const auto same = std::find_if(proposals.begin(), proposals.end(), [&](const std::string& proposal) {
      return known != kept.end() && hex_of(proposal) == known->second;
    });
    if (same != proposals.end()) {
      chosen.push_back(static_cast<size_t>(same - proposals.begin()));
      continue;
    }
    const std::optional<size_t> best = fastest(product);
    chosen.push_back(best.value_or(0));
    if (best) timed.emplace_back(product.shape, proposals[*best]);
  }
  if (!timed.empty()) cache.keep(timed);
  return chosen;
}

}  // namespace quantbench::QB_CUDA
