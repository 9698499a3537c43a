// Damaged safetensors headers, indexes and quantisation states: each is refused with an Error or is consistent; nothing
// crashes, hangs or allocates by what a file claims.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "checkpoint/checkpoint.h"
#include "checkpoint/prequantized.h"
#include "core/json.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

using nlohmann::json;

class Damage {
 public:
  explicit Damage(uint32_t seed) : random_(seed) {}
  size_t below(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random_); }

  // Walks down from node at random and damages where it stops.
  void apply(json& node) {
    if (node.is_structured() && !node.empty() && below(6) != 0) {
      auto child = node.begin();
      std::advance(child, static_cast<long>(below(node.size())));
      switch (below(12)) {
        case 0: node.erase(child); break;
        case 1: {
          json copy = *child;
          if (node.is_array()) {
            node.push_back(std::move(copy));
          } else {
            node["more"] = std::move(copy);
          }
          break;
        }
        default: apply(*child);
      }
      return;
    }
    node = value(node);
  }

  // Changes, cuts or lengthens the text.
  void apply(std::string& text) {
    for (size_t n = 1 + below(3); n > 0 && !text.empty(); --n) {
      const size_t at = below(text.size());
      switch (below(4)) {
        case 0: text[at] = static_cast<char>(below(256)); break;
        case 1: text.erase(at, 1 + below(8)); break;
        case 2: text.insert(at, 1, "{}[],:\"0-9e."[below(12)]); break;
        default: text.insert(at, text.substr(below(text.size()), below(20)));
      }
    }
  }

 private:
  json value(const json& old) {
    static constexpr uint64_t kNumbers[] = {0,          1,          2,          7,           8,          16,
                                            64,         255,        256,        4096,        1ull << 31, 1ull << 32,
                                            1ull << 61, 1ull << 62, 1ull << 63, ~uint64_t{0}};
    switch (below(8)) {
      case 0: return json();
      case 1: return "F32";
      case 2: return json::array();
      case 3: return json::object();
      case 4: return -1;
      case 5: return 1.5;
      case 6:
        if (old.is_number_unsigned()) return old.get<uint64_t>() + (below(2) == 0 ? 1 : ~uint64_t{0});
        [[fallthrough]];
      default: return kNumbers[below(std::size(kNumbers))];
    }
  }
  std::mt19937 random_;
};

// Whether body() goes through; an Error must be one about the model.
template <typename Body>
bool accepts(Body body) {
  try {
    body();
    return true;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_model) << error.what();
    return false;
  }
}

TEST(CheckpointFuzz, DamagedHeadersAreRefusedOrConsistent) {
  const json good = json::parse(R"({"__metadata__":{"format":"pt"},
    "a.weight":{"dtype":"F16","shape":[2,4],"data_offsets":[0,16]},
    "b":{"dtype":"F32","shape":[2],"data_offsets":[16,24]},
    "empty":{"dtype":"U8","shape":[0,7],"data_offsets":[24,24]},
    "scalar":{"dtype":"U8","shape":[],"data_offsets":[24,25]}})");
  constexpr int64_t kDataBytes = 25;
  Damage damage(11);
  int accepted = 0;
  constexpr int kRounds = 40'000;
  for (int round = 0; round < kRounds; ++round) {
    json header = good;
    if (round % 2 == 0) damage.apply(header);
    std::string text = header.dump(-1, ' ', false, json::error_handler_t::replace);
    if (round % 4 == 1) damage.apply(text);
    if (round % 4 == 3) text.append(damage.below(10), ' ');
    const auto file_bytes = 8 + static_cast<int64_t>(text.size()) + kDataBytes;
    accepted += accepts([&] {
      const SafetensorsHeader parsed = parse_safetensors_header(text, file_bytes, "fuzzed");
      int64_t bytes = 0;
      for (const auto& [name, tensor] : parsed.tensors) {
        EXPECT_EQ(byte_count(tensor.info), tensor.bytes) << text;
        EXPECT_GE(tensor.offset, 8 + static_cast<int64_t>(text.size())) << text;
        EXPECT_LE(tensor.offset + tensor.bytes, file_bytes) << text;
        bytes += tensor.bytes;
      }
      EXPECT_EQ(bytes, kDataBytes) << text;
    });
  }
  // The undamaged quarter goes through and damage is mostly found.
  EXPECT_GT(accepted, kRounds / 4);
  EXPECT_LT(accepted, kRounds * 3 / 4);
}

// Tensors in memory.
class FakeSource : public WeightSource {
 public:
  std::map<std::string, std::pair<TensorInfo, std::string>> tensors;
  Prequantized kind = Prequantized::none;

