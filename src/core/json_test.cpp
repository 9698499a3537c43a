#include "core/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace quantbench {
namespace {

std::string refusal(const std::string& text, JsonLimits limits = {}) {
  try {
    parse_json(text, "config.json", limits);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_model);
    return error.what();
  }
  return "accepted";
}

TEST(Json, ReadsWhatItShould) {
  const auto value = parse_json(R"({"a": [1, 2.5, "x"], "b": {"a": null}})", "test");
  EXPECT_EQ(value["a"][1], 2.5);
  EXPECT_TRUE(value["b"]["a"].is_null());
}

TEST(Json, RefusesDuplicateKeysButNotTheSameKeyElsewhere) {
  EXPECT_THAT(refusal(R"({"a": 1, "b": {"a": 2, "a": 3}})"), testing::HasSubstr("\"a\" appears twice"));
  EXPECT_EQ(refusal(R"({"a": 1, "b": {"a": 2}})"), "accepted");
  EXPECT_EQ(refusal(R"([{"a": 1}, {"a": 2}])"), "accepted");
}

TEST(Json, RefusesDeepNesting) {
  EXPECT_EQ(refusal(std::string(64, '[') + std::string(64, ']')), "accepted");
  EXPECT_THAT(refusal(std::string(65, '[') + std::string(65, ']')), testing::HasSubstr("deeper than 64"));
  EXPECT_THAT(refusal(std::string(1000000, '[')), testing::HasSubstr("deeper than 64"));
}

TEST(Json, RefusesDamageWithThePosition) {
  EXPECT_THAT(refusal("{\"a\": 1"), testing::HasSubstr("not valid JSON at byte"));
  EXPECT_THAT(refusal("{\"a\": \"\xff\"}"), testing::HasSubstr("config.json: not valid JSON"));
  EXPECT_THAT(refusal("{} x"), testing::HasSubstr("not valid JSON"));
  const std::string long_text(1'000'000, 'x');
  EXPECT_LT(refusal("[\"" + long_text + "\x01").size(), 1000u);
  EXPECT_LT(refusal("{\"" + long_text + "\":1,\"" + long_text + "\":1}").size(), 1000u);
  EXPECT_THAT(refusal(""), testing::HasSubstr("not valid JSON"));
}

TEST(Json, RefusesTooMuch) { EXPECT_THAT(refusal("[1,2,3]", {.bytes = 4}), testing::HasSubstr("at most 4")); }

TEST(Json, CountsBracketsThatAreOpenAtOnce) {
  EXPECT_FALSE(nests_deeper("[[]]", 2));
  EXPECT_TRUE(nests_deeper("[[]]", 1));
  EXPECT_TRUE(nests_deeper("[[{", 2)) << "however it ends";
  EXPECT_FALSE(nests_deeper("[[], {}, []]", 2));
  EXPECT_FALSE(nests_deeper(R"(["[[[", "\"[["])", 1)) << "in a string they open nothing";
}

}  // namespace
}  // namespace quantbench
