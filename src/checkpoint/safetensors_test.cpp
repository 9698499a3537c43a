#include "checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/limits.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string open_refusal(const std::string& file) {
  const TestFolder folder;
  const std::string path = folder.write("model.safetensors", file);
  std::string text = refusal([&] { SafetensorsFile::open(path); });
  EXPECT_THAT(text, testing::AnyOf("accepted", HasSubstr(path)));
  return text;
}

// A header of one or more entries, with 8 bytes of data.
std::string header_refusal(const std::string& header) { return open_refusal(safetensors_bytes(header, "12345678")); }

TEST(Safetensors, ReadsTensorsMetadataScalarsAndEmptyTensors) {
  const TestFolder folder;
  const std::string path = folder.write("a.safetensors", safetensors_bytes(R"({"__metadata__":{"format":"pt"},
        "b":{"dtype":"F32","shape":[1,2],"data_offsets":[2,10]},
        "scalar":{"dtype":"U8","shape":[],"data_offsets":[10,11]},
        "empty":{"dtype":"F16","shape":[3,0,9223372036854775807],"data_offsets":[2,2]},
        "a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}   )",
                                                                           "ab12345678x"));
  const SafetensorsFile file = SafetensorsFile::open(path);
  const SafetensorsHeader& header = file.header();
  EXPECT_EQ(header.metadata.at("format"), "pt");
  ASSERT_EQ(header.tensors.size(), 4u);
  EXPECT_EQ(header.tensors.at("b").info.shape, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(element_count(header.tensors.at("scalar").info), 1);
  EXPECT_EQ(header.tensors.at("empty").bytes, 0);
  EXPECT_EQ(element_count(header.tensors.at("empty").info), 0);
  std::byte bytes[3];
  file.read(header.tensors.at("b"), 5, bytes);
  EXPECT_EQ(static_cast<char>(bytes[2]), '8');
}

TEST(Safetensors, RefusesAFileShorterThanALength) {
  EXPECT_THAT(open_refusal("1234567"), AllOf(HasSubstr("7 bytes"), HasSubstr("at least 8")));
  EXPECT_THAT(open_refusal(""), HasSubstr("0 bytes"));
}

TEST(Safetensors, RefusesAHeaderLongerThanTheFileOrTheLimitWithTheThreeFigures) {
  const uint64_t lengths[] = {33, 100'000'001, ~uint64_t{0}};
  for (const uint64_t length : lengths) {
    EXPECT_THAT(open_refusal(std::string(reinterpret_cast<const char*>(&length), 8) + std::string(32, ' ')),
                AllOf(HasSubstr(fmt::format("{} bytes", length)), HasSubstr("the file has 40"),
                      HasSubstr("at most 100000000")));
  }
}

TEST(Safetensors, RefusesWhatIsNotAJsonObjectOfObjects) {
  EXPECT_THAT(header_refusal("{\"a\": "), HasSubstr("not valid JSON"));
  EXPECT_THAT(header_refusal("{\"\xff\": 1}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(header_refusal("[]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(header_refusal(R"({"a":1})"), HasSubstr("'a': its entry is not an object"));
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}})"),
              HasSubstr("\"a\" appears twice"));
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}})"),
              HasSubstr("deeper than 3"));
  EXPECT_THAT(header_refusal(R"({"__metadata__":{"a":1},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})"),
              HasSubstr("expected a string; get the file again"));
  EXPECT_THAT(header_refusal(R"({"__metadata__":[],"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})"),
              HasSubstr("__metadata__ is array, expected an object of strings; get the file again"));
}

TEST(Safetensors, RefusesEntriesThatLackSomethingOrHaveMore) {
  EXPECT_THAT(header_refusal(R"({"a":{"shape":[2],"data_offsets":[0,8]}})"), HasSubstr("'dtype' is missing"));
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})"), HasSubstr("'shape' is missing"));
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"F32","shape":[2]}})"), HasSubstr("'data_offsets' is missing"));
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})"),
              HasSubstr("unknown key 'x'"));
}

