#include "checkpoint/prequantized.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "checkpoint/checkpoint.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr const char* kInt8Config = R"({"quantization_config":{"quant_method":"bitsandbytes","load_in_8bit":true,
  "load_in_4bit":false,"llm_int8_threshold":6.0}})";
constexpr const char* kNestedConfig = R"({"quantization_config":{"quant_method":"bitsandbytes","load_in_4bit":true,
  "bnb_4bit_quant_type":"nf4","bnb_4bit_use_double_quant":true,"bnb_4bit_quant_storage":"uint8"}})";
constexpr const char* kPlainConfig = R"({"quantization_config":{"quant_method":"bitsandbytes","load_in_4bit":true,
  "bnb_4bit_quant_type":"nf4","bnb_4bit_use_double_quant":false}})";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

std::vector<TestTensor> int8_tensors() {
  return {{"q.weight", "I8", "2, 3", bytes_of<int8_t>({127, 1, 2, 3, -127, 4})},
          {"q.SCB", "F32", "2", bytes_of<float>({0.5f, 0.25f})},
          {"q.weight_format", "U8", "", bytes_of<uint8_t>({0})},
          {"lm_head.weight", "F16", "1, 1", f16_bytes({1})}};
}

std::string nested_state() {
  return R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [3, 43], "nested_blocksize": 256, )"
         R"("nested_dtype": "float32", "nested_offset": 0.125})";
}
std::string plain_state() { return R"({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [3, 43]})"; }

TestTensor state_tensor(const std::string& json, const std::string& type = "nf4") {
  return {"q.weight.quant_state.bitsandbytes__" + type, "U8", std::to_string(json.size()), json};
}

// 3 × 43 = 129 weights: 65 bytes, 3 blocks.
std::vector<TestTensor> nf4_tensors(bool nested, const std::string& state) {
  const std::vector<float> code(kNf4Code.begin(), kNf4Code.end());
  const std::vector<float> nested_map(nested_code().begin(), nested_code().end());
  std::vector<TestTensor> tensors = {{"q.weight", "U8", "65, 1", std::string(65, '\x17')},
                                     {"q.weight.quant_map", "F32", "16", bytes_of(code)},
                                     state_tensor(state)};
  if (nested) {
    tensors.push_back({"q.weight.absmax", "U8", "3", bytes_of<uint8_t>({0, 127, 255})});
    tensors.push_back({"q.weight.nested_absmax", "F32", "1", bytes_of<float>({2.0f})});
    tensors.push_back({"q.weight.nested_quant_map", "F32", "256", bytes_of(nested_map)});
  } else {
    tensors.push_back({"q.weight.absmax", "F32", "3", bytes_of<float>({1, 2, 3})});
  }
  return tensors;
}

std::unique_ptr<Checkpoint> open(const TestFolder& folder, const std::string& config,
                                 const std::vector<TestTensor>& tensors) {
  folder.write("config.json", config);
  folder.write("model.safetensors", safetensors_bytes(tensors));
  return Checkpoint::open(folder.path());
}
std::string open_refusal(const std::string& config, const std::vector<TestTensor>& tensors) {
  const TestFolder folder;
  return refusal([&] { open(folder, config, tensors); });
}

TEST(Prequantized, Int8IsDetectedAndRead) {
  const TestFolder folder;
  const auto checkpoint = open(folder, kInt8Config, int8_tensors());
  EXPECT_EQ(checkpoint->prequantized(), Prequantized::int8);
  EXPECT_TRUE(is_prequantized(*checkpoint, "q.weight"));
  EXPECT_FALSE(is_prequantized(*checkpoint, "lm_head.weight"));
  Int8Weights weights;
  read_int8(*checkpoint, "q.weight", 2, 3, &weights);
  EXPECT_EQ(weights.codes, (std::vector<int8_t>{127, 1, 2, 3, -127, 4}));
  EXPECT_EQ(weights.absmax, (std::vector<float>{0.5f, 0.25f}));
  EXPECT_THAT(refusal([&] { read_int8(*checkpoint, "q.weight", 3, 2, &weights); }),
              AllOf(HasSubstr("[2, 3]"), HasSubstr("expected [3, 2]")));
}

TEST(Prequantized, NestedAndPlainNf4AreDetectedAndRead) {
  for (const bool nested : {true, false}) {
    const TestFolder folder;
    const auto checkpoint = open(folder, nested ? kNestedConfig : kPlainConfig,
                                 nf4_tensors(nested, nested ? nested_state() : plain_state()));
    EXPECT_EQ(checkpoint->prequantized(), nested ? Prequantized::nf4_nested : Prequantized::nf4_plain);
    EXPECT_TRUE(is_prequantized(*checkpoint, "q.weight"));
    EXPECT_EQ(prequantized_shape(*checkpoint, "q.weight"), (std::vector<int64_t>{3, 43}));
    const std::vector<ExpectedTensor> expected = {{"q.weight", 3, 43}};
    EXPECT_NO_THROW(check_tensors(*checkpoint, expected));
    Nf4Weights weights;
    read_nf4(*checkpoint, "q.weight", 3, 43, &weights);
    EXPECT_EQ(weights.codes.size(), 65u);
    EXPECT_EQ(block_scale(weights.view(), 2), nested ? 2.125f : 3.0f);
    EXPECT_EQ(block_scale(weights.view(), 1), nested ? 0.125f : 2.0f);
    EXPECT_THAT(refusal([&] { read_nf4(*checkpoint, "q.weight", 43, 3, &weights); }), HasSubstr("expected [43, 3]"));
  }
}

