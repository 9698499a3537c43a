// The published results of InferenceQuantization, the program before this one: transformers + bitsandbytes, a
// generate() a row. Its files tell neither how many tokens were made nor from how many.
#include <cmath>
#include <map>

#include "core/error.h"
#include "import/imported_row.h"

namespace quantbench {
namespace {

constexpr double kGiB = 1024.0 * 1024 * 1024;  // its GB

std::string long_name(const std::string& precision) {
  if (precision == "fp16") return "FP16 (transformers)";
  if (precision == "bf16") return "BF16 (transformers)";
  if (precision == "int8") return "LLM.int8 (bitsandbytes)";
  return "NF4 (bitsandbytes)";
}

ImportedRow begin_row(const Where& where, const char* format, const std::string& precision) {
  if (precision != "fp16" && precision != "bf16" && precision != "int8" && precision != "4bit")
    where.refuse("a precision: fp16, bf16, int8 or 4bit", fmt::format("'{}'", precision));
  ImportedRow row{.line = where.line, .tool = "InferenceQuantization", .format = format, .engine = "transformers"};
  row.precision = precision;
  row.precision_long = long_name(precision);
  row.batch = 1;
  return row;
}

// Rate and latency are of the same tokens, so their product is how many there were: taken where it is that clearly a
// whole number as figures of four digits tell.
void take_speed(double latency_s, double rate, ImportedRow* row) {
  row->figures["total_latency"] = {latency_s * 1e9, std::nullopt};
  row->figures["tokens_per_second"] = {rate, std::nullopt};
  const double tokens = latency_s * rate;
  const double whole = std::round(tokens);
  if (whole < 1 || whole > kMostTokens || std::abs(tokens - whole) > 0.002 * whole) return;
  row->new_tokens = static_cast<int>(whole);
  row->derived_from.emplace_back("new_tokens: latency × tokens per second");
  row->figures["latency_per_token"] = {latency_s * 1e9 / whole, std::nullopt};
}

Record named(const std::vector<std::string>& headings, const std::vector<std::string>& fields) {
  Record row = Record::object();
  for (size_t i = 0; i < fields.size(); ++i) row[headings[i]] = fields[i];
  return row;
}

}  // namespace

std::vector<ImportedRow> predecessor_csv(std::string_view content, const std::string& path) {
  const std::vector<std::string> kShort{"precision", "latency_sec", "tokens_per_sec", "peak_mem_gb", "error"};
  const std::vector<std::string> kUnderNine{"precision", "total_latency_sec", "tokens_per_sec", "peak_mem_gb", "error"};
  std::vector<ImportedRow> rows;
  std::vector<std::string> headings;
  int number = 0;
  for (const std::string& line : lines_of(content)) {
    const Where where{path, ++number};
    if (trimmed(line).empty()) continue;
    std::vector<std::string> fields = csv_fields(line, where);
    if (headings.empty()) {
      headings = fields;
      continue;
    }
    // Nine headings over five values: the script wrote the memory under the fourth.
    const bool short_row = headings.size() == 9 && fields.size() == 5;
    if (!short_row && fields.size() != headings.size())
      where.refuse(headings.size() == 9 ? "5 or 9 values" : fmt::format("{} values", headings.size()),
                   fmt::format("{}", fields.size()));
    ImportedRow row = begin_row(where, short_row ? "csv, nine headings over five values" : "csv", fields[0]);
    row.as_read = named(short_row ? kUnderNine : headings, fields);
    const auto of = [&](const char* name) { return trimmed(row.as_read.value(name, "")); };
    row.error = of("error");
    const std::string latency = of(headings.size() == 9 ? "total_latency_sec" : "latency_sec"),
                      rate = of("tokens_per_sec");
    if (row.error.empty() || !latency.empty())
      take_speed(where.number("the latency", latency), where.number("tokens_per_sec", rate), &row);
    const std::map<const char*, const char*> memory{
        {"peak_mem_gb", "memory_peak"}, {"start_mem_gb", "memory_start"}, {"end_mem_gb", "memory_end"}};
    for (const auto& [theirs, ours] : memory) {
      if (const std::string text = of(theirs); !text.empty())
        row.figures[ours] = {where.number(theirs, text) * kGiB, std::nullopt};
    }
    if (const std::string text = of("generated_tokens"); !text.empty()) {
      const double tokens = where.number("generated_tokens", text);
      if (tokens < 1 || tokens > kMostTokens) where.refuse("at least one of generated_tokens", text);
      row.new_tokens = static_cast<int>(tokens);
      row.derived_from.clear();
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<ImportedRow> predecessor_collected(std::string_view content, const std::string& path) {
  const std::vector<std::string> kHeadings{"set",       "gpu",       "gpus",         "model",
                                           "precision", "latency_s", "tokens_per_s", "peak_mem_gib"};
  std::vector<ImportedRow> rows;
  int number = 0;
  bool begun = false;
  for (const std::string& line : lines_of(content)) {
    const Where where{path, ++number};
    if (trimmed(line).empty() || line.starts_with("#")) continue;
    const std::vector<std::string> fields = csv_fields(line, where);
    if (!begun) {
      if (fields != kHeadings) where.refuse("set,gpu,gpus,model,precision,latency_s,tokens_per_s,peak_mem_gib", line);
      begun = true;
      continue;
    }
    if (fields.size() != kHeadings.size())
      where.refuse(fmt::format("{} values", kHeadings.size()), fmt::format("{}", fields.size()));
    ImportedRow row = begin_row(where, "collected csv", fields[4]);
    row.set = fields[0];
    row.device = fields[1];
    const double gpus = where.number("gpus", fields[2]);
    if (gpus < 1 || gpus > 64) where.refuse("1 to 64 gpus", fields[2]);
    row.devices = static_cast<int>(gpus);
    row.model = fields[3];
    take_speed(where.number("latency_s", fields[5]), where.number("tokens_per_s", fields[6]), &row);
    row.figures["memory_peak"] = {where.number("peak_mem_gib", fields[7]) * kGiB, std::nullopt};
    row.as_read = named(kHeadings, fields);
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<ImportedRow> predecessor_text(std::string_view content, const std::string& path) {
  std::vector<ImportedRow> rows;
  std::string gpu;
  bool in_table = false;
  int number = 0;
  for (const std::string& line : lines_of(content)) {
    const Where where{path, ++number};
    if (line.starts_with("GPU:")) gpu = trimmed(line.substr(4));
    const std::vector<std::string> cells = split_at(line, '|');
    if (cells[0] == "precision" && cells.size() > 1 && cells[1] == "latency(s)") {
      in_table = true;
      continue;
    }
    if (!in_table || line.starts_with("---")) continue;
    if (trimmed(line).empty()) break;  // the answers come behind the table
    if (cells.size() != 4) where.refuse("precision | latency(s) | tokens/s | peak_mem(GB)", fmt::format("'{}'", line));
    ImportedRow row = begin_row(where, "text summary", cells[0]);
    row.device = gpu;
    take_speed(where.number("latency(s)", cells[1]), where.number("tokens/s", cells[2]), &row);
    row.figures["memory_peak"] = {where.number("peak_mem(GB)", cells[3]) * kGiB, std::nullopt};
    row.as_read = line;
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace quantbench