TEST(Safetensors, RefusesAnUnknownDtypeByName) {
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}})"),
              AllOf(HasSubstr("\"F8_E4M3\""), HasSubstr("weights may be F32, F16 or BF16"),
                    testing::Not(HasSubstr("BOOL")), HasSubstr("choose such a checkpoint")));
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":7,"shape":[8],"data_offsets":[0,8]}})"), HasSubstr("dtype 7"));
}

TEST(Safetensors, RefusesNumbersThatAreNotUnsigned) {
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"U8","shape":[-8],"data_offsets":[0,8]}})"),
              AllOf(HasSubstr("-8"), HasSubstr("unsigned")));
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"U8","shape":[8.0],"data_offsets":[0,8]}})"), HasSubstr("unsigned"));
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,8]}})"),
              HasSubstr("below 2^63"));
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":["0",8]}})"), HasSubstr("unsigned"));
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8,8]}})"), HasSubstr("two numbers"));
}

TEST(Safetensors, RefusesAShapeWhoseProductOverflows) {
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}})"),
              AllOf(HasSubstr("[4294967296, 4294967296]"), HasSubstr("larger than 2^63")));
  // 2^61 elements of 8 bytes.
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,8]}})"),
              HasSubstr("larger than 2^63"));
}

TEST(Safetensors, RefusesASizeThatIsNotDtypeTimesShape) {
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})"),
              AllOf(HasSubstr("span 8 bytes"), HasSubstr("expected 12")));
}

TEST(Safetensors, RefusesHolesOverlapsTrailingBytesAndOffsetsOutsideTheFile) {
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})"), HasSubstr("hole"));
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},
                                 "b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})"),
              AllOf(HasSubstr("'b'"), HasSubstr("overlap")));
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"U8","shape":[7],"data_offsets":[0,7]}})"),
              AllOf(HasSubstr("end after 7 bytes"), HasSubstr("has 8")));
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}})"), HasSubstr("truncated"));
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[8,0]}})"), HasSubstr("[8, 0]"));
  EXPECT_THAT(header_refusal("{}"), HasSubstr("end after 0 bytes"));
}

TEST(Safetensors, RefusesMoreTensorsThanAModelHas) {
  std::string header = "{";
  for (size_t i = 0; i <= kMaxTensors; ++i) {
    header += fmt::format("{}\"{}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", i > 0 ? "," : "", i);
  }
  EXPECT_THAT(header_refusal(header + "}"), AllOf(HasSubstr("262145 tensors"), HasSubstr("at most 262144")));
}

TEST(Safetensors, AFileThatShrinksIsNoticed) {
  const TestFolder folder;
  const std::string path = folder.write("a.safetensors", safetensors_bytes({{"a", "U8", "8", "12345678"}}));
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  std::byte bytes[8];
  EXPECT_THAT(refusal([&] { file.read(file.header().tensors.at("a"), 0, bytes); }, ErrorKind::disk), HasSubstr(path));
}

TEST(Safetensors, WhatIsWrittenIsReadBack) {
  const TestFolder folder;
  const std::string path = folder / "out.safetensors";
  {
    SafetensorsWriter writer(path, {{"z", {DType::u8, {3}}}, {"a", {DType::f32, {1, 1}}}, {"s", {DType::u8, {}}}},
                             {{"format", "pt"}});
    const std::string data = "xyz1234s";
    writer.write(std::as_bytes(std::span(data).first(2)));
    EXPECT_FALSE(std::filesystem::exists(path)) << "the file has its name before it is whole";
    writer.write(std::as_bytes(std::span(data).subspan(2)));
    writer.commit();
  }
  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.header().metadata.at("format"), "pt");
  std::byte bytes[4];
  file.read(file.header().tensors.at("a"), 0, bytes);
  EXPECT_EQ(static_cast<char>(bytes[0]), '1');
  EXPECT_EQ(file.header().tensors.at("z").offset % 8, 0) << "data are aligned";
}

TEST(Safetensors, AWriterThatIsNotFilledLeavesNothing) {
  const TestFolder folder;
  {
    SafetensorsWriter writer(folder / "out.safetensors", {{"a", {DType::u8, {3}}}});
    EXPECT_THROW(writer.commit(), Error);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace quantbench