TEST(Prequantized, RefusesOtherMethodsAndVariantsByName) {
  const auto nested = nf4_tensors(true, nested_state());
  EXPECT_THAT(open_refusal(R"({"quantization_config":{"quant_method":"gptq","bits":4}})", nested), HasSubstr("gptq"));
  EXPECT_THAT(open_refusal(replaced(kNestedConfig, "\"nf4\"", "\"fp4\""), nested),
              AllOf(HasSubstr("bnb_4bit_quant_type"), HasSubstr("fp4")));
  EXPECT_THAT(open_refusal(replaced(kNestedConfig, "\"bnb_4bit_quant_type\":\"nf4\",", ""), nested), HasSubstr("fp4"))
      << "fp4 is what transformers takes where nothing is said";
  EXPECT_THAT(open_refusal(replaced(kNestedConfig, "\"uint8\"", "\"bfloat16\""), nested),
              AllOf(HasSubstr("bnb_4bit_quant_storage"), HasSubstr("bfloat16")));
  EXPECT_THAT(open_refusal(replaced(kInt8Config, "6.0", "5.0"), int8_tensors()),
              AllOf(HasSubstr("llm_int8_threshold"), HasSubstr("5.0"), HasSubstr("expected 6.0")));
  EXPECT_THAT(open_refusal(replaced(kInt8Config, "6.0", "6.0,\"llm_int8_has_fp16_weight\":true"), int8_tensors()),
              HasSubstr("llm_int8_has_fp16_weight"));
  EXPECT_THAT(open_refusal(replaced(kInt8Config, "\"load_in_4bit\":false", "\"load_in_4bit\":true"), int8_tensors()),
              HasSubstr("exactly one"));
  EXPECT_THAT(open_refusal(R"({"quantization_config":7})", nested), HasSubstr("not an object"));
}

TEST(Prequantized, RefusesAnotherBlockSizeOrTypeInAQuantState) {
  const auto with = [](const std::string& from, const std::string& to) {
    return open_refusal(kNestedConfig, nf4_tensors(true, replaced(nested_state(), from, to)));
  };
  EXPECT_THAT(with("\"blocksize\": 64", "\"blocksize\": 128"), AllOf(HasSubstr("blocksize is 128"), HasSubstr("64")));
  EXPECT_THAT(with("256", "128"), HasSubstr("nested_blocksize is 128"));
  EXPECT_THAT(with("\"nf4\"", "\"fp4\""), HasSubstr("quant_type is \"fp4\""));
  EXPECT_THAT(with("[3, 43]", "[3, -43]"), HasSubstr("shape is [3,-43]"));
  EXPECT_THAT(with("[3, 43]", "[3]"), HasSubstr("shape is [3]"));
  EXPECT_THAT(with("0.125", "\"x\""), HasSubstr("nested_offset"));
  EXPECT_THAT(with("0.125", "1e300"), HasSubstr("nested_offset is 1e+300, expected from 0 to 65504"));
  EXPECT_THAT(with("0.125", "-0.125"), HasSubstr("nested_offset is -0.125, expected from 0"));
  EXPECT_THAT(with("\"float16\"", "\"float99\""), HasSubstr("dtype is \"float99\", expected float16, bfloat16"));
  EXPECT_THAT(with("\"dtype\": \"float16\", ", ""), HasSubstr("dtype is null"));
  EXPECT_THAT(with("{", "["), HasSubstr("not valid JSON"));
  auto fp4 = nf4_tensors(true, nested_state());
  fp4[2] = state_tensor(nested_state(), "fp4");
  EXPECT_THAT(open_refusal(kNestedConfig, fp4), AllOf(HasSubstr("fp4"), HasSubstr("expected nf4")));
}

TEST(Prequantized, RefusesWhatConfigAndTensorsDisagreeOn) {
  EXPECT_THAT(open_refusal("{}", int8_tensors()), HasSubstr("no quantization_config"));
  EXPECT_THAT(open_refusal("{}", nf4_tensors(true, nested_state())), HasSubstr("no quantization_config"));
  EXPECT_THAT(open_refusal(kNestedConfig, int8_tensors()),
              AllOf(HasSubstr("load_in_4bit"), HasSubstr("1 weights are int8")));
  EXPECT_THAT(open_refusal(kInt8Config, nf4_tensors(true, nested_state())), HasSubstr("load_in_8bit"));
  EXPECT_THAT(open_refusal(kPlainConfig, nf4_tensors(true, nested_state())), HasSubstr("are nested"));
  EXPECT_THAT(open_refusal(kNestedConfig, nf4_tensors(false, plain_state())), HasSubstr("are plain"));
}

