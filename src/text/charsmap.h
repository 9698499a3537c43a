// sentencepiece's "precompiled_charsmap": which characters a text's characters are replaced by before it is encoded.
// The format (normalizer.cc of sentencepiece): the size in bytes of a double array as uint32, the array (darts-clone's,
// of uint32, all little-endian), then the replacements, each ended by a zero byte. The array maps keys to offsets of
// those.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quantbench {

class Charsmap {
 public:
  // Refuses what is cut off, what leads out of the array or round in it, and replacements that are not whole
  // characters: after this neither we nor libsentencepiece can read beyond the table.
  Charsmap(std::string_view blob, const std::string& where);

  // What the shortest key that text starts with is replaced by; nothing where there is none. Hugging Face's reader
  // takes the shortest (spm_precompiled, transform()), not the longest as sentencepiece does.
  std::optional<std::string_view> shortest(std::string_view text) const;

 private:
  int nested_from(size_t position, int depth, std::vector<int8_t>& known, const std::string& where) const;
  size_t child_base(size_t position) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
};

// Error for what is no base64 (RFC 4648, with padding).
std::string decode_base64(std::string_view text, const std::string& where);

}  // namespace quantbench
