// For tests: the tensors of a golden file below testdata/, by name.
#pragma once

#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/os.h"
#include "quant/matrix.h"

namespace quantbench {

class GoldenData {
 public:
  explicit GoldenData(const std::string& file)
      : bytes_(os::read_file(std::string(QB_SOURCE_DIR "/testdata/") + file, 64 << 20)) {
    uint64_t header_bytes;
    std::memcpy(&header_bytes, bytes_.data(), 8);
    data_ = 8 + header_bytes;
    header_ = parse_json(std::string_view(bytes_).substr(8, header_bytes), file);
  }
  // "n64k256", …
  std::set<std::string> linears() const {
    std::set<std::string> result;
    for (const auto& [name, info] : header_.items()) {
      if (name != "__metadata__") result.insert(name.substr(0, name.find('.')));
    }
    return result;
  }
  bool has(const std::string& name) const { return header_.contains(name); }
  int dim(const std::string& name, size_t i) const { return header_.at(name).at("shape").at(i).get<int>(); }
  template <typename T>
  std::vector<T> get(const std::string& name) const {
    const auto& range = header_.at(name).at("data_offsets");
    const size_t begin = range.at(0).get<size_t>(), end = range.at(1).get<size_t>();
    std::vector<T> values((end - begin) / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), bytes_.data() + data_ + begin, end - begin);
    return values;
  }

 private:
  std::string bytes_;
  size_t data_ = 0;
  nlohmann::json header_;
};

// A weight as bitsandbytes saved it in nf4 with double quantisation.
struct GoldenNf4 {
  int n, k;
  std::vector<f16> w;
  std::vector<uint8_t> codes, absmax8;
  std::vector<float> nested_absmax;
  float offset;
  GoldenNf4(const GoldenData& data, const std::string& linear)
      : n(data.dim(linear + ".w", 0)),
        k(data.dim(linear + ".w", 1)),
        w(data.get<f16>(linear + ".w")),
        codes(data.get<uint8_t>(linear + ".nf4.weight")),
        absmax8(data.get<uint8_t>(linear + ".nf4.weight.absmax")),
        nested_absmax(data.get<float>(linear + ".nf4.weight.nested_absmax")) {
    const auto state = data.get<char>(linear + ".nf4.weight.quant_state.bitsandbytes__nf4");
    offset = parse_json(std::string_view(state.data(), state.size()), linear).at("nested_offset").get<float>();
  }
  HostNf4 view() const { return {n, k, codes, absmax8, nested_absmax, offset, {}}; }
};

// Of the linears that bitsandbytes computed on CUDA.
inline std::vector<std::string> golden_files() {
  return {"bitsandbytes/bitsandbytes_0.50_linear.safetensors", "bitsandbytes/bitsandbytes_0.50_rows.safetensors"};
}

}  // namespace quantbench
