#include "text/tokenizer.h"

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "text/byte_level_bpe.h"
#include "text/json_fields.h"
#include "text/refusal.h"
#include "text/token_id.h"
#include "text/utf8.h"

namespace quantbench {
namespace {

// Positions in a piece are 32-bit.
constexpr size_t kMaxTextBytes = size_t{1} << 30;
constexpr int kMaxDepth = 8;  // of Sequences

const nlohmann::json& field_or_null(const nlohmann::json& document, const char* key, const std::string& where) {
  static const nlohmann::json null;
  if (!document.is_object()) refuse_damaged("{}: expected an object, found {}", where, document.type_name());
  const auto field = document.find(key);
  return field == document.end() ? null : *field;
}

struct Template {
  std::vector<int32_t> before, after;
};

// The part for a single text: special tokens round the sequence A. A second template stands round the first.
void read_template(const nlohmann::json& component, const std::string& where, Template& out) {
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
  out.before.insert(out.before.begin(), before.begin(), before.end());
  out.after.insert(out.after.end(), after.begin(), after.end());
}

void read_post_processor(const nlohmann::json& component, const std::string& where, int depth, Template& out) {
  if (component.is_null()) return;
  const std::string& type = require_string(component, "type", where);
  if (type == "ByteLevel") return;  // it moves offsets only
  if (type == "TemplateProcessing") return read_template(component, where, out);
  if (type != "Sequence" || depth == kMaxDepth) {
    refuse_unsupported(
        "{}: unknown post-processor \"{}\"; supported are TemplateProcessing, ByteLevel and "
        "Sequence",
        where, type);
  }
  int i = 0;
  for (const nlohmann::json& inner : require_list(component, "processors", where)) {
    read_post_processor(inner, fmt::format("{}.processors[{}]", where, i++), depth + 1, out);
  }
}

}  // namespace

Tokenizer Tokenizer::from_file(const std::string& path) { return from_json(read_json_file(path), path); }

Tokenizer Tokenizer::from_json(const nlohmann::json& document, const std::string& where) {
  if (document.is_object() && !document.contains("model")) {
    refuse_damaged("{}: this file is no tokenizer.json: \"model\" is missing", where);
  }
  const auto field = [&](const char* key) -> const nlohmann::json& { return field_or_null(document, key, where); };
  Normalizer normalizer(field("normalizer"), where + ": normalizer");
  AddedTokens added(field("added_tokens"), normalizer, where + ": added_tokens");
  PreTokenizer pre_tokenizer(field("pre_tokenizer"), where + ": pre_tokenizer");
  if (pre_tokenizer.asks_for_start() && !normalizer.changes_nothing()) {
    refuse_unsupported("{}: \"prepend_scheme\" is \"first\" behind a normalizer; supported is it without one", where);
  }
  auto model = make_text_model(require(document, "model", where), pre_tokenizer.byte_level(), where + ": model");
  Decoder decoder(field("decoder"), where + ": decoder");
  if (decoder.byte_level() != pre_tokenizer.byte_level()) {
    refuse_unsupported("{}: ByteLevel is {} but not {}; supported are tokenizers that have both or neither", where,
                       decoder.byte_level() ? "the decoder" : "in the pre-tokenizer",
                       decoder.byte_level() ? "in the pre-tokenizer" : "the decoder");
  }
  Template around;
  read_post_processor(field("post_processor"), where + ": post_processor", 0, around);
  return Tokenizer({std::move(normalizer), std::move(added), std::move(pre_tokenizer), std::move(decoder),
                    std::move(model), std::move(around.before), std::move(around.after)},
                   where);
}

Tokenizer::Tokenizer(Parts parts, const std::string& where) : parts_(std::move(parts)) { read_texts(where); }

void Tokenizer::read_texts(const std::string& where) {
  const Vocabulary& vocabulary = parts_.model->vocabulary();
  const auto text_of = [&](const std::string& token) {
    return parts_.decoder.byte_level() ? bytes_of_token(token) : token;
  };
  int32_t highest = 0;
  for (const auto& [token, id] : vocabulary) highest = std::max(highest, id);
  for (const AddedToken& token : parts_.added.tokens()) highest = std::max(highest, token.id);
  texts_.resize(static_cast<size_t>(highest) + 1);
  for (const auto& [token, id] : vocabulary) texts_[id] = {text_of(token), true, false};
  for (const AddedToken& token : parts_.added.tokens()) {
    const auto in_vocabulary = vocabulary.find(token.content);
    if (in_vocabulary != vocabulary.end() && in_vocabulary->second != token.id) {
      refuse_damaged("{}: \"{}\" has id {} among the added tokens and {} in the vocabulary; they must agree", where,
                     token.content, token.id, in_vocabulary->second);
    }
    if (in_vocabulary == vocabulary.end() && texts_[token.id].known) {
      refuse_damaged("{}: duplicate id {}: added token \"{}\" has it, and a token of the vocabulary too", where,
                     token.id, token.content);
    }
    texts_[token.id] = {text_of(token.content), true, token.special};
  }
  for (const auto* ids : {&parts_.before, &parts_.after}) {
    for (const int32_t id : *ids) {
      if (id < size() && texts_[id].known) continue;
      refuse_damaged("{}: post_processor: its template has the id {}, which no token has", where, id);
    }
  }
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
  if (add_special) ids = parts_.before;
  for (const AddedTokens::Segment& segment : parts_.added.cut(text)) {
    if (segment.id != AddedTokens::kText) {
      ids.push_back(segment.id);
    } else {
      append_ids(segment.text, segment.text.data() == text.data(), ids);
    }
  }
  if (add_special) ids.insert(ids.end(), parts_.after.begin(), parts_.after.end());
  return ids;
}

// A segment between added tokens. at_start: nothing stands before it.
void Tokenizer::append_ids(std::string_view text, bool at_start, std::vector<int32_t>& ids) const {
  std::string normal;
  if (!parts_.normalizer.changes_nothing()) {
    normal = parts_.normalizer.apply(text);
    text = normal;
  }
  for (const AddedTokens::Segment& segment : parts_.added.cut_normalized(text)) {
    if (segment.id != AddedTokens::kText) {
      ids.push_back(segment.id);
      continue;
    }
    const Pieces pieces = parts_.pre_tokenizer.split(segment.text, at_start && segment.text.data() == text.data());
    for (const std::string_view piece : pieces.views) parts_.model->encode(piece, ids);
  }
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  StreamDecoder decoder(*this, skip_special);
  std::string text;
  for (const int32_t id : ids) text += decoder.push(id);
  return text + decoder.finish();
}

std::optional<int32_t> Tokenizer::id_of(const std::string& token) const {
  for (const AddedToken& added : parts_.added.tokens()) {
    if (added.content == token) return added.id;
  }
  const auto found = parts_.model->vocabulary().find(token);
  if (found == parts_.model->vocabulary().end()) return std::nullopt;
  return found->second;
}

bool Tokenizer::is_special(int32_t id) const { return id >= 0 && id < size() && texts_[id].special; }

std::string StreamDecoder::push(int32_t id) {
  const bool known = id >= 0 && id < tokenizer_->size() && tokenizer_->texts_[id].known;
  if (known && tokenizer_->texts_[id].special && skip_special_) return drain(false);
  const std::string unknown = known ? "" : fmt::format("<id:{}>", id);
  const std::string& text = known ? tokenizer_->texts_[id].bytes : unknown;
  const Decoder& decoder = tokenizer_->parts_.decoder;
  if (decoder.byte_level()) {
    pending_ += text;
  } else {
    decoder.push(text, state_, pending_);
  }
  return drain(false);
}

std::string StreamDecoder::finish() {
  if (!tokenizer_->parts_.decoder.byte_level()) tokenizer_->parts_.decoder.finish(state_, pending_);
  return drain(true);
}

std::string StreamDecoder::drain(bool at_end) {
  std::string out;
  std::string_view left = pending_;
  while (!left.empty()) {
    const utf8::Step next = utf8::step(left);
    if (next.form == utf8::Form::incomplete && !at_end) break;
    if (next.form == utf8::Form::valid) {
      out += left.substr(0, next.bytes);
    } else {
      out += utf8::kReplacement;
    }
    left.remove_prefix(next.bytes);
  }
  pending_ = std::string(left);
  return out;
}

}  // namespace quantbench
