// Results of other programs: every format that import reads. Changes know JSON, and tables of lines and cells.
#include "import/import.h"

#include "core/json.h"
#include "core/os.h"
#include "fuzz/json_tree.h"
#include "report/read_records.h"

namespace quantbench::fuzz {
namespace {

constexpr std::string_view kWords[] = {"\"n_prompt\"", "\"avg_ts\"",    "\"samples_ts\"", "\"samples_ns\"",
                                       "\"n_gen\"",    "\"report\"",    "\"config\"",     "\"decode\"",
                                       "\"prefill\"",  "\"per_token\"", "\"latency\"",    "\"values\"",
                                       "\"s\"",        "\"MB\"",        "\"backend\"",    "[0.1,0.2]",
                                       "1e-300",       "1e300",         "\"F16\"",        "\"Q4_K - Medium\""};
constexpr std::string_view kCells[] = {"0",     "-1",     "1e308",        "1e999",     "nan",
                                       "inf",   "0x1p-3", "1,000",        "",          " ",
                                       "\"",    "\"\"",   "\"a,b\"",      "|",         ":-:",
                                       "pp512", "tg128",  "pp512 @ d512", "pp64+tg16", "50589.60 \xC2\xB1 1.2",
                                       "fp16",  "int8",   "4bit",         "precision", "2024-01-01",
                                       "1.0s",  "12 MB",  "7.5 \xC2\xB1", "\xff",      "9223372036854775808"};
constexpr std::string_view kHeads[] = {"precision,latency_sec,tokens_per_sec,memory_mb,output",
                                       "precision,total_latency_sec,",
                                       "set,gpu,gpus,model,",
                                       "build_commit,",
                                       "| model ",
                                       "precision | latency(s) |",
                                       "# "};

constexpr size_t kLookedAt = 4;  // one input in so many

// Where a line's cells end.
void mutate_table(std::string* text, std::string_view other, Random& random) {
  std::vector<std::string> lines = split_sections(*text, '\n');
  std::string& line = lines[random.below(lines.size())];
  const char separator = line.find('|') != line.npos ? '|' : ',';
  std::vector<std::string> cells = split_sections(line, separator);
  const size_t at = random.below(cells.size());
  switch (random.below(9)) {
    case 0:
    case 1: cells[at] = random.pick(std::span<const std::string_view>(kCells)); break;
    case 2: cells.erase(cells.begin() + static_cast<long>(at)); break;
    case 3: cells.insert(cells.begin() + static_cast<long>(at), std::string(cells[at])); break;
    case 4: std::swap(cells[at], cells[random.below(cells.size())]); break;
    case 5: mutate_bytes(&cells[at], random); break;
    case 6:
      lines.insert(lines.begin() + static_cast<long>(random.below(lines.size() + 1)), std::string(line));
      *text = join_sections(lines, '\n');
      return;
    case 7:
      lines.erase(lines.begin() + (&line - lines.data()));
      *text = join_sections(lines, '\n');
      return;
    default:
      if (other.empty()) {
        line = random.pick(std::span<const std::string_view>(kHeads));
      } else {
        const std::vector<std::string> others = split_sections(other, '\n');
        line = others[random.below(others.size())];
      }
      *text = join_sections(lines, '\n');
      return;
  }
  line = join_sections(cells, separator);
  *text = join_sections(lines, '\n');
}

}  // namespace

void run(std::string_view input) {
  const std::vector<Record> records =
      import_results(input, "results.txt", {.model = "", .device = "", .imported_utc = "2026-01-31T12:34:56Z"});
  // Looking at all of them would take most of the time.
  if (const size_t draw = drawn(input, kLookedAt * 60); draw % kLookedAt == 0 && !records.empty()) {
    const Record& record = records[draw / kLookedAt % records.size()];
    check(record_problem(record).empty(), "what was imported is a record");
    check(view_of(record).stamp.kind != StampKind::valid, "what was imported is never VALID");
    parse_json(to_text(record), "record");
  }
}

std::vector<std::string> seeds() {
  std::vector<std::string> seeds;
  const std::string folder = QB_SOURCE_DIR "/testdata/imports/";
  for (const std::string& name : os::list_directory(folder)) {
    const std::string text = os::read_file(folder + name, 1 << 20);
    seeds.push_back(name.ends_with(".json") ? nlohmann::json::parse(text).dump() : text);
  }
  const std::string collected = os::read_file(QB_SOURCE_DIR "/docs/reference/predecessor_results.csv", 1 << 20);
  size_t end = 0;
  for (int lines = 0; lines < 8 && end != collected.npos; ++lines) end = collected.find('\n', end + 1);
  seeds.push_back(collected.substr(0, end));
  return seeds;
}

void mutate(std::string* input, std::string_view other, Random& random) {
  const size_t first = input->find_first_not_of(" \t\r\n");
  const bool is_json = first != input->npos && ((*input)[first] == '{' || (*input)[first] == '[');
  if (is_json) return mutate_json(input, other, random, kWords);
  mutate_table(input, other, random);
}

}  // namespace quantbench::fuzz
