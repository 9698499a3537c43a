// Numbers as people read them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quantbench {

std::string format_bytes(double bytes);      // "14.2 MiB"
std::string format_decimal(double bytes);    // of traffic, as makers count: "1.50 GB"
std::string format_ns(double nanoseconds);   // "1.21 ms"
std::string format_rate(double per_second);  // four digits: "812.3", "14.26"

// Columns of text; widths are in characters, not bytes.
class Grid {
 public:
  enum class Align { left, right };
  explicit Grid(std::vector<std::string> headings, std::vector<Align> align);
  void add(std::vector<std::string> row);
  std::string text() const;      // aligned columns, a rule below the headings
  std::string markdown() const;  // a pipe table; "|" in cells is escaped

 private:
  std::vector<std::vector<std::string>> rows_;  // the first are the headings
  std::vector<Align> align_;
};

// Text of a model on one terminal: control characters (but newline and tab) shown as their code point, so that a
// response cannot move the cursor or change colours.
std::string printable(std::string_view text);
// The same for what must stay in its line or cell of a table, such as a folder's name: newline and tab too.
std::string one_line(std::string_view text);
// Text in Markdown: a name is no element of HTML.
std::string without_elements(std::string_view text);

// One line of CSV, with its end (RFC 4180: quoted where it must be, quotes doubled).
std::string csv_line(const std::vector<std::string>& cells);

}  // namespace quantbench
