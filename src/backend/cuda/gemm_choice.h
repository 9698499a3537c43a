// Which of a library's algorithms multiplies a product: timed once for a card, driver, program and library, and kept in
// a file of the user's, since another algorithm may sum in another order and prompts should give the same bits in every
// process.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/cuda/gemm.h"
#include "core/cache_file.h"

namespace quantbench::QB_CUDA {

// Of one library on one card. An algorithm is what the library calls it, any bytes; those of another version say
// nothing here, and are not found.
class GemmCache {
 public:
  static constexpr size_t kMostProducts = 512;  // the oldest go first

  // library: its name and version. Where the GPU's UUID, its driver or this program is not known, nothing is kept.
  GemmCache(const GpuInfo& gpu, const std::string& library,
            std::optional<std::string> path = CacheFile::path_of("products.json"));

  std::map<std::string, std::string> find() const;  // algorithms in hex, by text_of(shape)
  void keep(std::span<const std::pair<GemmShape, std::string>> algorithms) const;

 private:
  CacheFile file_;
  nlohmann::json key_;
};

struct GemmProduct {
  GemmShape shape;
  std::vector<std::string> proposals;              // algorithms, the library's first choice first; at least one
  std::function<double(size_t proposal)> seconds;  // a measurement; 0 where it cannot run
};

// The proposal to take for each: the one that is kept for its shape, where it is still among them; else the first,
// unless another is clearly faster. What was timed is kept by one write.
std::vector<size_t> choose_algorithms(std::span<const GemmProduct> products, const GemmCache& cache);

std::string text_of(const GemmShape& shape);  // "fp16 512x3072x2048, strides 2048 and 3072, added, biased"

}  // namespace quantbench::QB_CUDA
