// Cuts a text into the pieces that the model encodes one by one: tokenizer.json's "pre_tokenizer".
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

// One component that splits: Split, Digits, ByteLevel, Metaspace, WhitespaceSplit.
class Splitter {
 public:
  virtual ~Splitter() = default;
  // Appends the pieces of `text` (valid UTF-8, not empty) to out; none is empty. at_start: nothing stands before it.
  virtual void split(std::string_view text, bool at_start, Pieces& out) const = 0;
};

class PreTokenizer {
 public:
  // component: one of these, a Sequence of them, or null, which leaves a text whole. ByteLevel may stand once, last,
  // since the model works on bytes from there on. Anything else is an Error that names it and `where`.
  PreTokenizer(const nlohmann::json& component, const std::string& where);

  // at_start: whether the first byte of the whole input is the first of text.
  Pieces split(std::string_view text, bool at_start) const;

  // Whether the model gets bytes, any of which it must know, rather than characters.
  bool byte_level() const { return byte_level_; }
  // Whether `at_start` makes a difference.
  bool asks_for_start() const { return asks_for_start_; }

 private:
  std::vector<std::unique_ptr<Splitter>> splitters_;
  bool byte_level_ = false, asks_for_start_ = false;
};

// One component alone; for tests. Null for a Sequence.
std::unique_ptr<Splitter> make_splitter(const nlohmann::json& component, const std::string& where);

}  // namespace quantbench
