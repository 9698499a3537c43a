#include "fuzz/json_tree.h"

#include <algorithm>

namespace quantbench::fuzz {
namespace {

struct Node {
  size_t begin = 0, end = 0;  // of the value in the text
  size_t member = 0;          // where its member begins: the key's quote, else begin
  int depth = 0;
};

// The values of a text that may be damaged, in the order in which they end.
void find_nodes(std::string_view text, std::vector<Node>* into) {
  std::vector<Node>& nodes = *into;
  static std::vector<Node> open;
  nodes.clear();
  open.clear();
  size_t key = std::string_view::npos;
  const auto done = [&](Node node, size_t end) {
    node.end = end;
    nodes.push_back(node);
  };
  const auto begin = [&](size_t at) {
    const Node node{at, at, key == std::string_view::npos ? at : key, static_cast<int>(open.size())};
    key = std::string_view::npos;
    return node;
  };
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (c == '{' || c == '[') {
      open.push_back(begin(i++));
    } else if (c == '}' || c == ']') {
      ++i;
      if (!open.empty()) {
        done(open.back(), i);
        open.pop_back();
      }
      key = std::string_view::npos;
    } else if (c == '"') {
      size_t end = i + 1;
      while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
      end = std::min(end + 1, text.size());
      size_t next = end;
      while (next < text.size() && (text[next] == ' ' || text[next] == '\n')) ++next;
      if (next < text.size() && text[next] == ':') {
        key = i;
      } else {
        done(begin(i), end);
      }
      i = end;
    } else if (c == ',' || c == ':' || c == ' ' || c == '\n' || c == '\t' || c == '\r') {
      ++i;
    } else {
      size_t end = i + 1;
      while (end < text.size() && std::string_view(",:]}[{\" \n\t\r").find(text[end]) == std::string_view::npos) ++end;
      done(begin(i), end);
      i = end;
    }
  }
}

// At any depth alike: most values of a document are deep.
const Node& pick(const std::vector<Node>& nodes, Random& random) {
  int deepest = 0;
  for (const Node& node : nodes) deepest = std::max(deepest, node.depth);
  const int depth = static_cast<int>(random.below(static_cast<size_t>(deepest) + 1));
  const size_t first = random.below(nodes.size());
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Node& node = nodes[(first + i) % nodes.size()];
    if (node.depth == depth) return node;
  }
  return nodes[first];
}

std::string_view text_of(const Node& node, std::string_view text) {
  return text.substr(node.begin, node.end - node.begin);
}

constexpr std::string_view kValues[] = {"0",
                                        "1",
                                        "-1",
                                        "2",
                                        "7",
                                        "8",
                                        "16",
                                        "64",
                                        "255",
                                        "256",
                                        "65535",
                                        "65536",
                                        "2147483647",
                                        "2147483648",
                                        "4294967296",
                                        "9007199254740993",
                                        "4611686018427387904",
                                        "9223372036854775807",
                                        "9223372036854775808",
                                        "18446744073709551615",
                                        "18446744073709551616",
                                        "-9223372036854775808",
                                        "0.5",
                                        "-0.0",
                                        "1e-320",
                                        "1e308",
                                        "1e999",
                                        "1E5",
                                        "3.0",
                                        "\"\"",
                                        "\"a\"",
                                        "\"../../etc/passwd\"",
                                        "\"/etc/passwd\"",
                                        "\"\\u0000\"",
                                        "\"\\ud83d\\ude00\"",
                                        "\"\\ud83d\"",
                                        "\"\xff\"",
                                        "\"\xE2\x96\x81\"",
                                        "\"nan\"",
                                        "\"1e400\"",
                                        "\"0x10\"",
                                        "null",
                                        "true",
                                        "false",
                                        "[]",
                                        "{}",
                                        "[0]",
                                        "[[]]",
                                        "[0,0]",
                                        "{\"a\":1}",
                                        "NaN",
                                        "Infinity",
                                        "01",
                                        "+1",
                                        "'a'",
                                        "// c"};

// A number as it stands, made another: the next, twice, without its last digit, …
std::string changed_number(std::string_view number, Random& random) {
  std::string text(number);
  switch (random.below(6)) {
    case 0: return text + static_cast<char>('0' + random.below(10));
    case 1: return "-" + text;
    case 2: text.pop_back(); return text.empty() ? "0" : text;
    case 3: return text + ".5";
    case 4: return text + "e" + std::to_string(random.below(400));
    default: {
      for (size_t i = text.size(); i-- > 0;) {
        if (text[i] >= '0' && text[i] <= '9') {
          text[i] = static_cast<char>('0' + (text[i] - '0' + (random.one_in(2) ? 1 : 9)) % 10);
          break;
        }
      }
      return text;
    }
  }
}

}  // namespace

