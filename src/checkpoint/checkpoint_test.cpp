#include "checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "checkpoint/limits.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::string open_refusal(const TestFolder& folder, CheckpointOptions options = {}) {
  return refusal([&] { Checkpoint::open(folder.path(), options); });
}

void write_single(const TestFolder& folder, const std::vector<TestTensor>& tensors) {
  folder.write("config.json", "{}");
  folder.write("model.safetensors", safetensors_bytes(tensors));
}

void write_index(const TestFolder& folder, const std::string& weight_map) {
  folder.write("config.json", "{}");
  folder.write("model.safetensors.index.json", R"({"metadata":{},"weight_map":{)" + weight_map + "}}");
}

TEST(Checkpoint, ReadsF32F16AndBf16AsEitherWidth) {
  const TestFolder folder;
  const std::vector<float> values = {1, -2, 0.5f, 3, 4, 5.25f};
  std::vector<bf16> bf16s;
  for (const float value : values) bf16s.push_back(to_bf16(value));
  write_single(folder, {{"f32", "F32", "3, 2", bytes_of(values)},
                        {"f16", "F16", "3, 2", f16_bytes(values)},
                        {"bf16", "BF16", "3, 2", bytes_of(bf16s)}});
  const auto checkpoint = Checkpoint::open(folder.path());
  EXPECT_EQ(checkpoint->names(), (std::vector<std::string>{"bf16", "f16", "f32"}));
  EXPECT_EQ(checkpoint->find("f16")->shape, (std::vector<int64_t>{3, 2}));
  EXPECT_FALSE(checkpoint->find("other"));
  for (const std::string& name : checkpoint->names()) {
    std::vector<float> wide(4);
    std::vector<f16> narrow(4);
    std::vector<bf16> brain(4);
    checkpoint->read_f32(name, 1, 2, wide.data());
    checkpoint->read_f16(name, 1, 2, narrow.data());
    checkpoint->read_bf16(name, 1, 2, brain.data());
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(wide[i], values[2 + i]) << name;
      EXPECT_EQ(to_float(brain[i]), values[2 + i]) << name;
      EXPECT_EQ(to_float(narrow[i]), values[2 + i]) << name;
    }
  }
  EXPECT_FALSE(checkpoint->met_nonfinite());
}

TEST(Checkpoint, RoundsToNearestEvenAndReadsVectorsAsOneRow) {
  const TestFolder folder;
  write_single(folder, {{"v", "F32", "3", bytes_of<float>({2049.0f, 2051.0f, 1e-9f})}});
  std::vector<f16> out(3);
  Checkpoint::open(folder.path())->read_f16("v", 0, 1, out.data());
  EXPECT_EQ(to_float(out[0]), 2048.0f);
  EXPECT_EQ(to_float(out[1]), 2052.0f);
  EXPECT_EQ(out[2].bits, 0);
}

TEST(Checkpoint, Bf16KeepsItsBitsAndOtherTypesRoundToNearestEven) {
  const TestFolder folder;
  // A subnormal, beyond fp16, the largest.
  const std::vector<bf16> stored = {{0x8001}, {0x4f81}, {0x7f7f}};
  // Ties at 2⁻⁹ of the value go down from 1 and up from 1.0078125; the last rounds down to the largest bf16.
  const std::vector<float> floats = {1.00390625f, 1.01171875f, std::bit_cast<float>(0x7f7f7fffu)};
  write_single(folder, {{"b", "BF16", "3", bytes_of(stored)},
                        {"f", "F32", "3", bytes_of(floats)},
                        {"h", "F16", "2", f16_bytes({1.00390625f, -1.01171875f})},
                        {"large", "F32", "1", bytes_of<float>({std::bit_cast<float>(0x7f7f8000u)})}});
  const auto checkpoint = Checkpoint::open(folder.path());
  std::vector<bf16> out(3);
  checkpoint->read_bf16("b", 0, 1, out.data());
  EXPECT_EQ(out, stored);
  checkpoint->read_bf16("f", 0, 1, out.data());
  EXPECT_EQ(out, (std::vector<bf16>{{0x3f80}, {0x3f82}, {0x7f7f}}));
  checkpoint->read_bf16("h", 0, 1, out.data());
  EXPECT_EQ(out[0].bits, 0x3f80);
  EXPECT_EQ(out[1].bits, 0xbf82);
  EXPECT_THAT(refusal([&] { checkpoint->read_bf16("large", 0, 1, out.data()); }),
              AllOf(HasSubstr("'large' element [0]"), HasSubstr("beyond bf16's largest value")));
}

