#include "text/byte_level_bpe.h"

#include <queue>

#include "text/json_fields.h"
#include "text/refusal.h"
#include "text/token_id.h"
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

// A merge may not change what these options say; a file that sets one of them means another algorithm.
void check_options(const nlohmann::json& model, const std::string& where) {
  const auto type = model.find("type");  // files of 2020 lack it
  if (type != model.end() && *type != "BPE") {
    refuse_unsupported("{}: unknown model type {}; supported is byte-level BPE", where, type->dump());
  }
  const auto refuse = [&](const char* key, const nlohmann::json& value) {
    refuse_unsupported("{}: \"{}\" is {}, which is not supported; supported is byte-level BPE without it", where, key,
                       value.dump());
  };
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto value = model.find(key);
    if (value != model.end() && !value->is_null() && *value != "") refuse(key, *value);
  }
  if (const auto dropout = model.find("dropout"); dropout != model.end() && !dropout->is_null() && *dropout != 0) {
    refuse("dropout", *dropout);
  }
  if (bool_or(model, "byte_fallback", false, where)) refuse("byte_fallback", true);
}

std::pair<std::string, std::string> merge_pair(const nlohmann::json& merge, const std::string& where) {
  if (merge.is_string()) {
    const std::string& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != text.npos && text.find(' ', space + 1) == text.npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  refuse_damaged("{}: expected \"a b\" or [\"a\", \"b\"], found {}", where, merge.dump());
}

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

ByteLevelBpe::ByteLevelBpe(const nlohmann::json& model, const std::string& where) {
  if (!model.is_object()) refuse_damaged("{}: expected an object, found {}", where, model.type_name());
  check_options(model, where);
  read_vocabulary(model, where);
  read_merges(model, where);
  if (bool_or(model, "ignore_merges", false, where)) {
    for (const auto& [token, id] : vocabulary_) {
      if (auto bytes = spelled_bytes(token)) whole_.emplace(std::move(*bytes), id);
    }
  }
}

void ByteLevelBpe::read_vocabulary(const nlohmann::json& model, const std::string& where) {
  const nlohmann::json& vocab = require(model, "vocab", where);
  if (!vocab.is_object()) refuse_damaged("{}: \"vocab\" should be an object, found {}", where, vocab.type_name());
  std::unordered_map<int32_t, std::string_view> by_id;
  vocabulary_.reserve(vocab.size());
  for (const auto& [token, value] : vocab.items()) {
    const int32_t id = token_id(value, fmt::format("{}.vocab[\"{}\"]", where, token));
    const auto entry = vocabulary_.emplace(token, id).first;
    if (const auto [other, fresh] = by_id.try_emplace(id, entry->first); !fresh) {
      refuse_damaged("{}: duplicate id {} in \"vocab\": \"{}\" and \"{}\" have it; each token needs its own", where, id,
                     other->second, token);
    }
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
}

void ByteLevelBpe::read_merges(const nlohmann::json& model, const std::string& where) {
  if (!model.contains("merges")) {
    refuse_damaged("{}: \"merges\" is missing; a BPE model lists its merges in the order learned", where);
  }
  const nlohmann::json& merges = require_list(model, "merges", where);
  merges_.reserve(merges.size());
  int32_t rank = 0;
  for (const nlohmann::json& merge : merges) {
    // Only a comment's line, carried over from merges.txt; it takes no rank.
    if (merge.is_string() && merge.get_ref<const std::string&>().rfind("#version", 0) == 0) continue;
    const std::string here = fmt::format("{}.merges[{}]", where, rank);
    const auto [left, right] = merge_pair(merge, here);
    const auto id_of = [&](const std::string& token, const char* what) {
      const auto found = vocabulary_.find(token);
      if (found == vocabulary_.end()) {
        refuse_damaged(
            "{}: {} \"{}\" is not in \"vocab\"; vocabulary and merges belong to different "
            "tokenizers",
            here, what, token);
      }
      return found->second;
    };
    const int32_t a = id_of(left, "the left token"), b = id_of(right, "the right token");
    const int32_t joined = id_of(left + right, "the merged token");
    // Where a pair stands twice the later rank holds, as in Hugging Face's reader.
    merges_.insert_or_assign(uint64_t(a) << 32 | uint32_t(b), Merge{rank, joined});
    ++rank;
  }
}

const ByteLevelBpe::Merge* ByteLevelBpe::merge_of(int32_t left, int32_t right) const {
  const auto found = merges_.find(uint64_t(left) << 32 | uint32_t(right));
  return found == merges_.end() ? nullptr : &found->second;
}

void ByteLevelBpe::encode(std::string_view piece, std::vector<int32_t>& ids) const {
  if (const auto found = whole_.find(piece); found != whole_.end()) {
    ids.push_back(found->second);
    return;
  }
  struct Symbol {
    int32_t id, previous, next;  // neighbours by position; -1 at the ends; id -1: merged away
  };
  struct Candidate {
    int32_t rank, position, id;                     // merges symbols[position] with its next into id
    bool operator<(const Candidate& other) const {  // a max-heap: the lowest rank, then the leftmost, on top
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  for (const char c : piece) {
    const int32_t id = id_of_byte_[static_cast<uint8_t>(c)];
    if (id < 0) continue;  // in no valid UTF-8, and encode()'s callers check that
    const auto at = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, at - 1, at + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;

  std::priority_queue<Candidate> queue;
  const auto offer = [&](int32_t position) {
    if (position < 0 || symbols[position].next < 0) return;
    const Merge* merge = merge_of(symbols[position].id, symbols[symbols[position].next].id);
    if (merge) queue.push({merge->rank, position, merge->id});
  };
  for (int32_t i = 0; i < static_cast<int32_t>(symbols.size()); ++i) offer(i);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Symbol& left = symbols[top.position];
    if (left.id < 0 || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    // Stale: a neighbour changed since this was offered.
    const Merge* merge = merge_of(left.id, right.id);
    if (!merge || merge->id != top.id) continue;
    left.id = top.id;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = top.position;
    offer(left.previous);
    offer(top.position);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace quantbench
