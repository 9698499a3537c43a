#include "checkpoint/quantized_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdlib>

#include "checkpoint/prequantized.h"
#include "core/os.h"
#include "quant/golden_data.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string kModels = QB_SOURCE_DIR "/testdata/models/";

std::vector<std::string> linears_of(const Checkpoint& source) {
  std::vector<std::string> result;
  for (const std::string& name : source.names()) {
    if (name.ends_with("_proj.weight")) result.push_back(name);
  }
  return result;
}

std::vector<f16> read_all(const WeightSource& source, const std::string& name) {
  const TensorInfo info = *source.find(name);
  std::vector<f16> values(static_cast<size_t>(element_count(info)));
  source.read_f16(name, 0, info.shape.size() < 2 ? 1 : info.shape[0], values.data());
  return values;
}

std::vector<std::byte> read_all_bytes(const WeightSource& source, const std::string& name) {
  std::vector<std::byte> bytes(static_cast<size_t>(byte_count(*source.find(name))));
  source.read_bytes(name, 0, bytes);
  return bytes;
}

class QuantizedWriter : public testing::Test {
 protected:
  QuantizeResult write(Format format, const std::string& output, int64_t shard_bytes = 5'000'000'000) {
    return write_quantized({*source_, linears_of(*source_), {"lm_head"}, format, output, shard_bytes}, pool_);
  }
  std::string write_refusal(const std::string& output, ErrorKind kind) {
    return refusal([&] { write(Format::nf4, output); }, kind);
  }
  TestFolder folder_;
  ThreadPool pool_{2};
  std::unique_ptr<Checkpoint> source_ = Checkpoint::open(kModels + "llama-gqa");
};

TEST_F(QuantizedWriter, WhatItWritesOpensAsQuantisedAndHoldsTheSameWeights) {
  for (const Format format : {Format::int8, Format::nf4}) {
    const std::string output = folder_ / std::string(name_of(format));
    write(format, output);
    const auto written = Checkpoint::open(output);
    EXPECT_EQ(written->prequantized(), format == Format::int8 ? Prequantized::int8 : Prequantized::nf4_nested);
    for (const std::string& name : source_->names()) {
      const auto w = read_all(*source_, name);
      if (!name.ends_with("_proj.weight")) {
        EXPECT_EQ(read_all(*written, name), w) << name;
        continue;
      }
      const int n = static_cast<int>(source_->find(name)->shape[0]),
                k = static_cast<int>(source_->find(name)->shape[1]);
      if (format == Format::int8) {
        std::vector<int8_t> codes(w.size());
        std::vector<float> absmax(static_cast<size_t>(n));
        quantize_int8(w, n, k, codes, absmax, pool_);
        Int8Weights read;
        read_int8(*written, name, n, k, &read);
        EXPECT_EQ(read.codes, codes) << name;
        EXPECT_EQ(read.absmax, absmax) << name;
      } else {
        Nf4Weights expected, read;
        quantize_nf4(w, n, k, &expected, pool_);
        read_nf4(*written, name, n, k, &read);
        EXPECT_EQ(read.codes, expected.codes) << name;
        EXPECT_EQ(read.absmax8, expected.absmax8) << name;
        EXPECT_EQ(read.nested_absmax, expected.nested_absmax) << name;
        EXPECT_EQ(read.offset, expected.offset) << name;
      }
    }
  }
}

