// Tokenizer::from_sentencepiece: a model of sentencepiece and the files that transformers saves beside one.
#include <algorithm>
#include <charconv>

#include "core/json.h"
#include "core/os.h"
#include "text/json_fields.h"
#include "text/sentencepiece_model.h"
#include "text/token_id.h"
#include "text/tokenizer.h"

namespace quantbench {
namespace {

using nlohmann::json;

constexpr int64_t kMaxFileBytes = 256 << 20;
constexpr int kUsualExtraIds = 100;  // T5's, where nothing says how many

json added_token(int32_t id, const std::string& content, bool special) {
  return {{"id", id}, {"content", content}, {"special", special}, {"normalized", false}};
}

// What tokenizer_config.json says; every part may be missing.
struct Config {
  json document = json::object();
  std::string where;

  static Config read(const std::optional<std::string>& path) {
    Config config;
    if (!path) return config;
    config.document = read_json_file(*path);
    config.where = *path;
    if (!config.document.is_object()) {
      refuse_damaged("{}: expected an object, found {}", *path, config.document.type_name());
    }
    if (config.document.contains("tokenizer_class")) {
      const std::string& name = require_string(config.document, "tokenizer_class", *path);
      for (const char* known : {"T5Tokenizer", "T5TokenizerFast", "GemmaTokenizer", "GemmaTokenizerFast"}) {
        if (name == known) return config;
      }
      refuse_unsupported(
          "{}: unknown \"tokenizer_class\" \"{}\"; supported beside a model of sentencepiece are "
          "T5Tokenizer and GemmaTokenizer",
          *path, name);
    }
    return config;
  }

  // "bos_token": "<bos>" or {"content": "<bos>", …}.
  std::string token(const char* key, const std::string& otherwise) const {
    const auto found = document.find(key);
    if (found == document.end() || found->is_null()) return otherwise;
    return found->is_object() ? require_string(*found, "content", where) : require_string(document, key, where);
  }
};

// "added_tokens_decoder": {"0": {"content": "<pad>", …}, …}. As a list of tokenizer.json has them, all to be found in
// the text as it is, as transformers' tokenizers of sentencepiece do.
json decoder_tokens(const Config& config) {
  json list = json::array();
  const json& decoder = config.document["added_tokens_decoder"];
  if (!decoder.is_object()) {
    refuse_damaged("{}: \"added_tokens_decoder\" should be an object, found {}", config.where, decoder.type_name());
  }
  for (const auto& [key, token] : decoder.items()) {
    const std::string here = fmt::format("{}: added_tokens_decoder[\"{}\"]", config.where, key);
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size()) id = -1;
    json entry = token;
    if (!entry.is_object()) refuse_damaged("{}: expected an object, found {}", here, entry.type_name());
    entry["id"] = token_id(id, here);
    entry["normalized"] = false;
    list.push_back(std::move(entry));
  }
  return list;
}

// The model's own special tokens, and T5's extra ones.
json own_tokens(const SentencePieceFile& file, const Config& config, bool has_bos) {
  using Type = SentencePieceFile::PieceType;
  json list = json::array();
  for (size_t id = 0; id < file.pieces.size(); ++id) {
    const SentencePieceFile::Piece& piece = file.pieces[id];
    if (piece.type != Type::control && piece.type != Type::unknown) continue;
    list.push_back(added_token(static_cast<int32_t>(id), piece.text, true));
  }
  int extra = has_bos ? 0 : kUsualExtraIds;
  if (const auto given = config.document.find("extra_ids"); given != config.document.end()) {
    extra = token_id(*given, config.where + ": extra_ids");
  }
  for (int i = 0; i < extra; ++i) {
    const auto id = static_cast<int64_t>(file.pieces.size()) + extra - 1 - i;
    list.push_back(added_token(token_id(id, config.where), fmt::format("<extra_id_{}>", i), true));
  }
  return list;
}

// added_tokens.json: {"<image>": 257152, …}; what stands in the list already must agree.
void add_listed(const std::string& path, const Config& config, json& list) {
  const json document = read_json_file(path);
  if (!document.is_object()) refuse_damaged("{}: expected an object, found {}", path, document.type_name());
  std::unordered_map<std::string, json> known;
  for (const json& entry : list) known.emplace(require_string(entry, "content", config.where), entry["id"]);
  std::vector<std::string> special;
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    const auto names = config.document.find(key);
    if (names == config.document.end()) continue;
    for (const auto& [name, value] : names->items()) {
      if (value.is_string()) special.push_back(value.get<std::string>());
    }
  }
  for (const auto& [content, value] : document.items()) {
    const int32_t id = token_id(value, fmt::format("{}: \"{}\"", path, content));
    if (const auto other = known.find(content); other != known.end()) {
      if (other->second != id) {
        refuse_damaged("{}: \"{}\" has id {}, and {} in tokenizer_config.json or the model", path, content, id,
                       other->second.dump());
      }
      continue;
    }
    list.push_back(added_token(id, content, std::find(special.begin(), special.end(), content) != special.end()));
  }
}

json decoder_of(const SentencePieceFile& file) {
  if (!file.byte_fallback) {
    return {
        {"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", file.add_dummy_prefix ? "always" : "never"}};
  }
  json parts = {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
                {{"type", "ByteFallback"}},
                {{"type", "Fuse"}}};
  if (file.add_dummy_prefix) parts.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", parts}};
}

}  // namespace

Tokenizer Tokenizer::from_sentencepiece(const SentencePieceFiles& files) {
  const std::string& where = files.model;
  const SentencePieceFile file = parse_sentencepiece(os::read_file(where, kMaxFileBytes), where);
  const Config config = Config::read(files.config);
  if (file.add_dummy_prefix && !bool_or(config.document, "legacy", true, config.where)) {
    refuse_unsupported(
        "{}: \"legacy\" is false, which puts a space before the text alone and not behind added tokens; "
        "supported is true",
        config.where);
  }
  auto model = make_sentencepiece_model(file, where);

  const auto id_of = [&](const std::string& token, const char* key) {
    const auto found = model->vocabulary().find(token);
    if (found == model->vocabulary().end()) {
      refuse_damaged("{}: \"{}\" is set, and no piece is \"{}\"", config.where.empty() ? where : config.where, key,
                     token);
    }
    return found->second;
  };
  const auto is_control = [&](const std::string& token) {
    const auto found = model->vocabulary().find(token);
    return found != model->vocabulary().end() &&
           file.pieces[found->second].type == SentencePieceFile::PieceType::control;
  };
  const std::string bos = config.token("bos_token", file.bos), eos = config.token("eos_token", file.eos);
  const bool has_bos = is_control(bos);
  std::vector<int32_t> before, after;
  if (bool_or(config.document, "add_bos_token", has_bos, config.where)) before = {id_of(bos, "add_bos_token")};
  if (bool_or(config.document, "add_eos_token", !has_bos, config.where)) after = {id_of(eos, "add_eos_token")};

  json added =
      config.document.contains("added_tokens_decoder") ? decoder_tokens(config) : own_tokens(file, config, has_bos);
  if (files.added_tokens) add_listed(*files.added_tokens, config, added);
  Normalizer normalizer(nullptr, where);
  AddedTokens added_tokens(added, normalizer, files.config.value_or(where) + ": added tokens");
  return Tokenizer({std::move(normalizer), std::move(added_tokens), PreTokenizer(nullptr, where),
                    Decoder(decoder_of(file), where), std::move(model), std::move(before), std::move(after)},
                   where);
}

}  // namespace quantbench