  std::string where() const override { return "fuzzed"; }
  Prequantized prequantized() const override { return kind; }
  std::vector<std::string> names() const override {
    std::vector<std::string> result;
    for (const auto& [name, tensor] : tensors) result.push_back(name);
    return result;
  }
  std::optional<TensorInfo> find(const std::string& name) const override {
    const auto found = tensors.find(name);
    return found == tensors.end() ? std::nullopt : std::optional(found->second.first);
  }
  void read_f16(const std::string&, int64_t, int64_t, f16*) const override { FAIL() << "no fp16 here"; }
  void read_bf16(const std::string&, int64_t, int64_t, bf16*) const override { FAIL() << "no bf16 here"; }
  void read_f32(const std::string& name, int64_t first, int64_t count, float* out) const override {
    const auto& [info, bytes] = tensors.at(name);
    const auto rows = info.shape.size() < 2 ? 1 : static_cast<size_t>(info.shape[0]);
    const size_t row_bytes = rows == 0 ? 0 : bytes.size() / rows;
    ASSERT_LE(static_cast<size_t>(first + count), rows);
    std::memcpy(out, bytes.data() + static_cast<size_t>(first) * row_bytes, static_cast<size_t>(count) * row_bytes);
  }
  void read_bytes(const std::string& name, int64_t offset, std::span<std::byte> out) const override {
    const auto& bytes = tensors.at(name).second;
    ASSERT_LE(static_cast<size_t>(offset) + out.size(), bytes.size());
    if (!out.empty()) std::memcpy(out.data(), bytes.data() + offset, out.size());
  }
};

TEST(CheckpointFuzz, DamagedQuantStatesAreRefusedOrConsistent) {
  const json good_state = json::parse(R"({"quant_type":"nf4","blocksize":64,"dtype":"float16","shape":[3,43],
    "nested_blocksize":256,"nested_dtype":"float32","nested_offset":0.125})");
  const json good_config = json::parse(R"({"quantization_config":{"quant_method":"bitsandbytes","load_in_4bit":true,
    "load_in_8bit":false,"bnb_4bit_quant_type":"nf4","bnb_4bit_use_double_quant":true,"llm_int8_threshold":6.0}})");
  const std::vector<float> code(kNf4Code.begin(), kNf4Code.end()), nested(nested_code().begin(), nested_code().end());
  Damage damage(12);
  int accepted = 0;
  constexpr int kRounds = 20'000;
  for (int round = 0; round < kRounds; ++round) {
    json state = good_state, config = good_config;
    if (round % 4 == 0) damage.apply(state);
    if (round % 4 == 1) damage.apply(config);
    std::string text = state.dump();
    if (round % 4 == 2) damage.apply(text);
    FakeSource source;
    const auto size = [](const std::string& bytes) { return static_cast<int64_t>(bytes.size()); };
    source.tensors["q.weight"] = {{DType::u8, {65, 1}}, std::string(65, '\x17')};
    source.tensors["q.weight.absmax"] = {{DType::u8, {3}}, "abc"};
    source.tensors["q.weight.quant_map"] = {{DType::f32, {16}}, bytes_of(code)};
    source.tensors["q.weight.nested_absmax"] = {{DType::f32, {1}}, bytes_of<float>({1})};
    source.tensors["q.weight.nested_quant_map"] = {{DType::f32, {256}}, bytes_of(nested)};
    source.tensors["q.weight.quant_state.bitsandbytes__nf4"] = {{DType::u8, {size(text)}}, text};
    if (damage.below(8) == 0)
      source.tensors.erase(std::next(source.tensors.begin(), static_cast<long>(damage.below(6))));
    accepted += accepts([&] {
      source.kind = detect_prequantized(config, source);
      if (!is_prequantized(source, "q.weight")) return;
      const auto shape = prequantized_shape(source, "q.weight");
      Nf4Weights weights;
      read_nf4(source, "q.weight", static_cast<int>(shape[0]), static_cast<int>(shape[1]), &weights);
      EXPECT_LE(weights.codes.size(), 65u) << text;
      EXPECT_EQ(weights.codes.size(), ceil_div(static_cast<size_t>(shape[0] * shape[1]), 2)) << text;
    });
  }
  EXPECT_GT(accepted, kRounds / 6);
  EXPECT_LT(accepted, kRounds / 2);
}

TEST(CheckpointFuzz, DamagedFilesAreRefusedOrReadable) {
  const TestFolder folder;
  folder.write("config.json", "{}");
  const std::string good =
      safetensors_bytes({{"a", "F16", "2, 2", f16_bytes({1, 2, 3, 4})}, {"b", "F32", "3", bytes_of<float>({1, 2, 3})}});
  Damage damage(13);
  int accepted = 0;
  constexpr int kRounds = 2'000;
  for (int round = 0; round < kRounds; ++round) {
    std::string bytes = good;
    damage.apply(bytes);
    folder.write("model.safetensors", bytes);
    accepted += accepts([&] {
      const auto checkpoint = Checkpoint::open(folder.path());
      for (const std::string& name : checkpoint->names()) {
        const TensorInfo info = *checkpoint->find(name);
        std::vector<float> values(static_cast<size_t>(element_count(info)));
        checkpoint->read_f32(name, 0, info.shape.size() < 2 ? 1 : info.shape[0], values.data());
      }
    });
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, kRounds / 2);
}

}  // namespace
}  // namespace quantbench