// The same tensors, types and shapes as transformers + bitsandbytes saved of the same model, and the same bytes but for
// those that hang on the last bit of a division or a sum. The model was saved on a CPU, where bitsandbytes' search for
// the nearest of 256 absmax codes errs beside a tie (15 in 10⁴ here); CUDA's codes are met exactly in nf4_test.cpp.
TEST_F(QuantizedWriter, WritesTheTensorsThatTransformersSaves) {
  for (const Format format : {Format::int8, Format::nf4}) {
    const std::string output = folder_ / std::string(name_of(format));
    write(format, output);
    const auto ours = Checkpoint::open(output);
    const auto theirs = Checkpoint::open(kModels + "llama-gqa-" + std::string(name_of(format)));
    EXPECT_EQ(ours->names(), theirs->names());
    size_t codes = 0, different_codes = 0, absmax_codes = 0, different_absmax_codes = 0;
    for (const std::string& name : theirs->names()) {
      const TensorInfo info = *theirs->find(name);
      ASSERT_TRUE(ours->find(name)) << name;
      EXPECT_EQ(ours->find(name)->dtype, info.dtype) << name;
      if (name.find("quant_state") != std::string::npos) continue;  // as long as its offset has digits
      EXPECT_EQ(ours->find(name)->shape, info.shape) << name;
      if (name.ends_with(".nested_absmax")) continue;  // hangs on the offset, a sum in PyTorch's own order
      const auto a = read_all_bytes(*ours, name), b = read_all_bytes(*theirs, name);
      const bool is_absmax = name.ends_with(".absmax");
      size_t different = 0;
      for (size_t i = 0; i < a.size(); ++i) different += a[i] != b[i];
      (is_absmax ? absmax_codes : codes) += a.size();
      (is_absmax ? different_absmax_codes : different_codes) += different;
    }
    EXPECT_LE(different_codes, codes / 10'000);
    EXPECT_LE(different_absmax_codes, absmax_codes * 3 / 1000);
  }
}

TEST_F(QuantizedWriter, SaysInTheConfigWhatTransformersMustKnow) {
  write(Format::nf4, folder_ / "out");
  const auto config = Checkpoint::open(folder_ / "out")->config();
  EXPECT_EQ(config["torch_dtype"], "float16");
  EXPECT_EQ(config["hidden_size"], source_->config()["hidden_size"]);
  const auto& quantization = config["quantization_config"];
  EXPECT_EQ(quantization["quant_method"], "bitsandbytes");
  EXPECT_EQ(quantization["load_in_4bit"], true);
  EXPECT_EQ(quantization["load_in_8bit"], false);
  EXPECT_EQ(quantization["bnb_4bit_quant_type"], "nf4");
  EXPECT_EQ(quantization["bnb_4bit_use_double_quant"], true);
  EXPECT_EQ(quantization["bnb_4bit_compute_dtype"], "float16");
  EXPECT_EQ(quantization["bnb_4bit_quant_storage"], "uint8");
  EXPECT_EQ(quantization["llm_int8_threshold"], 6.0);
  EXPECT_EQ(quantization["llm_int8_skip_modules"], nlohmann::json::array({"lm_head"}));
}

TEST(QuantState, IsTheTextThatBitsandbytesWrites) {
  for (const std::string& file : golden_files()) {
    const GoldenData data(file);
    for (const std::string& linear : data.linears()) {
      const auto bytes = data.get<char>(linear + ".nf4.weight.quant_state.bitsandbytes__nf4");
      const std::string text(bytes.begin(), bytes.end());
      const float offset = parse_json(text, linear)["nested_offset"].get<float>();
      EXPECT_EQ(nf4_quant_state(data.dim(linear + ".w", 0), data.dim(linear + ".w", 1), offset), text);
    }
  }
  EXPECT_THAT(nf4_quant_state(1, 2, 0), HasSubstr("\"nested_offset\": 0.0}"));
}

TEST_F(QuantizedWriter, SplitsIntoShardsWithAnIndexAndKeepsAWeightsTensorsTogether) {
  const QuantizeResult result = write(Format::nf4, folder_ / "out", 100'000);
  const auto whole = write(Format::nf4, folder_ / "whole");
  EXPECT_EQ(result.weight_bytes, whole.weight_bytes);
  const auto index = read_json_file(folder_ / "out/model.safetensors.index.json");
  EXPECT_EQ(index["metadata"]["total_size"], result.weight_bytes);
  const auto one = Checkpoint::open(folder_ / "whole"), many = Checkpoint::open(folder_ / "out");
  EXPECT_EQ(one->names(), many->names());
  for (const std::string& name : one->names()) EXPECT_EQ(read_all_bytes(*one, name), read_all_bytes(*many, name));
  for (const std::string& name : linears_of(*source_)) {
    EXPECT_EQ(index["weight_map"][name], index["weight_map"][name + ".quant_state.bitsandbytes__nf4"]);
  }
}

TEST_F(QuantizedWriter, WhatIsUsedInFp32StaysAsItIsStored) {
  const TestFolder model;
  model.write("config.json", "{}");
  model.write("model.safetensors",
              safetensors_bytes({{"a.weight", "F32", "3, 5", bytes_of(std::vector<float>(15, 0.5f))},
                                 {"fine.wo.weight", "F32", "2, 2", bytes_of<float>({1.0001f, 1e-9f, 1e9f, -2})},
                                 {"coarse.wo.weight", "BF16", "1, 2", bytes_of<bf16>({to_bf16(1e9f), to_bf16(2)})}}));
  const auto source = Checkpoint::open(model.path());
  write_quantized({.source = *source,
                   .linears = {"a.weight"},
                   .format = Format::int8,
                   .output = folder_ / "kept",
                   .kept = {"fine.wo.weight", "coarse.wo.weight"}},
                  pool_);
  const auto written = Checkpoint::open(folder_ / "kept");
  for (const char* name : {"fine.wo.weight", "coarse.wo.weight"}) {
    EXPECT_EQ(written->find(name)->dtype, source->find(name)->dtype);
    EXPECT_EQ(read_all_bytes(*written, name), read_all_bytes(*source, name));
  }
}

TEST_F(QuantizedWriter, ConvertsNumbersToFp16AndKeepsOtherTensorsAndFiles) {
  const TestFolder model;
  model.write("config.json", R"({"dtype":"bfloat16"})");
  model.write("generation_config.json", R"({"eos_token_id":7})");
  model.write("tokenizer.json", "tokens");
  model.write("pytorch_model.bin", "not this one");
  model.write("model.safetensors",
              safetensors_bytes({{"a.weight", "F32", "3, 5", bytes_of(std::vector<float>(15, 0.5f))},
                                 {"norm", "BF16", "2", bytes_of<bf16>({to_bf16(1), to_bf16(2)})},
                                 {"ids", "I64", "2", std::string(16, 'x')},
                                 {"empty", "F16", "0, 4", ""},
                                 {"scalar", "F32", "", bytes_of<float>({3})}}));
  const auto source = Checkpoint::open(model.path());
  int64_t last = 0, total = 0;
  const QuantizeResult result = write_quantized({*source, {"a.weight"}, {}, Format::nf4, folder_ / "new/out"}, pool_,
                                                [&](int64_t done, int64_t all) {
                                                  EXPECT_GT(done, last);
                                                  last = done;
                                                  total = all;
                                                });
  EXPECT_EQ(last, total);
  EXPECT_THAT(result.files,
              ElementsAre("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"));
  EXPECT_EQ(os::list_directory(folder_ / "new/out"), result.files) << "no temporary file is left";
  EXPECT_EQ(os::read_file(folder_ / "new/out/tokenizer.json", 100), "tokens");
  const auto written = Checkpoint::open(folder_ / "new/out");
  EXPECT_EQ(written->config()["dtype"], "float16");
  EXPECT_FALSE(written->config().contains("torch_dtype"));
  EXPECT_EQ(written->find("norm")->dtype, DType::f16);
  EXPECT_EQ(to_float(read_all(*written, "norm")[1]), 2.0f);
  EXPECT_EQ(to_float(read_all(*written, "scalar")[0]), 3.0f);
  EXPECT_EQ(read_all_bytes(*written, "ids"), read_all_bytes(*source, "ids"));
  EXPECT_EQ(written->find("empty")->shape, (std::vector<int64_t>{0, 4}));
  EXPECT_EQ(written->find("a.weight")->shape, (std::vector<int64_t>{8, 1})) << "15 weights, two a byte";
}

TEST_F(QuantizedWriter, RefusesAnOutputFolderThatHoldsSomething) {
  folder_.write("out/keep.txt", "mine");
  EXPECT_THAT(write_refusal(folder_ / "out", ErrorKind::usage), AllOf(HasSubstr("1 entries"), HasSubstr("keep.txt")));
  EXPECT_THAT(write_refusal(folder_ / "out/keep.txt", ErrorKind::usage), HasSubstr("found a file"));
  EXPECT_THAT(os::list_directory(folder_ / "out"), ElementsAre("keep.txt"));
  std::filesystem::create_directories(folder_ / "empty");
  EXPECT_EQ(write_refusal(folder_ / "empty", ErrorKind::usage), "accepted");
}

TEST_F(QuantizedWriter, RefusesAFolderThatAnotherProcessFills) {
  const os::OutputFolder other(folder_ / "out");
  EXPECT_THAT(write_refusal(folder_ / "out", ErrorKind::usage), HasSubstr("another process is writing"));
  EXPECT_TRUE(std::filesystem::is_empty(folder_ / "out"));
}

TEST_F(QuantizedWriter, RefusesAQuantisedSourceAndLinearsThatAreNoMatrices) {
  const auto quantised = Checkpoint::open(kModels + "llama-gqa-nf4");
  EXPECT_THAT(refusal([&] {
                write_quantized({*quantised, {}, {}, Format::int8, folder_ / "out"}, pool_);
              }),
              HasSubstr("quantised already"));
  EXPECT_THAT(refusal([&] {
                write_quantized({*source_, {"none", "model.norm.weight"}, {}, Format::int8, folder_ / "out"}, pool_);
              }),
              AllOf(HasSubstr("'none' is missing"), HasSubstr("'model.norm.weight' is F16 [192]")));
  EXPECT_FALSE(os::exists(folder_ / "out"));
}

TEST_F(QuantizedWriter, RefusesIn4bitWhatHasNoMeanScale) {
  for (const float odd : {NAN, INFINITY, -INFINITY, 65520.0f}) {
    const TestFolder model, out;
    model.write("config.json", "{}");
    std::vector<float> values(128, 0.5f);
    values[70] = odd;
    model.write("model.safetensors",
                safetensors_bytes({{"fine.weight", "F32", "2, 64", bytes_of(std::vector<float>(128, 1))},
                                   {"odd.weight", "F32", "2, 64", bytes_of(values)}}));
    const auto source = Checkpoint::open(model.path(), {.allow_nonfinite = true});
    const auto write = [&](Format format) {
      write_quantized({*source, {"fine.weight", "odd.weight"}, {}, format, out / "out"}, pool_);
    };
    EXPECT_THAT(refusal([&] { write(Format::nf4); }), AllOf(HasSubstr("'odd.weight' has NaN"), HasSubstr("take int8")));
    EXPECT_FALSE(os::exists(out / "out")) << "nothing is written";
    write(Format::int8);
    Int8Weights read;
    const auto written = Checkpoint::open(out / "out", {.allow_nonfinite = true});
    EXPECT_NO_THROW(read_int8(*written, "odd.weight", 2, 64, &read));
  }
}

// Fails the nth call of one kind, as a full disk does.
struct FullDisk : os::System {
  int writes_left = 1 << 30, syncs_left = 1 << 30;
  ssize_t write(int fd, const void* data, size_t bytes) override {
    return fails(&writes_left) ? -1 : System::write(fd, data, bytes);
  }
  int fsync(int fd) override { return fails(&syncs_left) ? -1 : System::fsync(fd); }
  static bool fails(int* left) {
    if (--*left >= 0) return false;
    errno = ENOSPC;
    return true;
  }
};

TEST_F(QuantizedWriter, AFullDiskLeavesNothingBehind) {
  for (const int successes : {0, 1, 5, 50, 100}) {
    FullDisk disk;
    disk.writes_left = successes;
    const os::ScopedSystem scope(disk);
    EXPECT_THAT(write_refusal(folder_ / "out", ErrorKind::disk), HasSubstr("No space left")) << successes;
    EXPECT_FALSE(os::exists(folder_ / "out")) << successes;
  }
  // Files are synced, renamed and their folder synced one after the other: the first of them are in place already.
  for (const int successes : {0, 1, 2, 3}) {
    FullDisk disk;
    disk.syncs_left = successes;
    const os::ScopedSystem scope(disk);
    EXPECT_THAT(write_refusal(folder_ / "out", ErrorKind::disk), HasSubstr("No space left")) << successes;
    EXPECT_FALSE(os::exists(folder_ / "out")) << successes;
  }
}

// In a child, since a stop request stays for the rest of a process; without other threads, which a fork would lose.
TEST(QuantizedWriterStop, AStopRequestEndsItWithoutOutput) {
  const TestFolder folder;
  const auto interrupted = [&] {
    os::catch_stop_signals();
    std::raise(SIGINT);
    ThreadPool pool(1);
    const auto source = Checkpoint::open(kModels + "llama-gqa");
    const std::string text = refusal(
        [&] {
          write_quantized({*source, linears_of(*source), {}, Format::nf4, folder / "out"}, pool);
        },
        ErrorKind::interrupted);
    std::_Exit(text.find("interrupted") != std::string::npos && !os::exists(folder / "out") ? 0 : 1);
  };
  EXPECT_EXIT(interrupted(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace quantbench
