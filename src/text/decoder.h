// From tokens back to text, token by token: tokenizer.json's "decoder".
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace quantbench {

class Decoder {
 public:
  // What a stage remembers of the tokens before.
  struct Memory {
    bool begun = false;  // a token has come
    std::string bytes;   // of byte tokens, as long as they follow each other
    size_t stripped = 0;
  };
  using State = std::vector<Memory>;  // one a stage; empty at the beginning

  // One component: Replace, Metaspace, ByteFallback, Fuse, Strip. Tokens pass through all of them, one by one.
  class Stage {
   public:
    virtual ~Stage() = default;
    using Tokens = std::vector<std::string>;
    // Appends what becomes of a token.
    virtual void push(std::string token, Memory& memory, Tokens& out) const = 0;
    // Appends what is held back at the end.
    virtual void finish(Memory&, Tokens&) const {}
  };

  // component: ByteLevel, one of the above, or a Sequence (in which ByteLevel stands alone, and what follows Fuse can
  // be told without seeing the end). Anything else is an Error that names it and `where`.
  Decoder(const nlohmann::json& component, const std::string& where);

  // Tokens spell bytes, and their text is those bytes: nothing is left to do here.
  bool byte_level() const { return byte_level_; }
  // Appends the text that token gives, which may be that of tokens before: runs of byte tokens are held back until they
  // end, since one that is no UTF-8 as a whole has no character at all, as in Hugging Face's decoder.
  void push(std::string_view token, State& state, std::string& out) const;
  void finish(State& state, std::string& out) const;

 private:
  void pass(Stage::Tokens tokens, size_t from, State& state, std::string& out) const;

  std::vector<std::unique_ptr<Stage>> stages_;
  bool byte_level_ = false;
};

}  // namespace quantbench
