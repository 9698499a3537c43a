#include "text/char_bpe.h"

#include "text/json_fields.h"
#include "text/refusal.h"
#include "text/utf8.h"

namespace quantbench {

std::string byte_token(int byte) { return fmt::format("<0x{:02X}>", byte); }

std::optional<uint8_t> byte_of_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  int byte = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return std::nullopt;
    byte = byte * 16 + digit;
  }
  return static_cast<uint8_t>(byte);
}

ByteTokens byte_tokens(const Vocabulary& vocabulary) {
  ByteTokens tokens;
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = vocabulary.find(byte_token(byte));
    tokens[byte] = found == vocabulary.end() ? -1 : found->second;
  }
  return tokens;
}

bool append_bytes(const ByteTokens& tokens, std::string_view text, std::vector<int32_t>& ids) {
  for (const char c : text) {
    if (tokens[static_cast<uint8_t>(c)] < 0) return false;
  }
  for (const char c : text) ids.push_back(tokens[static_cast<uint8_t>(c)]);
  return true;
}

CharBpe::CharBpe(const nlohmann::json& model, const std::string& where)
    : vocabulary_(read_vocabulary(model, where)),
      merges_(model, vocabulary_, where),
      byte_fallback_(bool_or(model, "byte_fallback", false, where)),
      fuse_unknown_(bool_or(model, "fuse_unk", false, where)),
      ignore_merges_(bool_or(model, "ignore_merges", false, where)),
      bytes_(byte_tokens(vocabulary_)) {
  for (const auto& [token, id] : vocabulary_) {
    if (token.empty()) continue;
    const utf8::Step first = utf8::step(token);
    if (static_cast<size_t>(first.bytes) == token.size()) characters_.emplace(first.code_point, id);
  }
  const auto unknown = model.find("unk_token");
  if (unknown != model.end() && !unknown->is_null()) {
    const std::string& token = require_string(model, "unk_token", where);
    const auto found = vocabulary_.find(token);
    if (found == vocabulary_.end()) refuse_damaged("{}: \"unk_token\" \"{}\" is not in \"vocab\"", where, token);
    unknown_ = found->second;
  }
}

void CharBpe::encode(std::string_view piece, std::vector<int32_t>& ids) const {
  if (piece.empty()) return;
  if (ignore_merges_) {
    if (const auto found = vocabulary_.find(std::string(piece)); found != vocabulary_.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  std::vector<int32_t> row;
  row.reserve(piece.size());
  bool unknown_before = false;  // one that stands in no row yet: bytes that follow come before it, as in Hugging Face's
  for (size_t at = 0; at < piece.size();) {
    const utf8::Step next = utf8::step(piece.substr(at));
    const std::string_view character = piece.substr(at, next.bytes);
    at += next.bytes;
    if (const auto found = characters_.find(next.code_point); found != characters_.end()) {
      if (unknown_before) row.push_back(*unknown_);
      unknown_before = false;
      row.push_back(found->second);
      continue;
    }
    if (byte_fallback_ && append_bytes(bytes_, character, row)) continue;
    if (!unknown_) continue;
    if (unknown_before && !fuse_unknown_) row.push_back(*unknown_);
    unknown_before = true;
  }
  if (unknown_before) row.push_back(*unknown_);
  merges_.apply(row, ids);
}

}  // namespace quantbench
