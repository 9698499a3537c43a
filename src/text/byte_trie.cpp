#include "text/byte_trie.h"

#include <algorithm>

namespace quantbench {

ByteTrie::ByteTrie(std::vector<Entry> entries) : nodes_(1) {
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.text < b.text; });
  const auto end =
      std::unique(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.text == b.text; });
  // As deep as the longest string has bytes, so not on the call stack.
  std::vector<Part> left{{kRoot, entries.data(), entries.data() + (end - entries.begin()), 0}};
  while (!left.empty()) {
    const Part part = left.back();
    left.pop_back();
    build(part, &left);
  }
  from_root_.fill(kNone);
  const Node& root = nodes_[kRoot];
  for (int32_t i = root.first_child; i < root.first_child + root.children; ++i) from_root_[labels_[i]] = targets_[i];
}

void ByteTrie::build(const Part& part, std::vector<Part>* left) {
  const auto& [node, first_entry, end, depth] = part;
  const Entry* begin = first_entry;
  if (begin != end && begin->text.size() == depth) nodes_[node].value = begin++->value;
  const auto label = [depth = depth](const Entry* entry) { return static_cast<uint8_t>(entry->text[depth]); };
  const auto group_end = [&, end = end](const Entry* from) {
    return std::find_if(from, end, [&, byte = label(from)](const Entry& e) { return label(&e) != byte; });
  };
  const auto first = static_cast<int32_t>(labels_.size());
  for (const Entry* at = begin; at != end; at = group_end(at)) {
    labels_.push_back(label(at));
    targets_.push_back(static_cast<int32_t>(nodes_.size()));
    nodes_.emplace_back();
  }
  nodes_[node].first_child = first;
  nodes_[node].children = static_cast<int32_t>(labels_.size()) - first;
  const size_t before = left->size();
  int32_t child = first;
  for (const Entry* at = begin; at != end;) {
    const Entry* next = group_end(at);
    left->push_back({targets_[child++], at, next, depth + 1});
    at = next;
  }
  std::reverse(left->begin() + static_cast<std::ptrdiff_t>(before), left->end());  // the last is the next
}

int32_t ByteTrie::step(int32_t node, uint8_t byte) const {
  if (node == kRoot) return from_root_[byte];
  const auto begin = labels_.begin() + nodes_[node].first_child, end = begin + nodes_[node].children;
  const auto found = std::lower_bound(begin, end, byte);
  return found == end || *found != byte ? kNone : targets_[found - labels_.begin()];
}

ByteTrie::Found ByteTrie::longest(std::string_view text) const {
  Found found;
  int32_t node = kRoot;
  for (size_t i = 0; i < text.size(); ++i) {
    node = step(node, static_cast<uint8_t>(text[i]));
    if (node == kNone) break;
    if (nodes_[node].value != kNone) found = {nodes_[node].value, i + 1};
  }
  return found;
}

}  // namespace quantbench
