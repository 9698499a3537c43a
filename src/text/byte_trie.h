// Strings by their bytes, to find every one that a text starts with. Built once; each step is a short search.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace quantbench {

class ByteTrie {
 public:
  static constexpr int32_t kNone = -1, kRoot = 0;
  struct Entry {
    std::string_view text;  // not empty
    int32_t value;          // at least 0
  };

  // Of entries with the same text the first one counts. They need not outlive the call.
  explicit ByteTrie(std::vector<Entry> entries = {});

  // The node behind `node` by that byte, or kNone.
  int32_t step(int32_t node, uint8_t byte) const;
  // The value of the string that ends at node, or kNone.
  int32_t value(int32_t node) const { return nodes_[node].value; }
  struct Found {
    int32_t value = kNone;
    size_t bytes = 0;
  };
  // The longest string that text starts with.
  Found longest(std::string_view text) const;

 private:
  struct Node {
    int32_t first_child = 0, children = 0;  // in labels_ and targets_, by label
    int32_t value = kNone;
  };
  // Entries of a node: sorted, apart, all with the same first `depth` bytes.
  struct Part {
    int32_t node;
    const Entry *begin, *end;
    size_t depth;
  };
  void build(const Part& part, std::vector<Part>* left);

  std::vector<Node> nodes_;
  std::vector<uint8_t> labels_;
  std::vector<int32_t> targets_;
  std::array<int32_t, 256> from_root_{};
};

}  // namespace quantbench
