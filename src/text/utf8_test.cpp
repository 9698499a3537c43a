#include "text/utf8.h"

#include <gtest/gtest.h>

namespace quantbench {
namespace {

TEST(Utf8, ReadsTheFirstAndLastCharacterOfEveryLength) {
  for (const char32_t c : {0x00, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF}) {
    std::string text;
    utf8::append(text, c);
    const utf8::Step step = utf8::step(text);
    EXPECT_EQ(step.form, utf8::Form::valid);
    EXPECT_EQ(step.code_point, c);
    EXPECT_EQ(static_cast<size_t>(step.bytes), text.size());
    EXPECT_EQ(utf8::first_invalid(text), std::nullopt);
  }
}

TEST(Utf8, RefusesLongFormsSurrogatesAndStrayBytesWhereTheyStand) {
  for (const char* bad :
       {"\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xF0\x8F\xBF\xBF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\x80", "\xBF",
        "\xF5", "\xFF", "\xC3", "\xE2\x82", "\xF0\x9F\x98", "\xC3("}) {
    EXPECT_EQ(utf8::first_invalid("é" + std::string(bad)), 2u) << bad;
  }
}

TEST(Utf8, CountsAMaximalSubpartAsOneReplacement) {
  EXPECT_EQ(utf8::step("\xF0\x9F\x98x").bytes, 3);
  EXPECT_EQ(utf8::step("\xE2\x82\xE2\x82\xAC").bytes, 2);
  EXPECT_EQ(utf8::step("\xED\xA0\x80").bytes, 1);
  EXPECT_EQ(utf8::step("\xE2\x82").form, utf8::Form::incomplete);
}

}  // namespace
}  // namespace quantbench
