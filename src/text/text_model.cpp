#include "text/text_model.h"

#include "text/byte_level_bpe.h"
#include "text/char_bpe.h"
#include "text/json_fields.h"
#include "text/refusal.h"
#include "text/token_id.h"
#include "text/unigram.h"

namespace quantbench {

std::unique_ptr<TextModel> make_text_model(const nlohmann::json& model, bool byte_level, const std::string& where) {
  if (!model.is_object()) refuse_damaged("{}: expected an object, found {}", where, model.type_name());
  const auto type = model.find("type");  // files of 2020 lack it
  if (type != model.end() && *type == "Unigram") {
    if (byte_level) {
      refuse_unsupported("{}: a Unigram model behind a ByteLevel pre-tokenizer; supported behind one is BPE", where);
    }
    return std::make_unique<Unigram>(model, where);
  }
  if (type != model.end() && *type != "BPE") {
    refuse_unsupported("{}: unknown model type {}; supported are BPE and Unigram", where, type->dump());
  }
  if (byte_level) return std::make_unique<ByteLevelBpe>(model, where);
  return std::make_unique<CharBpe>(model, where);
}

Vocabulary read_vocabulary(const nlohmann::json& model, const std::string& where) {
  const nlohmann::json& vocab = require(model, "vocab", where);
  if (!vocab.is_object()) refuse_damaged("{}: \"vocab\" should be an object, found {}", where, vocab.type_name());
  Vocabulary vocabulary;
  std::unordered_map<int32_t, std::string_view> by_id;
  vocabulary.reserve(vocab.size());
  for (const auto& [token, value] : vocab.items()) {
    const int32_t id = token_id(value, fmt::format("{}.vocab[\"{}\"]", where, token));
    const auto entry = vocabulary.emplace(token, id).first;
    if (const auto [other, fresh] = by_id.try_emplace(id, entry->first); !fresh) {
      refuse_damaged("{}: duplicate id {} in \"vocab\": \"{}\" and \"{}\" have it; each token needs its own", where, id,
                     other->second, token);
    }
  }
  return vocabulary;
}

}  // namespace quantbench
