#include "text/graphemes.h"

#include <algorithm>

#include "text/utf8.h"

namespace quantbench {
namespace {

Joining joining_of(char32_t c) {
  if (c >= 0x20 && c < 0x7F) return Joining::none;
  if (c == '\r') return Joining::carriage_return;
  if (c == '\n') return Joining::line_feed;
  if (c >= 0xAC00 && c <= 0xD7A3) return (c - 0xAC00) % 28 == 0 ? Joining::hangul_lv : Joining::hangul_lvt;
  if (c >= 0x1F1E6 && c <= 0x1F1FF) return Joining::regional;
  const auto ranges = joining_ranges();
  const auto after = std::upper_bound(ranges.begin(), ranges.end(), c,
                                      [](char32_t code, const JoiningRange& range) { return code < range.first; });
  if (after == ranges.begin() || c > std::prev(after)->last) return Joining::none;
  return std::prev(after)->joining;
}

bool ends_line(Joining j) { return j == Joining::control || j == Joining::carriage_return || j == Joining::line_feed; }
bool extends(Joining j) { return j == Joining::extend || j == Joining::linker || j == Joining::non_joiner; }

// What rules GB9c, GB11 and GB12 ask about all that came before in the cluster.
struct Before {
  Joining last = Joining::none;
  bool flag_open = false;      // an odd number of regional indicators
  bool picture = false;        // a pictograph, then extenders only
  bool picture_zwj = false;    // and a joiner behind them
  bool conjunct = false;       // an Indic consonant, then extenders and joiners only
  bool conjunct_link = false;  // a linker among them

  void add(Joining j) {
    flag_open = j == Joining::regional && !flag_open;
    picture_zwj = picture && j == Joining::joiner;
    picture = j == Joining::pictographic || (picture && extends(j));
    const bool inside = conjunct && (j == Joining::extend || j == Joining::linker || j == Joining::joiner);
    conjunct_link = inside && (conjunct_link || j == Joining::linker);
    conjunct = inside || j == Joining::consonant;
    last = j;
  }

  bool joins(Joining next) const {
    using enum Joining;
    if (last == carriage_return) return next == line_feed;  // GB3
    if (ends_line(last) || ends_line(next)) return false;   // GB4, GB5
    if (last == hangul_l && (next == hangul_l || next == hangul_v || next == hangul_lv || next == hangul_lvt))
      return true;
    if ((last == hangul_lv || last == hangul_v) && (next == hangul_v || next == hangul_t)) return true;  // GB7
    if ((last == hangul_lvt || last == hangul_t) && next == hangul_t) return true;                       // GB8
    if (extends(next) || next == joiner || next == spacing_mark) return true;                            // GB9, GB9a
    if (last == prepend) return true;                                                                    // GB9b
    if (conjunct_link && next == consonant) return true;                                                 // GB9c
    if (picture_zwj && next == pictographic) return true;                                                // GB11
    return flag_open && next == regional;                                                                // GB12
  }
};

}  // namespace

size_t grapheme_bytes(std::string_view text) {
  Before before;
  size_t at = 0;
  while (at < text.size()) {
    const utf8::Step next = utf8::step(text.substr(at));
    const Joining joining = joining_of(next.code_point);
    if (at > 0 && !before.joins(joining)) break;
    before.add(joining);
    at += next.bytes;
  }
  return at;
}

}  // namespace quantbench
