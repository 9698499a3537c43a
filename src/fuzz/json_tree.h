// Changes to JSON that leave it JSON mostly, made in the text: values replaced, moved, doubled, wrapped and dropped. As
// text, so that keys may come twice and numbers and strings stay as they are spelled, and since it is quick.
#pragma once

#include <string>
#include <string_view>

#include "fuzz/fuzzer.h"

namespace quantbench::fuzz {

// words: what a format's readers know, as JSON ("\"F16\"", "\"shape\"", "[0, 16]").
void mutate_json(std::string* text, std::string_view other, Random& random, std::span<const std::string_view> words);

// The sections of an input: parts of it that a separator byte ends.
std::vector<std::string> split_sections(std::string_view input, char separator);
std::string join_sections(std::span<const std::string> sections, char separator);

}  // namespace quantbench::fuzz
