#include "text/byte_level_bpe.h"

#include "text/json_fields.h"
#include "text/refusal.h"
#include "text/utf8.h"

namespace quantbench {
namespace {

// GPT-2's alphabet: printable Latin-1 stands for itself, the 68 other bytes for U+0100 and up, in order.
struct Alphabet {
  std::array<char32_t, 256> character_of{};
  std::array<int16_t, 0x200> byte_of{};

  Alphabet() {
    byte_of.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      character_of[byte] = printable ? static_cast<char32_t>(byte) : next++;
      byte_of[character_of[byte]] = static_cast<int16_t>(byte);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet table;
  return table;
}

bool occurs_in_utf8(int byte) { return byte != 0xC0 && byte != 0xC1 && byte < 0xF5; }

}  // namespace

std::optional<std::string> spelled_bytes(std::string_view token) {
  std::string out;
  while (!token.empty()) {
    const utf8::Step next = utf8::step(token);
    const auto& byte_of = alphabet().byte_of;
    if (next.form != utf8::Form::valid || next.code_point >= byte_of.size() || byte_of[next.code_point] < 0) {
      return std::nullopt;
    }
    out.push_back(static_cast<char>(byte_of[next.code_point]));
    token.remove_prefix(next.bytes);
  }
  return out;
}

std::string bytes_of_token(std::string_view token) { return spelled_bytes(token).value_or(std::string(token)); }

ByteLevelBpe::ByteLevelBpe(const nlohmann::json& model, const std::string& where)
    : vocabulary_(read_vocabulary(model, where)), merges_(model, vocabulary_, where) {
  if (bool_or(model, "byte_fallback", false, where)) {
    refuse_unsupported("{}: \"byte_fallback\" is true in a byte-level model, which has a token for every byte", where);
  }
  for (int byte = 0; byte < 256; ++byte) {
    std::string spelling;
    utf8::append(spelling, alphabet().character_of[byte]);
    const auto found = vocabulary_.find(spelling);
    id_of_byte_[byte] = found == vocabulary_.end() ? -1 : found->second;
    if (id_of_byte_[byte] < 0 && occurs_in_utf8(byte)) {
      refuse_damaged(
          "{}: \"vocab\" has no token \"{}\" for byte {:#04x}; a byte-level vocabulary holds all of "
          "them",
          where, spelling, byte);
    }
  }
  if (bool_or(model, "ignore_merges", false, where)) {
    for (const auto& [token, id] : vocabulary_) {
      if (auto bytes = spelled_bytes(token)) whole_.emplace(std::move(*bytes), id);
    }
  }
}

void ByteLevelBpe::encode(std::string_view piece, std::vector<int32_t>& ids) const {
  if (const auto found = whole_.find(piece); found != whole_.end()) {
    ids.push_back(found->second);
    return;
  }
  std::vector<int32_t> row;
  row.reserve(piece.size());
  for (const char c : piece) {
    const int32_t id = id_of_byte_[static_cast<uint8_t>(c)];
    if (id >= 0) row.push_back(id);  // else it is in no valid UTF-8, and encode()'s callers check that
  }
  merges_.apply(row, ids);
}

}  // namespace quantbench
