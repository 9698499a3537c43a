#include "report/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>

namespace quantbench {
namespace {

// Four significant digits without an exponent.
std::string four_digits(double value) {
  const double size = std::abs(value);
  return fmt::format("{:.{}f}", value, size >= 999.95 ? 0 : size >= 99.995 ? 1 : size >= 9.9995 ? 2 : 3);
}

size_t width_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace

std::string format_bytes(double bytes) {
  constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (std::abs(bytes) >= 1024 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, unit == 0 ? 0 : unit >= 3 ? 2 : 1, kUnits[unit]);
}

std::string format_decimal(double bytes) {
  constexpr std::array kUnits{"B", "kB", "MB", "GB", "TB"};
  size_t unit = 0;
  // What would be shown as 1000 is 1.00 of the next.
  while (std::abs(bytes) >= 999.5 && unit + 1 < kUnits.size()) {
    bytes /= 1000;
    ++unit;
  }
  const int digits = unit == 0 || bytes >= 99.95 ? 0 : bytes >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f} {}", bytes, digits, kUnits[unit]);
}

std::string format_ns(double ns) {
  if (ns >= 1e9) return four_digits(ns / 1e9) + " s";
  if (ns >= 1e6) return four_digits(ns / 1e6) + " ms";
  return four_digits(ns / 1e3) + " µs";
}

std::string format_rate(double per_second) { return four_digits(per_second); }

Grid::Grid(std::vector<std::string> headings, std::vector<Align> align)
    : rows_{std::move(headings)}, align_(std::move(align)) {}

void Grid::add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

std::string Grid::text() const {
  std::vector<size_t> widths(align_.size(), 0);
  for (const auto& row : rows_) {
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], width_of(row[c]));
  }
  std::string out;
  for (size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (size_t c = 0; c < rows_[r].size(); ++c) {
      const std::string pad(widths[c] - width_of(rows_[r][c]), ' ');
      if (c > 0) line += "  ";
      line += align_[c] == Align::right ? pad + rows_[r][c] : rows_[r][c] + pad;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
    if (r == 0) {
      size_t total = 2 * (widths.size() - 1);
      for (size_t width : widths) total += width;
      out += std::string(total, '-') + "\n";
    }
  }
  return out;
}

std::string Grid::markdown() const {
  std::string out;
  for (size_t r = 0; r < rows_.size(); ++r) {
    out += "|";
    for (const std::string& cell : rows_[r]) {
      std::string escaped;
      for (char c : without_elements(cell)) {
        if (c == '|') escaped += '\\';
        escaped += c == '\n' ? ' ' : c;
      }
      out += " " + escaped + " |";
    }
    out += "\n";
    if (r == 0) {
      out += "|";
      for (Align align : align_) out += align == Align::right ? "---:|" : "---|";
      out += "\n";
    }
  }
  return out;
}

namespace {

// `kept`: the control characters that stay as they are.
std::string without_controls(std::string_view text, std::string_view kept) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool c1 = byte == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (c1) {  // U+0080 … U+009F, which terminals may obey
      out += fmt::format("<U+{:04X}>", static_cast<unsigned char>(text[++i]));
    } else if ((byte < 0x20 && kept.find(text[i]) == std::string_view::npos) || byte == 0x7f) {
      out += fmt::format("<U+{:04X}>", byte);
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

}  // namespace

std::string without_elements(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else
      out += c;
  }
  return out;
}

std::string printable(std::string_view text) { return without_controls(text, "\n\t"); }
std::string one_line(std::string_view text) { return without_controls(text, ""); }

std::string csv_line(const std::vector<std::string>& cells) {
  std::string line;
  for (size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) line += ',';
    // Spreadsheets compute what begins like a formula: a name of a stranger's must not. Numbers may begin with a sign.
    std::string cell = printable(cells[i]);
    const bool signed_number = cell.size() > 1 && std::string_view("+-").find(cell[0]) != std::string_view::npos &&
                               (std::isdigit(static_cast<unsigned char>(cell[1])) != 0 || cell[1] == '.');
    if (!cell.empty() && std::string_view("=+-@").find(cell[0]) != std::string_view::npos && !signed_number)
      cell = "'" + cell;
    if (cell.find_first_of(",\"\r\n") == std::string::npos) {
      line += cell;
      continue;
    }
    line += '"';
    for (const char c : cell) line += c == '"' ? std::string("\"\"") : std::string(1, c);
    line += '"';
  }
  return line + '\n';
}

}  // namespace quantbench