TEST(Checkpoint, ReadsMoreThanOnePiece) {
  const TestFolder folder;
  std::vector<float> values(300'001);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 2048);
  write_single(folder, {{"w", "F32", "300001, 1", bytes_of(values)}, {"h", "F16", "300001, 1", f16_bytes(values)}});
  const auto checkpoint = Checkpoint::open(folder.path());
  for (const char* name : {"w", "h"}) {
    std::vector<f16> narrow(values.size() - 1);
    std::vector<float> wide(values.size() - 1);
    checkpoint->read_f16(name, 1, 300'000, narrow.data());
    checkpoint->read_f32(name, 1, 300'000, wide.data());
    for (size_t i = 0; i < wide.size(); ++i) {
      ASSERT_EQ(to_float(narrow[i]), values[i + 1]);
      ASSERT_EQ(wide[i], values[i + 1]);
    }
  }
}

TEST(Checkpoint, RefusesNaNInfinityAndValuesBeyondFp16NamingTensorAndElement) {
  const TestFolder folder;
  write_single(folder, {{"nan", "F16", "2, 2", f16_bytes({1, 2, 3, NAN})},
                        {"inf", "BF16", "2", bytes_of<bf16>({to_bf16(1), to_bf16(-kInfinity)})},
                        {"big", "F32", "2, 2", bytes_of<float>({1, 2, -65504.5f, 65504})}});
  const auto checkpoint = Checkpoint::open(folder.path());
  std::vector<f16> out(4);
  std::vector<float> wide(4);
  const auto text = [&](const char* name, int64_t rows) {
    return refusal([&] { checkpoint->read_f16(name, 0, rows, out.data()); });
  };
  EXPECT_THAT(text("nan", 2), AllOf(HasSubstr("'nan'"), HasSubstr("[1, 1] is NaN"), HasSubstr("--allow-nonfinite")));
  EXPECT_THAT(text("inf", 1), HasSubstr("[1] is infinite"));
  EXPECT_THAT(text("big", 2), AllOf(HasSubstr("[1, 0] is -65504.5"), HasSubstr("65504")));
  EXPECT_NO_THROW(checkpoint->read_f32("big", 0, 2, wide.data())) << "fp32 holds it";
  EXPECT_THROW(checkpoint->read_f32("inf", 0, 1, wide.data()), Error);
  EXPECT_THROW(checkpoint->read_f32("nan", 1, 1, wide.data()), Error);
  EXPECT_NO_THROW(checkpoint->read_f32("nan", 0, 1, wide.data())) << "the rows asked for are finite";

  const auto allowed = Checkpoint::open(folder.path(), {.allow_nonfinite = true});
  EXPECT_FALSE(allowed->met_nonfinite());
  allowed->read_f16("big", 0, 2, out.data());
  EXPECT_TRUE(allowed->met_nonfinite());
  allowed->read_f16("nan", 0, 2, out.data());
  EXPECT_TRUE(std::isnan(to_float(out[3])));
}

TEST(Checkpoint, RefusesRowsThatATensorHasNotAndTypesThatAreNoWeights) {
  const TestFolder folder;
  write_single(folder, {{"w", "F16", "2, 2", f16_bytes({1, 2, 3, 4})}, {"i", "I64", "1", std::string(8, '\0')}});
  const auto checkpoint = Checkpoint::open(folder.path());
  std::vector<f16> out(8);
  EXPECT_THAT(refusal([&] { checkpoint->read_f16("w", 1, 2, out.data()); }), HasSubstr("has 2 rows"));
  EXPECT_THAT(refusal([&] { checkpoint->read_f16("i", 0, 1, out.data()); }), HasSubstr("dtype I64"));
  EXPECT_THAT(refusal([&] { checkpoint->read_f16("none", 0, 1, out.data()); }), HasSubstr("'none' is missing"));
  std::byte bytes[8];
  checkpoint->read_bytes("i", 0, bytes);
  EXPECT_THAT(refusal([&] { checkpoint->read_bytes("i", 1, bytes); }), HasSubstr("has 8 bytes"));
}

TEST(Checkpoint, ReadsShards) {
  const TestFolder folder;
  folder.write("a.safetensors", safetensors_bytes({{"x", "F16", "1", f16_bytes({1})}}));
  folder.write("b.safetensors", safetensors_bytes({{"y", "F16", "1", f16_bytes({2})}}));
  write_index(folder, R"("x":"a.safetensors","y":"b.safetensors")");
  folder.write("generation_config.json", R"({"eos_token_id": 7})");
  const auto checkpoint = Checkpoint::open(folder.path());
  f16 y;
  checkpoint->read_f16("y", 0, 1, &y);
  EXPECT_EQ(to_float(y), 2.0f);
  EXPECT_EQ(checkpoint->generation_config()["eos_token_id"], 7);
}

TEST(Checkpoint, ListsEveryMissingShard) {
  const TestFolder folder;
  folder.write("a.safetensors", safetensors_bytes({{"x", "F16", "1", f16_bytes({1})}}));
  write_index(folder, R"("x":"a.safetensors","y":"b.safetensors","z":"c.safetensors")");
  EXPECT_THAT(open_refusal(folder), AllOf(HasSubstr("2 of 3 shards"), HasSubstr("b.safetensors, c.safetensors")));
}

TEST(Checkpoint, ListsEveryTensorThatItsShardLacks) {
  const TestFolder folder;
  folder.write("a.safetensors", safetensors_bytes({{"x", "F16", "1", f16_bytes({1})}}));
  write_index(folder, R"("x":"a.safetensors","y":"a.safetensors","z":"a.safetensors")");
  EXPECT_THAT(open_refusal(folder), AllOf(HasSubstr("2 tensors"), HasSubstr("'y' (of a.safetensors), 'z'")));
}

TEST(Checkpoint, ListsEveryTensorThatTheIndexLacks) {
  const TestFolder folder;
  folder.write("a.safetensors",
               safetensors_bytes({{"x", "F16", "1", f16_bytes({1})}, {"y", "F16", "1", f16_bytes({2})}}));
  write_index(folder, R"("x":"a.safetensors")");
  EXPECT_THAT(open_refusal(folder),
              AllOf(HasSubstr("1 tensors of the shards are not in the index: 'y' (in a.safetensors)"),
                    HasSubstr("get the model again")));
}

TEST(Checkpoint, APointerOfGitLfsSaysHowToGetTheFile) {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2471645608\n";
  for (const char* name : {"config.json", "generation_config.json", "model.safetensors"}) {
    const TestFolder folder;
    write_single(folder, {});
    folder.write(name, pointer);
    EXPECT_THAT(open_refusal(folder), AllOf(HasSubstr(name), HasSubstr("git lfs pull"))) << name;
  }
}

TEST(Checkpoint, ListsEveryTensorThatIsInTwoShards) {
  const TestFolder folder;
  for (const char* shard : {"a.safetensors", "b.safetensors"}) {
    folder.write(shard, safetensors_bytes({{"x", "F16", "1", f16_bytes({1})}, {"y", "F16", "1", f16_bytes({1})}}));
  }
  write_index(folder, R"("x":"a.safetensors","y":"b.safetensors")");
  EXPECT_THAT(open_refusal(folder), AllOf(HasSubstr("2 tensors"), HasSubstr("'x' in "), HasSubstr("'y' in "),
                                          HasSubstr("a.safetensors and "), HasSubstr("b.safetensors")));
}

TEST(Checkpoint, RefusesIndexEntriesThatAreNotPlainFileNames) {
  for (const char* name : {"../../etc/passwd", "/etc/passwd", "sub/a.safetensors", "..", "", "a\\\\b"}) {
    const TestFolder folder;
    write_index(folder, fmt::format(R"("x":"{}")", name));
    EXPECT_THAT(open_refusal(folder), AllOf(HasSubstr("plain names"), HasSubstr("'x'"))) << name;
  }
  const TestFolder folder;
  write_index(folder, R"("x":7)");
  EXPECT_THAT(open_refusal(folder), HasSubstr("plain names"));
  folder.write("model.safetensors.index.json", "{}");
  EXPECT_THAT(open_refusal(folder), HasSubstr("weight_map"));
  std::string map;
  for (size_t i = 0; i <= kMaxTensors; ++i) map += fmt::format("{}\"{}\":\"a\"", i > 0 ? "," : "", i);
  folder.write("model.safetensors.index.json", R"({"weight_map":{)" + map + "}}");
  EXPECT_THAT(open_refusal(folder), AllOf(HasSubstr("262145 tensors"), HasSubstr("at most 262144")));
  folder.write("model.safetensors.index.json", "[1]");
  EXPECT_THAT(open_refusal(folder), HasSubstr("weight_map"));
}

TEST(Checkpoint, ATruncatedShardIsRefusedWhenOpened) {
  const TestFolder folder;
  std::string shard = safetensors_bytes({{"x", "F16", "4", f16_bytes({1, 2, 3, 4})}});
  shard.pop_back();
  folder.write("a.safetensors", shard);
  write_index(folder, R"("x":"a.safetensors")");
  EXPECT_THAT(open_refusal(folder), AllOf(HasSubstr("a.safetensors"), HasSubstr("truncated")));
}

TEST(Checkpoint, SaysWhatAFolderWithoutSafetensorsHolds) {
  const TestFolder folder;
  EXPECT_THAT(open_refusal(folder), AllOf(HasSubstr("config.json"), HasSubstr("an empty folder")));
  folder.write("config.json", "{}");
  EXPECT_THAT(open_refusal(folder), AllOf(HasSubstr("model.safetensors.index.json"), HasSubstr("found config.json")));
  folder.write("model.Q4_0.gguf", "");
  EXPECT_THAT(open_refusal(folder), HasSubstr("GGUF"));
  folder.write("pytorch_model.bin", "");
  EXPECT_THAT(open_refusal(folder), AllOf(HasSubstr("pickle"), HasSubstr("import AutoModelForCausalLM as M;")));
  folder.write("it's/config.json", R"({"architectures": ["T5ForConditionalGeneration"]})");
  folder.write("it's/pytorch_model.bin", "");
  const auto quoted = [&] { return refusal([&] { Checkpoint::open(folder / "it's"); }); };
  EXPECT_THAT(quoted(), AllOf(HasSubstr("import T5ForConditionalGeneration as M;"), HasSubstr("it'\\''s")));
  folder.write("it's/config.json", R"({"architectures": ["A; import os"]})");
  EXPECT_THAT(quoted(), HasSubstr("import AutoModelForCausalLM as M;"));
  EXPECT_THAT(refusal([&] { Checkpoint::open(folder / "none"); }), HasSubstr("nothing there"));
  EXPECT_THAT(refusal([&] { Checkpoint::open(folder / "config.json"); }), HasSubstr("a file"));
}

TEST(Checkpoint, RefusesAConfigThatIsNotAnObject) {
  const TestFolder folder;
  write_single(folder, {});
  folder.write("config.json", "[]");
  EXPECT_THAT(open_refusal(folder), HasSubstr("expected a JSON object"));
  folder.write("config.json", "{}");
  folder.write("generation_config.json", "[]");
  EXPECT_THAT(open_refusal(folder), HasSubstr("expected a JSON object, found array; get the file again"));
  folder.write("config.json", "{");
  EXPECT_THAT(open_refusal(folder), AllOf(HasSubstr("config.json"), HasSubstr("not valid JSON")));
}

TEST(CheckpointLinks, OutOfTheFolderAreRefusedUnlessAllowed) {
  const TestFolder elsewhere, folder;
  const std::string target = elsewhere.write("weights", safetensors_bytes({{"x", "F16", "1", f16_bytes({1})}}));
  folder.write("config.json", "{}");
  std::filesystem::create_symlink(target, folder / "model.safetensors");
  EXPECT_THAT(open_refusal(folder), AllOf(HasSubstr(target), HasSubstr("--allow-symlinks")));
  EXPECT_EQ(open_refusal(folder, {.allow_symlinks = true}), "accepted");
}

TEST(CheckpointLinks, WithinTheFolderAreFollowedAndBrokenOnesNamed) {
  const TestFolder folder;
  folder.write("config.json", "{}");
  folder.write("data", safetensors_bytes({{"x", "F16", "1", f16_bytes({1})}}));
  std::filesystem::create_symlink("data", folder / "model.safetensors");
  EXPECT_EQ(open_refusal(folder), "accepted");
  std::filesystem::remove(folder / "data");
  EXPECT_THAT(open_refusal(folder), HasSubstr("leads nowhere"));
}

TEST(CheckpointLinks, OfAHubSnapshotMayLeadToItsOwnBlobsOnly) {
  const TestFolder cache;
  const std::string model = "models--org--name", snapshot = model + "/snapshots/0123";
  cache.write(model + "/blobs/aaa", "{}");
  cache.write(model + "/blobs/bbb", safetensors_bytes({{"x", "F16", "1", f16_bytes({1})}}));
  cache.write("models--org--other/blobs/ccc", safetensors_bytes({{"x", "F16", "1", f16_bytes({1})}}));
  std::filesystem::create_directories(cache / snapshot);
  std::filesystem::create_symlink("../../blobs/aaa", cache / (snapshot + "/config.json"));
  std::filesystem::create_symlink("../../blobs/bbb", cache / (snapshot + "/model.safetensors"));
  EXPECT_EQ(refusal([&] { Checkpoint::open(cache / snapshot); }), "accepted");

  std::filesystem::remove(cache / (snapshot + "/model.safetensors"));
  std::filesystem::create_symlink("../../../models--org--other/blobs/ccc", cache / (snapshot + "/model.safetensors"));
  EXPECT_THAT(refusal([&] { Checkpoint::open(cache / snapshot); }), HasSubstr("leaves the model's folder"));

  // The same layout under another name is no cache.
  std::filesystem::rename(cache / model, cache / "plain");
  std::filesystem::remove(cache / "plain/snapshots/0123/model.safetensors");
  std::filesystem::create_symlink("../../blobs/bbb", cache / "plain/snapshots/0123/model.safetensors");
  EXPECT_THAT(refusal([&] { Checkpoint::open(cache / "plain/snapshots/0123"); }), HasSubstr("--allow-symlinks"));
}

TEST(CheckTensors, ListsWhatIsMissingAndWhatHasAnotherShape) {
  const TestFolder folder;
  write_single(folder, {{"embed", "F16", "2, 2", f16_bytes({1, 2, 3, 4})}, {"norm", "F16", "2", f16_bytes({1, 2})}});
  const auto checkpoint = Checkpoint::open(folder.path());
  const std::vector<ExpectedTensor> good = {{"embed", 2, 2}, {"norm", 1, 2}};
  EXPECT_NO_THROW(check_tensors(*checkpoint, good));
  const std::vector<ExpectedTensor> bad = {{"embed", 3, 2}, {"norm", 1, 3}, {"q", 2, 2}, {"k", 2, 2}};
  EXPECT_THAT(refusal([&] { check_tensors(*checkpoint, bad); }),
              AllOf(HasSubstr("2 tensors are missing: 'q', 'k'"), HasSubstr("'embed' is [2, 2], expected [3, 2]"),
                    HasSubstr("'norm' is [2], expected [3]"), Not(HasSubstr("accepted"))));
}

}  // namespace
}  // namespace quantbench