TEST(Prequantized, RefusesDamagedTensorsOfAWeight) {
  const auto nf4_refusal = [](size_t index, const TestTensor& tensor) {
    auto tensors = nf4_tensors(true, nested_state());
    tensors[index] = tensor;
    const TestFolder folder;
    const auto checkpoint = open(folder, kNestedConfig, tensors);
    Nf4Weights weights;
    return refusal([&] { read_nf4(*checkpoint, "q.weight", 3, 43, &weights); });
  };
  EXPECT_THAT(nf4_refusal(0, {"q.weight", "U8", "64, 1", std::string(64, 'x')}), HasSubstr("expected U8 with 65"));
  EXPECT_THAT(nf4_refusal(0, {"q.weight", "BF16", "65, 1", std::string(130, 'x')}), HasSubstr("BF16 [65, 1]"));
  EXPECT_THAT(nf4_refusal(1, {"q.weight.quant_map", "F32", "16", std::string(64, '\0')}), HasSubstr("another code"));
  EXPECT_THAT(nf4_refusal(3, {"other", "U8", "3", "abc"}), HasSubstr("'q.weight.absmax' is missing"));
  EXPECT_THAT(nf4_refusal(4, {"q.weight.nested_absmax", "F32", "1", bytes_of<float>({NAN})}), HasSubstr("is NaN"));
  EXPECT_THAT(nf4_refusal(4, {"q.weight.nested_absmax", "F32", "1", bytes_of<float>({-2})}),
              HasSubstr("has -2 at index 0, expected magnitudes"));

  auto plain = nf4_tensors(false, plain_state());
  plain[3] = {"q.weight.absmax", "F32", "3", bytes_of<float>({1, -2, 3})};
  const TestFolder plain_folder;
  const auto of_plain = open(plain_folder, kPlainConfig, plain);
  Nf4Weights plain_weights;
  EXPECT_THAT(refusal([&] { read_nf4(*of_plain, "q.weight", 3, 43, &plain_weights); }), HasSubstr("has -2 at index 1"));

  const auto int8_refusal = [](size_t index, const TestTensor& tensor) {
    auto tensors = int8_tensors();
    tensors[index] = tensor;
    const TestFolder folder;
    const auto checkpoint = open(folder, kInt8Config, tensors);
    Int8Weights weights;
    return refusal([&] { read_int8(*checkpoint, "q.weight", 2, 3, &weights); });
  };
  EXPECT_THAT(int8_refusal(2, {"q.weight_format", "U8", "", bytes_of<uint8_t>({2})}), HasSubstr("is 2, expected 0"));
  EXPECT_THAT(int8_refusal(1, {"q.SCB", "F32", "1", bytes_of<float>({1})}), HasSubstr("expected F32 with 2"));
  EXPECT_THAT(int8_refusal(1, {"q.SCB", "F32", "2", bytes_of<float>({0.5f, -0.25f})}),
              HasSubstr("'q.SCB' has -0.25 at index 1, expected magnitudes"));
  EXPECT_THAT(int8_refusal(0, {"other", "I8", "1", "x"}), HasSubstr("'q.weight' is missing"));
}

TEST(Prequantized, PartsOfAWeightAreCheckedWithoutReadingThem) {
  const auto refused = [](const char* config, std::vector<TestTensor> tensors, size_t index, const TestTensor& tensor) {
    tensors[index] = tensor;
    const TestFolder folder;
    const auto checkpoint = open(folder, config, tensors);
    return refusal([&] { check_parts(*checkpoint, "q.weight"); });
  };
  const auto nf4 = nf4_tensors(true, nested_state());
  EXPECT_THAT(refused(kNestedConfig, nf4, 0, {"q.weight", "U8", "64, 1", std::string(64, 'x')}),
              HasSubstr("expected U8 with 65"));
  EXPECT_THAT(refused(kNestedConfig, nf4, 1, {"other", "U8", "3", "abc"}),
              HasSubstr("'q.weight.quant_map' is missing"));
  EXPECT_THAT(refused(kNestedConfig, nf4, 3, {"q.weight.absmax", "F32", "1", bytes_of<float>({1})}),
              HasSubstr("'q.weight.absmax' is F32"));
  EXPECT_THAT(refused(kNestedConfig, nf4, 4, {"other", "U8", "3", "abc"}),
              HasSubstr("'q.weight.nested_absmax' is missing"));
  const auto int8 = int8_tensors();
  EXPECT_THAT(refused(kInt8Config, int8, 1, {"q.SCB", "F32", "1", bytes_of<float>({1})}),
              HasSubstr("expected F32 with 2"));
  EXPECT_THAT(refused(kInt8Config, int8, 2, {"q.weight_format", "U8", "", bytes_of<uint8_t>({2})}),
              HasSubstr("is 2, expected 0"));
  const TestFolder folder;
  EXPECT_NO_THROW(check_parts(*open(folder, kNestedConfig, nf4), "q.weight"));
}

}  // namespace
}  // namespace quantbench
