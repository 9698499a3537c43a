#include "text/tokenizer.h"

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "text/json_fields.h"
#include "text/refusal.h"
#include "text/token_id.h"
#include "text/utf8.h"

namespace quantbench {
namespace {

// Positions in a piece are 32-bit.
constexpr size_t kMaxTextBytes = size_t{1} << 30;
constexpr const char* kReplacement = "\xEF\xBF\xBD";  // U+FFFD
constexpr int kMaxDepth = 8;                          // of Sequences

const nlohmann::json& field_or_null(const nlohmann::json& document, const char* key, const std::string& where) {
  static const nlohmann::json null;
  if (!document.is_object()) refuse_damaged("{}: expected an object, found {}", where, document.type_name());
  const auto field = document.find(key);
  return field == document.end() ? null : *field;
}

void check_normalizer(const nlohmann::json& component, const std::string& where, int depth = 0) {
  if (component.is_null()) return;
  const std::string& type = require_string(component, "type", where);
  if (type != "Sequence" || depth == kMaxDepth) {
    refuse_unsupported("{}: unknown normalizer \"{}\"; supported are tokenizers without one", where, type);
  }
  for (const nlohmann::json& inner : require_list(component, "normalizers", where)) {
    check_normalizer(inner, where + ".normalizers", depth + 1);
  }
}

// -> how many ByteLevel decoders there are.
int check_decoder(const nlohmann::json& component, const std::string& where, int depth = 0) {
  if (component.is_null()) {
    refuse_unsupported("{}: null; supported are byte-level tokenizers, whose decoder is ByteLevel", where);
  }
  const std::string& type = require_string(component, "type", where);
  if (type == "ByteLevel") return 1;
  if (type != "Sequence" || depth == kMaxDepth) {
    refuse_unsupported("{}: unknown decoder \"{}\"; supported are ByteLevel and a Sequence of it", where, type);
  }
  int count = 0;
  for (const nlohmann::json& inner : require_list(component, "decoders", where)) {
    count += check_decoder(inner, where + ".decoders", depth + 1);
  }
  if (depth == 0 && count != 1) {
    refuse_unsupported("{}: {} ByteLevel decoders in the Sequence, expected one", where, count);
  }
  return count;
}

}  // namespace

Tokenizer Tokenizer::from_file(const std::string& path) { return from_json(read_json_file(path), path); }

Tokenizer Tokenizer::from_json(const nlohmann::json& document, const std::string& where) {
  if (document.is_object() && !document.contains("model")) {
    refuse_damaged("{}: this file is no tokenizer.json: \"model\" is missing", where);
  }
  check_normalizer(field_or_null(document, "normalizer", where), where + ": normalizer");
  return Tokenizer(document, where);
}

Tokenizer::Tokenizer(const nlohmann::json& document, const std::string& where)
    : added_(field_or_null(document, "added_tokens", where), where + ": added_tokens"),
      pre_tokenizer_(field_or_null(document, "pre_tokenizer", where), where + ": pre_tokenizer"),
      bpe_(require(document, "model", where), where + ": model") {
  check_decoder(field_or_null(document, "decoder", where), where + ": decoder");
  read_texts(where);
  read_post_processor(field_or_null(document, "post_processor", where), where + ": post_processor", 0);
}

void Tokenizer::read_texts(const std::string& where) {
  int32_t highest = 0;
  for (const auto& [token, id] : bpe_.vocabulary()) highest = std::max(highest, id);
  for (const AddedToken& token : added_.tokens()) highest = std::max(highest, token.id);
  texts_.resize(static_cast<size_t>(highest) + 1);
  for (const auto& [token, id] : bpe_.vocabulary()) texts_[id] = {bytes_of_token(token), true, false};
  for (const AddedToken& token : added_.tokens()) {
    const auto in_vocabulary = bpe_.vocabulary().find(token.content);
    if (in_vocabulary != bpe_.vocabulary().end() && in_vocabulary->second != token.id) {
      refuse_damaged("{}: \"{}\" has id {} among the added tokens and {} in the vocabulary; they must agree", where,
                     token.content, token.id, in_vocabulary->second);
    }
    if (in_vocabulary == bpe_.vocabulary().end() && texts_[token.id].known) {
      refuse_damaged("{}: duplicate id {}: added token \"{}\" has it, and a token of the vocabulary too", where,
                     token.id, token.content);
    }
    texts_[token.id] = {bytes_of_token(token.content), true, token.special};
  }
}

void Tokenizer::read_post_processor(const nlohmann::json& component, const std::string& where, int depth) {
  if (component.is_null()) return;
  const std::string& type = require_string(component, "type", where);
  if (type == "ByteLevel") return;  // it moves offsets only
  if (type == "TemplateProcessing") return read_template(component, where);
  if (type != "Sequence" || depth == kMaxDepth) {
    refuse_unsupported(
        "{}: unknown post-processor \"{}\"; supported are TemplateProcessing, ByteLevel and "
        "Sequence",
        where, type);
  }
  int i = 0;
  for (const nlohmann::json& inner : require_list(component, "processors", where)) {
    read_post_processor(inner, fmt::format("{}.processors[{}]", where, i++), depth + 1);
  }
}

// The part for a single text: special tokens round the sequence A. A second template stands round the first.
void Tokenizer::read_template(const nlohmann::json& component, const std::string& where) {
  std::vector<int32_t> before, after;
  bool seen = false;
  for (const nlohmann::json& part : require_list(component, "single", where)) {
    if (part.is_object() && part.contains("Sequence")) {
      const std::string& name = require_string(part["Sequence"], "id", where + ".single");
      if (seen || name != "A") {
        refuse_damaged("{}: \"single\" names the sequence {} {}; expected A once", where, name,
                       seen ? "after another" : "first");
      }
      seen = true;
      continue;
    }
    const std::string& name = require_string(require(part, "SpecialToken", where + ".single"), "id", where + ".single");
    const nlohmann::json& special = require(require(component, "special_tokens", where), name.c_str(), where);
    for (const nlohmann::json& id : require_list(special, "ids", where)) {
      (seen ? after : before).push_back(token_id(id, where + ".special_tokens"));
    }
  }
  if (!seen) refuse_damaged("{}: \"single\" does not name the sequence A, so it would drop the text", where);
  before_.insert(before_.begin(), before.begin(), before.end());
  after_.insert(after_.end(), after.begin(), after.end());
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  if (text.size() > kMaxTextBytes) {
    fail(ErrorKind::usage, "a text of {} bytes, expected at most {}; split it", text.size(), kMaxTextBytes);
  }
  if (const auto offset = utf8::first_invalid(text)) {
    fail(ErrorKind::usage,
         "the text is not valid UTF-8: byte {:#04x} at offset {} of {} begins no character; convert it "
         "to UTF-8",
         static_cast<uint8_t>(text[*offset]), *offset, text.size());
  }
  std::vector<int32_t> ids;
  if (add_special) ids = before_;
  for (const AddedTokens::Segment& segment : added_.cut(text)) {
    if (segment.id != AddedTokens::kText) {
      ids.push_back(segment.id);
      continue;
    }
    const Pieces pieces = pre_tokenizer_.split(segment.text);
    for (const std::string_view piece : pieces.views) bpe_.encode(piece, ids);
  }
  if (add_special) ids.insert(ids.end(), after_.begin(), after_.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  StreamDecoder decoder(*this, skip_special);
  std::string text;
  for (const int32_t id : ids) text += decoder.push(id);
  return text + decoder.finish();
}

std::optional<int32_t> Tokenizer::id_of(const std::string& token) const {
  for (const AddedToken& added : added_.tokens()) {
    if (added.content == token) return added.id;
  }
  const auto found = bpe_.vocabulary().find(token);
  if (found == bpe_.vocabulary().end()) return std::nullopt;
  return found->second;
}

bool Tokenizer::is_special(int32_t id) const { return id >= 0 && id < size() && texts_[id].special; }

std::string StreamDecoder::push(int32_t id) {
  if (id < 0 || id >= tokenizer_->size() || !tokenizer_->texts_[id].known) {
    pending_ += fmt::format("<id:{}>", id);
  } else if (const Tokenizer::Text& text = tokenizer_->texts_[id]; !text.special || !skip_special_) {
    pending_ += text.bytes;
  }
  return drain(false);
}

std::string StreamDecoder::finish() { return drain(true); }

std::string StreamDecoder::drain(bool at_end) {
  std::string out;
  std::string_view left = pending_;
  while (!left.empty()) {
    const utf8::Step next = utf8::step(left);
    if (next.form == utf8::Form::incomplete && !at_end) break;
    if (next.form == utf8::Form::valid) {
      out += left.substr(0, next.bytes);
    } else {
      out += kReplacement;
    }
    left.remove_prefix(next.bytes);
  }
  pending_ = std::string(left);
  return out;
}

}  // namespace quantbench
