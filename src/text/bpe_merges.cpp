#include "text/bpe_merges.h"

#include <queue>

#include "text/json_fields.h"
#include "text/refusal.h"

namespace quantbench {
namespace {

// A merge may not change what these options say; a file that sets one of them means another algorithm.
void check_options(const nlohmann::json& model, const std::string& where) {
  const auto refuse = [&](const char* key, const nlohmann::json& value) {
    refuse_unsupported("{}: \"{}\" is {}, which is not supported; supported is BPE without it", where, key,
                       value.dump());
  };
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto value = model.find(key);
    if (value != model.end() && !value->is_null() && *value != "") refuse(key, *value);
  }
  if (const auto dropout = model.find("dropout"); dropout != model.end() && !dropout->is_null() && *dropout != 0) {
    refuse("dropout", *dropout);
  }
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

BpeMerges::BpeMerges(const nlohmann::json& model, const Vocabulary& vocabulary, const std::string& where) {
  check_options(model, where);
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
      const auto found = vocabulary.find(token);
      if (found == vocabulary.end()) {
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

const BpeMerges::Merge* BpeMerges::merge_of(int32_t left, int32_t right) const {
  const auto found = merges_.find(uint64_t(left) << 32 | uint32_t(right));
  return found == merges_.end() ? nullptr : &found->second;
}

void BpeMerges::apply(std::span<const int32_t> row, std::vector<int32_t>& ids) const {
  struct Symbol {
    int32_t id, previous, next;  // neighbours by position; -1 at the ends; id -1: merged away
  };
  struct Candidate {
    int32_t rank, position, id;                     // merges symbols[position] with its next into id
    bool operator<(const Candidate& other) const {  // a max-heap: the lowest rank, then the leftmost, on top
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  if (row.empty()) return;
  std::vector<Symbol> symbols;
  symbols.reserve(row.size());
  for (const int32_t id : row) {
    const auto at = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, at - 1, at + 1});
  }
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