void mutate_json(std::string* text, std::string_view other, Random& random, std::span<const std::string_view> words) {
  static std::vector<Node> nodes, others;  // kept, since memory is slow under the sanitizers
  find_nodes(*text, &nodes);
  if (nodes.empty() || random.one_in(24)) return mutate_bytes(text, random);
  find_nodes(other, &others);
  const Node at = pick(nodes, random);
  const std::string value(text_of(at, *text)), member = text->substr(at.member, at.end - at.member);
  const auto replace = [&](std::string_view with) { text->replace(at.begin, at.end - at.begin, with); };
  // A value from elsewhere.
  const auto foreign = [&]() -> std::string {
    if (!others.empty() && !random.one_in(3)) return std::string(text_of(pick(others, random), other));
    return std::string(text_of(pick(nodes, random), *text));
  };
  if (!others.empty() && random.one_in(2)) return replace(foreign());
  switch (random.below(16)) {
    case 0: return replace(random.pick(std::span<const std::string_view>(kValues)));
    case 1: return replace(foreign());
    case 2:
    case 3:
      if (words.empty()) return replace(random.pick(std::span<const std::string_view>(kValues)));
      return replace(random.pick(words));
    case 4: {  // without the member, and the comma behind or before it
      size_t begin = at.member, end = at.end;
      if (end < text->size() && (*text)[end] == ',') {
        ++end;
      } else if (begin > 0 && (*text)[begin - 1] == ',') {
        --begin;
      }
      text->erase(begin, end - begin);
      return;
    }
    case 5: text->insert(at.end, "," + member); return;
    case 6: {  // a member from elsewhere beside it
      const Node& more = pick(nodes, random);
      text->insert(at.end, "," + text->substr(more.member, more.end - more.member));
      return;
    }
    case 7: {
      const Node with = pick(nodes, random);
      if (with.end <= at.begin) {
        replace(text_of(with, *text));
        text->replace(with.begin, with.end - with.begin, value);
      }
      return;
    }
    case 8: {
      const size_t levels = random.one_in(8) ? 1 + random.below(80) : 1;
      std::string before, after;
      for (size_t i = 0; i < levels; ++i) {
        const bool list = random.one_in(2);
        before += list ? "[" : "{\"a\":";
        after.insert(0, list ? "]" : "}");
      }
      return replace(before + value + after);
    }
    case 9:
    case 10:
      if (value[0] == '-' || (value[0] >= '0' && value[0] <= '9')) return replace(changed_number(value, random));
      [[fallthrough]];
    case 11:
      if (value[0] == '"' && value.size() >= 2) {
        std::string inner = value.substr(1, value.size() - 2);
        mutate_bytes(&inner, random);
        return replace("\"" + inner + "\"");
      }
      return replace(random.pick(std::span<const std::string_view>(kValues)));
    case 12:  // another key
      if (at.member != at.begin) {
        const size_t end = text->find('"', at.member + 1);
        const Node& from = pick(nodes, random);
        std::string key = from.member != from.begin
                              ? text->substr(from.member, text->find('"', from.member + 1) + 1 - from.member)
                              : "\"a\"";
        if (!words.empty() && random.one_in(2)) key = random.pick(words);
        if (end < at.begin && key[0] == '"') text->replace(at.member, end + 1 - at.member, key);
      }
      return;
    case 13: {  // many of them
      if (value.size() > 40) return;
      std::string many = value;
      for (size_t n = random.below(40); n > 0; --n) many += "," + value;
      return replace("[" + many + "]");
    }
    case 14: {  // a part of a list or an object from elsewhere, in it
      if (value.size() < 2 || (value[0] != '[' && value[0] != '{')) return;
      const Node& more = pick(nodes, random);
      std::string inside =
          value[0] == '[' ? std::string(text_of(more, *text)) : text->substr(more.member, more.end - more.member);
      text->insert(at.begin + 1, inside + (value.size() > 2 ? "," : ""));
      return;
    }
    default:
      if (random.one_in(4)) text->resize(at.begin + random.below(at.end - at.begin + 1));
  }
}

std::vector<std::string> split_sections(std::string_view input, char separator) {
  std::vector<std::string> sections;
  for (size_t at = 0;;) {
    const size_t end = std::min(input.find(separator, at), input.size());
    sections.emplace_back(input.substr(at, end - at));
    if (end == input.size()) return sections;
    at = end + 1;
  }
}

std::string join_sections(std::span<const std::string> sections, char separator) {
  std::string text;
  for (const std::string& section : sections) {
    if (&section != sections.data()) text += separator;
    text += section;
  }
  return text;
}

}  // namespace quantbench::fuzz
