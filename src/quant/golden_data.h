// For tests: the tensors of a golden file below testdata/, by name.
#pragma once

#include <cstring>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/os.h"
#include "quant/int8.h"
#include "quant/matrix.h"
#include "quant/nf4.h"

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

// FNV-1a, 64 bits, of the values' bytes: what the golden files keep of a tensor that follows from others.
template <typename T>
uint64_t fnv1a(const std::vector<T>& values) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const std::byte byte : std::as_bytes(std::span(values))) {
    hash = (hash ^ std::to_integer<uint64_t>(byte)) * 0x100000001b3;
  }
  return hash;
}

// A weight as bitsandbytes quantised it to int8 on CUDA: our codes but for the few that the file names, since CUDA
// divides approximately. Throws where the result is not CUDA's by its hash.
struct GoldenInt8 {
  int n, k;
  std::vector<int8_t> codes;
  std::vector<float> absmax, bias;
  size_t ties = 0;  // codes that are not ours
  GoldenInt8(const GoldenData& data, const std::string& linear)
      : n(data.dim(linear + ".w", 0)),
        k(data.dim(linear + ".w", 1)),
        codes(static_cast<size_t>(n) * static_cast<size_t>(k)),
        absmax(data.get<float>(linear + ".int8.SCB")) {
    for (const f16 b : data.get<f16>(linear + ".b")) bias.push_back(to_float(b));
    std::vector<float> our_absmax(absmax.size());
    ThreadPool pool(1);
    quantize_int8(data.get<f16>(linear + ".w"), n, k, codes, our_absmax, pool);
    const auto theirs = data.get<int32_t>(linear + ".int8.weight.ties");  // [ties, 2]: element, code
    for (; 2 * ties < theirs.size(); ++ties) {
      int8_t& code = codes.at(static_cast<size_t>(theirs[2 * ties]));
      const int32_t right = theirs[2 * ties + 1];
      if (std::abs(code - right) != 1) throw std::runtime_error(linear + ": a tie is not one code off");
      code = static_cast<int8_t>(right);
    }
    if (fnv1a(codes) != data.get<uint64_t>(linear + ".int8.weight.fnv1a").at(0)) {
      throw std::runtime_error(linear + ": int8 codes other than bitsandbytes'");
    }
  }
  HostInt8 view() const { return {n, k, codes, absmax}; }
};

// A weight as bitsandbytes saved it in nf4 with double quantisation. The codes are ours; throws where they are not
// bitsandbytes' by their hash.
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
        absmax8(data.get<uint8_t>(linear + ".nf4.weight.absmax")),
        nested_absmax(data.get<float>(linear + ".nf4.weight.nested_absmax")) {
    Nf4Weights ours;
    ThreadPool pool(1);
    quantize_nf4(w, n, k, &ours, pool);
    codes = ours.codes;
    if (fnv1a(codes) != data.get<uint64_t>(linear + ".nf4.weight.fnv1a").at(0)) {
      throw std::runtime_error(linear + ": nf4 codes other than bitsandbytes'");
    }
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
