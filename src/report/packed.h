// Series of numbers as short text that gives back the same bits: what a page of a thousand samples a record holds.
#pragma once

#include <span>
#include <string>

namespace quantbench {

// "D,G;" and base64: of integers x with value = x × G ÷ D, which are the sums of the varints (seven bits a byte, the
// lowest first, the sign in the lowest bit) that the bytes are; or "f;" and the base64 of doubles, little-endian, where
// no D of a few serves. Empty of nothing. src/report/page/data.js reads it.
std::string packed(std::span<const double> values);

std::string base64(std::string_view bytes);

}  // namespace quantbench
