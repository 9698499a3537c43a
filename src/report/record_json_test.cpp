#include "report/record_json.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "bench/statistics.h"
#include "report/test_record.h"

namespace quantbench {
namespace {

Record reference(const std::string& text) { return Record::parse(text, nullptr, false); }

// By type and bits too: −0.0 is not 0, and 1.0 not 1.
std::string described(const Record& j) { return fmt::format("{} {}", j.type_name(), j.dump()); }

TEST(RecordJson, GivesWhatNlohmannsParserGives) {
  for (const std::string text : {"null",
                                 "true",
                                 "[]",
                                 "{}",
                                 " [ 1 , 2 ] ",
                                 "\"\"",
                                 "\"a\\n\\u00e9\\\"\"",
                                 "\"\xC3\xA9\"",
                                 "{\"a\":{\"b\":[{}]},\"c\":\"d\"}",
                                 "0",
                                 "-0",
                                 "-0.0",
                                 "0.5",
                                 "1e5",
                                 "1E-3",
                                 "1.5e+3",
                                 "123456789012345678",
                                 "9223372036854775807",
                                 "18446744073709551615",
                                 "18446744073709551616",
                                 "-9223372036854775808",
                                 "0.1",
                                 "33614685.296875",
                                 "9007199254740993.0",
                                 "0.30000000000000004",
                                 "1e308",
                                 "4.9e-324",
                                 "123456.7890123456789012345678901",
                                 "0.00000000000000000000001",
                                 "1.7976931348623157e308",
                                 "5230.123456789012"}) {
    const auto parsed = parse_record(text, Spans::all);
    ASSERT_TRUE(parsed) << text;
    EXPECT_EQ(described(*parsed), described(reference(text))) << text;
    if (parsed->is_number_float()) {
      EXPECT_EQ(std::signbit(parsed->get<double>()), std::signbit(reference(text).get<double>())) << text;
    }
  }
}

TEST(RecordJson, TakesNothingElse) {
  for (const std::string text :
       {"",          " ",        "nul",     "[1,]", "[1 2]", "[1",  "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}",
        "{\"a\":1]", "01",       "-",       "1.",   ".5",    "1e",  "+1",      "NaN",      "\"a",        "\"a\\\"",
        "\"\x01\"",  "\"\xFF\"", "\"\\x\"", "1 2",  "[1]]",  "--1", "1-2",     "1.2.3"}) {
    EXPECT_FALSE(parse_record(text, Spans::all)) << text;
    EXPECT_TRUE(reference(text).is_discarded()) << text;
  }
  EXPECT_FALSE(parse_record(std::string(65, '[') + std::string(65, ']'), Spans::all));
  EXPECT_TRUE(parse_record(std::string(64, '[') + std::string(64, ']'), Spans::all));
  EXPECT_FALSE(parse_record("{\"a\":1,\"a\":2}", Spans::all)) << "a key that is there twice";
}

TEST(RecordJson, OfDamagedRecordsTakesWhatIsJsonAlone) {
  const std::string whole = to_text(test_record({}));
  SeededNumbers numbers(1);
  int taken = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text = whole;
    text[numbers.below(text.size())] = static_cast<char>("{}[]\",:0e-.\\ \x80n"[numbers.below(15)]);
    const auto parsed = parse_record(text, Spans::all);
    const Record expected = reference(text);
    if (!parsed) continue;  // then nlohmann's parser has the last word
    ++taken;
    ASSERT_EQ(*parsed, expected) << text;
  }
  EXPECT_GT(taken, 100);
  EXPECT_LT(taken, 2900);
}

std::string run_with(const std::string& spans) { return "{\"total_ns\":9,\"spans\":" + spans + ",\"finite\":true}"; }

TEST(RecordJson, StepsAreTheSameWithAndWithoutTheirSpans) {
  for (const std::string spans :
       {"[]", "[[\"prefill\",\"host\",0,5],[\"decode\",\"host\",5,9],[\"decode\",\"host\",9,12]]",
        "[[\"decode\",\"host\",5,9],\n [\"decode\",\"host\",9,12], "
        "[\"decode\",\"device\",5,8],[\"decode\",\"device\",8,12]]",
        "[[\"decode\",\"host\",5,900]]", "[[\"decode\", \"host\", 5, 9], [\"decode\", \"host\", 9, 11]]",
        "[[\"decode\",\"host\",5.5,9],[\"decode\",\"host\",9,11]]", "null"}) {
    const auto all = parse_record(run_with(spans), Spans::all), brief = parse_record(run_with(spans), Spans::steps);
    ASSERT_TRUE(all && brief) << spans;
    EXPECT_EQ(decode_steps_of(*brief), decode_steps_of(*all)) << spans;
    EXPECT_EQ((*brief)["finite"], true);
  }
  const auto brief = parse_record(run_with("[[\"decode\",\"host\",5,9],[\"decode\",\"host\",9,12]]"), Spans::steps);
  EXPECT_EQ((*brief)["step_ns"], Record({4, 3}));
  EXPECT_FALSE(parse_record(run_with("[[\"decode\",\"host\",5,9]"), Spans::steps));
}

}  // namespace
}  // namespace quantbench
