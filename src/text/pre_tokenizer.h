// Cuts a text into the pieces that BPE encodes one by one: tokenizer.json's "pre_tokenizer".
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace quantbench {

// Pieces are views into the text or into `made`, whose strings never move.
struct Pieces {
  std::vector<std::string_view> views;
  std::deque<std::string> made;
};

// One component that splits: Split, Digits, ByteLevel.
class Splitter {
 public:
  virtual ~Splitter() = default;
  // Appends the pieces of `text` (valid UTF-8, not empty) to out; none is empty.
  virtual void split(std::string_view text, Pieces& out) const = 0;
};

class PreTokenizer {
 public:
  // component: a Split, Digits, ByteLevel or Sequence of them. Exactly one ByteLevel must stand, last, since the model
  // works on bytes from there on. Anything else is an Error that names it and `where`.
  PreTokenizer(const nlohmann::json& component, const std::string& where);

  Pieces split(std::string_view text) const;

 private:
  std::vector<std::unique_ptr<Splitter>> splitters_;
};

// One component alone; for tests. Null for a Sequence.
std::unique_ptr<Splitter> make_splitter(const nlohmann::json& component, const std::string& where);

}  // namespace quantbench
