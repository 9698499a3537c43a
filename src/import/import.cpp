#include "import/import.h"

#include "bench/identity.h"
#include "core/error.h"
#include "core/json.h"
#include "core/os.h"
#include "import/imported_row.h"

namespace quantbench {
namespace {

constexpr const char* kKnown =
    "llama-bench's json, jsonl, csv or md, optimum-benchmark's benchmark.json, or the predecessor's CSV or text "
    "summary";

int line_at(std::string_view content, size_t at) {
  int line = 1;
  for (size_t i = 0; i < at && i < content.size(); ++i) line += content[i] == '\n';
  return line;
}

// Why this text is no JSON, and on which line of the file, that begins with line `first`.
Record parsed(std::string_view text, const std::string& path, int first) {
  if (nests_deeper(text, JsonLimits().depth))
    Where{path, first}.refuse(fmt::format("JSON of at most {} levels", JsonLimits().depth), "deeper nesting");
  try {
    return Record::parse(text.begin(), text.end());
  } catch (const Record::parse_error& error) {
    Where{path, first - 1 + line_at(text, error.byte > 0 ? error.byte - 1 : 0)}.refuse(
        "valid JSON", error.byte >= text.size() ? "the end of the file; is it complete?"
                                                : fmt::format("a fault at byte {}: {}", error.byte, error.what()));
  } catch (const Record::exception& error) {
    Where{path, first}.refuse("valid JSON", error.what());
  }
}

std::vector<ImportedRow> of_object(const Record& value, const Where& where) {
  if (!value.is_object()) where.refuse("an object", value.dump());
  if (value.value("schema", Record()) == "quantbench.record")
    where.refuse(kKnown, "a record of quantbench, which needs no import");
  if (value.contains("report") && value.contains("config")) return optimum_benchmark(value, where);
  if (value.contains("n_prompt") && value.contains("avg_ts")) return llama_bench_json(value, where);
  where.refuse(kKnown, "an object of another kind: " + value.dump(-1, ' ', false, Record::error_handler_t::replace));
}

void append(std::vector<ImportedRow> more, std::vector<ImportedRow>* rows) {
  for (ImportedRow& row : more) rows->push_back(std::move(row));
}

// One value over the whole file, or one a line.
std::vector<ImportedRow> of_json(std::string_view content, const std::string& path) {
  std::vector<ImportedRow> rows;
  const std::vector<std::string> lines = lines_of(content);
  const bool one_a_line = lines.size() > 1 && Record::accept(lines[0]) && lines[0].starts_with('{');
  if (one_a_line) {
    for (size_t i = 0; i < lines.size(); ++i) {
      const int number = static_cast<int>(i) + 1;
      if (!trimmed(lines[i]).empty()) append(of_object(parsed(lines[i], path, number), {path, number}), &rows);
    }
    return rows;
  }
  const Record whole = parsed(content, path, 1);
  if (!whole.is_array()) return of_object(whole, {path, 1});
  // The line of a row of an array: that of its "{", which is looked for behind the one before it.
  size_t at = 0;
  for (const Record& value : whole) {
    at = content.find('{', at);
    append(of_object(value, {path, line_at(content, at)}), &rows);
    int depth = 0;
    bool quoted = false;
    for (; at < content.size(); ++at) {
      if (content[at] == '\\' && quoted) {
        ++at;
        continue;
      }
      if (content[at] == '"') quoted = !quoted;
      if (quoted) continue;
      if (content[at] == '{') ++depth;
      if (content[at] == '}' && --depth == 0) break;
    }
  }
  return rows;
}

std::vector<ImportedRow> rows_of(std::string_view content, const std::string& path) {
  const size_t first = content.find_first_not_of(" \t\r\n");
  if (first == content.npos) Where{path, 1}.refuse(kKnown, "an empty file");
  if (content[first] == '{' || content[first] == '[') return of_json(content, path);
  int number = 0;
  for (const std::string& line : lines_of(content)) {
    ++number;
    if (trimmed(line).empty() || line.starts_with("#")) continue;
    if (line.starts_with("build_commit,")) return llama_bench_csv(content, path);
    if (line.starts_with("precision,latency_sec,") || line.starts_with("precision,total_latency_sec,"))
      return predecessor_csv(content, path);
    if (line.starts_with("set,gpu,gpus,")) return predecessor_collected(content, path);
    break;
  }
  // These have other text before their table.
  for (const std::string& line : lines_of(content)) {
    if (line.starts_with("| model ")) return llama_bench_markdown(content, path);
    if (line.starts_with("precision") && line.find("| latency(s)") != line.npos) return predecessor_text(content, path);
  }
  const std::string line = trimmed(content.substr(first, content.find('\n', first) - first));
  Where{path, line_at(content, first)}.refuse(kKnown, fmt::format("'{}'", line));
}

}  // namespace

std::vector<Record> import_results(std::string_view content, const std::string& path, const ImportOptions& options) {
  const ImportedFile file{path, sha256_hex(content)};
  std::vector<Record> records;
  for (const ImportedRow& row : rows_of(content, path)) records.push_back(record_of(row, file, options));
  if (records.empty()) Where{path, 1}.refuse("at least one row of results", "none");
  return records;
}

std::vector<Record> import_file(const std::string& path, const ImportOptions& options) {
  constexpr int64_t kMaxImportBytes = 256 << 20;
  return import_results(os::read_file(path, kMaxImportBytes), path, options);
}

}  // namespace quantbench
