#include "text/decoder.h"

#include <algorithm>

#include "text/char_bpe.h"
#include "text/json_fields.h"
#include "text/metaspace.h"
#include "text/pattern.h"
#include "text/refusal.h"

namespace quantbench {
namespace {

using Memory = Decoder::Memory;
using Tokens = Decoder::Stage::Tokens;

class Replace final : public Decoder::Stage {
 public:
  Replace(const nlohmann::json& component, const std::string& where)
      : pattern_(component, where), content_(require_string(component, "content", where)) {}
  void push(std::string token, Memory&, Tokens& out) const override {
    out.push_back(replace(token, pattern_, content_));
  }

 private:
  Pattern pattern_;
  std::string content_;
};

// The replacement becomes a space; in the first token it falls away where the pre-tokenizer may have put it there.
class Metaspace final : public Decoder::Stage {
 public:
  Metaspace(const nlohmann::json& component, const std::string& where)
      : replacement_(metaspace_replacement(component, where)),
        prepended_(metaspace_prepends(component, where) != MetaspacePrepend::never) {}
  void push(std::string token, Memory& memory, Tokens& out) const override {
    out.push_back(replace(token, replacement_, prepended_ && !memory.begun ? "" : " "));
    memory.begun = true;
  }

 private:
  std::string replacement_;
  bool prepended_;
};

class ByteFallback final : public Decoder::Stage {
 public:
  void push(std::string token, Memory& memory, Tokens& out) const override {
    if (const auto byte = byte_of_token(token)) {
      memory.bytes.push_back(static_cast<char>(*byte));
      return;
    }
    finish(memory, out);
    out.push_back(std::move(token));
  }
  void finish(Memory& memory, Tokens& out) const override {
    if (memory.bytes.empty()) return;
    if (utf8::first_invalid(memory.bytes)) {
      out.insert(out.end(), memory.bytes.size(), utf8::kReplacement);
    } else {
      out.push_back(memory.bytes);
    }
    memory.bytes.clear();
  }
};

// Takes a character off the start and end of each token, so many times at most; behind Fuse, off the start of all.
class Strip final : public Decoder::Stage {
 public:
  Strip(const nlohmann::json& component, bool fused, const std::string& where)
      : content_(require_string(component, "content", where)), fused_(fused) {
    if (content_.empty() || static_cast<size_t>(utf8::step(content_).bytes) != content_.size()) {
      refuse_damaged("{}: \"content\" should be one character, found \"{}\"", where, content_);
    }
    for (const auto& [key, count] : {std::pair{"start", &start_}, {"stop", &stop_}}) {
      const nlohmann::json& value = require(component, key, where);
      constexpr size_t kMost = 1 << 20;
      if (!value.is_number_integer() || value < 0 || value > kMost) {
        refuse_damaged("{}: \"{}\" is {}, expected 0 to {}", where, key, value.dump(), kMost);
      }
      *count = value.get<size_t>();
    }
    if (fused_ && stop_ > 0) {
      refuse_unsupported(
          "{}: \"stop\" is {} behind Fuse, where the end of a text would have to be known; supported is 0", where,
          stop_);
    }
  }
  void push(std::string token, Memory& memory, Tokens& out) const override {
    if (!fused_) memory = {};
    std::string_view left = token;
    while (!memory.begun && memory.stripped < start_ && left.starts_with(content_)) {
      left.remove_prefix(content_.size());
      ++memory.stripped;
    }
    memory.begun = memory.begun || !left.empty() || memory.stripped == start_;
    for (size_t i = 0; i < stop_ && left.ends_with(content_); ++i) left.remove_suffix(content_.size());
    out.emplace_back(left);
  }

 private:
  std::string content_;
  size_t start_ = 0, stop_ = 0;
  bool fused_;
};

// Components in the order in which they stand, Sequences taken apart.
void flatten(const nlohmann::json& component, const std::string& where, int depth,
             std::vector<std::pair<const nlohmann::json*, std::string>>& out) {
  if (component.is_null()) {
    refuse_unsupported("{}: null, which puts a space between tokens; supported are tokenizers that say how to decode",
                       where);
  }
  if (require_string(component, "type", where) != "Sequence") {
    out.emplace_back(&component, where);
    return;
  }
  constexpr int kMaxDepth = 8;
  if (depth == kMaxDepth) refuse_unsupported("{}: Sequences nest deeper than {}", where, kMaxDepth);
  int i = 0;
  for (const nlohmann::json& inner : require_list(component, "decoders", where)) {
    flatten(inner, fmt::format("{}.decoders[{}]", where, i++), depth + 1, out);
  }
}

}  // namespace

Decoder::Decoder(const nlohmann::json& component, const std::string& where) {
  std::vector<std::pair<const nlohmann::json*, std::string>> parts;
  flatten(component, where, 0, parts);
  bool fused = false;
  for (const auto& [part, here] : parts) {
    const std::string& type = require_string(*part, "type", here);
    if (fused && type != "Strip" && type != "Fuse") {
      refuse_unsupported("{}: {} behind Fuse, where it would see the whole text at once; supported is Strip", here,
                         type);
    }
    if (type == "ByteLevel" && parts.size() == 1) {
      byte_level_ = true;
    } else if (type == "ByteLevel") {
      refuse_unsupported("{}: ByteLevel among {} decoders; supported is ByteLevel alone", here, parts.size());
    } else if (type == "Replace") {
      stages_.push_back(std::make_unique<Replace>(*part, here));
    } else if (type == "Metaspace") {
      stages_.push_back(std::make_unique<Metaspace>(*part, here));
    } else if (type == "ByteFallback") {
      stages_.push_back(std::make_unique<ByteFallback>());
    } else if (type == "Strip") {
      stages_.push_back(std::make_unique<Strip>(*part, fused, here));
    } else if (type == "Fuse") {
      fused = true;
    } else {
      refuse_unsupported(
          "{}: unknown decoder \"{}\"; supported are ByteLevel, Replace, Metaspace, ByteFallback, Fuse, Strip and "
          "Sequence",
          here, type);
    }
  }
}

void Decoder::pass(Stage::Tokens tokens, size_t from, State& state, std::string& out) const {
  for (size_t i = from; i < stages_.size(); ++i) {
    Stage::Tokens next;
    for (std::string& token : tokens) stages_[i]->push(std::move(token), state[i], next);
    tokens = std::move(next);
  }
  for (const std::string& token : tokens) out += token;
}

void Decoder::push(std::string_view token, State& state, std::string& out) const {
  state.resize(stages_.size());
  pass({std::string(token)}, 0, state, out);
}

void Decoder::finish(State& state, std::string& out) const {
  state.resize(stages_.size());
  for (size_t i = 0; i < stages_.size(); ++i) {
    Stage::Tokens held;
    stages_[i]->finish(state[i], held);
    pass(std::move(held), i + 1, state, out);
  }
}

}  // namespace quantbench
