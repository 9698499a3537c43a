// llama-bench of llama.cpp (examples/llama-bench, later tools/llama-bench): rows are pp (n_prompt alone), tg (n_gen
// alone) or both. Its rates of both count the tokens of the prompt too; ours count new ones alone, so they are made
// anew.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "import/imported_row.h"

namespace quantbench {
namespace {

constexpr const char* kTool = "llama-bench";

// "llama 1B Q4_K - Medium" is model and type of the weights: the type begins with the word that looks like one.
void take_model_type(const std::string& model_type, ImportedRow* row) {
  const std::vector<std::string> words = split_at(model_type, ' ');
  const auto is_type = [](const std::string& w) {
    if (w == "F16" || w == "F32" || w == "BF16" || w.starts_with("MXFP") || w.starts_with("TQ")) return true;
    const std::string_view rest = std::string_view(w).substr(w.starts_with("I") ? 1 : 0);
    return rest.size() > 1 && rest[0] == 'Q' && std::isdigit(static_cast<unsigned char>(rest[1])) != 0;
  };
  const auto first = std::find_if(words.begin(), words.end(), is_type);
  for (auto w = words.begin(); w != first; ++w) row->model += (w == words.begin() ? "" : " ") + *w;
  std::string type;
  for (auto w = first; w != words.end(); ++w) {
    if (*w != "-" && !w->empty()) type += (type.empty() ? "" : "_") + *w;
  }
  if (row->model.ends_with(" all")) row->model.resize(row->model.size() - 4);  // "all F32"
  row->precision_long = "llama.cpp " + (type.empty() ? "of unknown type" : type);
  std::transform(type.begin(), type.end(), type.begin(), [](unsigned char c) { return std::tolower(c); });
  row->precision = type == "f16" ? "fp16" : type == "f32" ? "fp32" : type.empty() ? "unknown" : type;
}

// From counts to what the cell is.
void take_counts(int prompt, int generated, int depth, ImportedRow* row, const Where& where) {
  if (prompt == 0 && generated == 0) where.refuse("n_prompt or n_gen above 0", "both 0");
  row->depth = depth;
  row->batch = 1;
  if (generated == 0) {
    row->kind = "prefill";
    row->prompt_tokens = prompt;
    row->new_tokens = 1;
  } else if (prompt == 0) {
    row->kind = "decode";
    row->prompt_tokens = 1;
    row->new_tokens = generated;
  } else {
    row->prompt_tokens = prompt;
    row->new_tokens = generated;
  }
}

// What each run's time is of, in our metrics.
void take_samples(ImportedRow* row) {
  for (const double ns : row->run_ns) {
    row->samples["total_latency"].push_back(ns);
    if (row->kind == "prefill") {
      row->samples["prefill_time"].push_back(ns);
      row->samples["prefill_tokens_per_second"].push_back(*row->prompt_tokens * 1e9 / ns);
    } else {
      row->samples["latency_per_token"].push_back(ns / *row->new_tokens);
      row->samples["tokens_per_second"].push_back(*row->new_tokens * 1e9 / ns);
    }
  }
}

// A mean rate with its deviation, where samples are not told. `counted`: the tokens that the rate is of.
void take_rate(double mean, double stddev, int counted, ImportedRow* row) {
  const bool prefill = row->kind == "prefill";
  const double ours = prefill ? *row->prompt_tokens : *row->new_tokens;
  const double scale = ours / counted;
  if (scale != 1) row->derived_from.emplace_back("tokens_per_second: of new tokens alone, from the rate of all");
  row->figures[prefill ? "prefill_tokens_per_second" : "tokens_per_second"] = {mean * scale, stddev * scale};
}

std::string settings(const std::vector<std::pair<std::string, std::string>>& parts) {
  std::string text;
  for (const auto& [name, value] : parts) {
    if (!value.empty()) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, value);
  }
  return text;
}

bool runs_on_gpu(const std::string& backends, const std::string& layers) {
  return backends != "CPU" && backends != "BLAS" && layers != "0";
}

std::string text_of(const Record& row, const char* name) {
  if (!row.contains(name) || row[name].is_null()) return "";
  return row[name].is_string() ? row[name].get<std::string>() : row[name].dump();
}

// Of json and csv, whose fields have the same names.
ImportedRow from_fields(const Record& fields, const Where& where, const char* format) {
  for (const char* needed : {"model_type", "n_prompt", "n_gen", "avg_ts", "stddev_ts"}) {
    if (!fields.contains(needed)) where.refuse(fmt::format("llama-bench's field {}", needed), "none of that name");
  }
  const auto count = [&](const char* name) {
    const std::string text = text_of(fields, name);
    const double value = text.empty() ? 0 : where.number(name, text);
    if (value != std::floor(value) || value > kMostTokens)
      where.refuse(fmt::format("a whole number as {}", name), text);
    return static_cast<int>(value);
  };
  ImportedRow row{.line = where.line, .tool = kTool, .format = format, .engine = "llama.cpp"};
  take_model_type(text_of(fields, "model_type"), &row);
  take_counts(count("n_prompt"), count("n_gen"), count("n_depth"), &row, where);
  row.cpu = text_of(fields, "cpu_info");
  const std::string backends = text_of(fields, "backends"), gpu = text_of(fields, "gpu_info");
  const bool on_gpu = !gpu.empty() && runs_on_gpu(backends, text_of(fields, "n_gpu_layers"));
  row.device = on_gpu ? gpu : row.cpu;
  row.on_cpu = !backends.empty() && !runs_on_gpu(backends, text_of(fields, "n_gpu_layers"));
  row.started_utc = text_of(fields, "test_time");
  row.tuning = settings({{"build", text_of(fields, "build_commit")},
                         {"backend", backends},
                         {"threads", text_of(fields, "n_threads")},
                         {"ngl", on_gpu ? text_of(fields, "n_gpu_layers") : ""},
                         {"flash attention", text_of(fields, "flash_attn")},
                         {"batch", text_of(fields, "n_batch")},
                         {"ubatch", text_of(fields, "n_ubatch")},
                         {"k", text_of(fields, "type_k")},
                         {"v", text_of(fields, "type_v")}});
  if (const std::string size = text_of(fields, "model_size"); !size.empty())
    row.figures["weight_bytes"] = {where.number("model_size", size), std::nullopt};
  if (fields.contains("samples_ns")) {
    if (!fields["samples_ns"].is_array() || fields["samples_ns"].empty())
      where.refuse("a list of times as samples_ns", text_of(fields, "samples_ns"));
    for (const Record& sample : fields["samples_ns"]) row.run_ns.push_back(where.time_ns("samples_ns", sample, 1));
    take_samples(&row);
  } else {
    const int counted = count("n_prompt") + count("n_gen");
    take_rate(where.number("avg_ts", text_of(fields, "avg_ts")),
              where.number("stddev_ts", text_of(fields, "stddev_ts")), counted, &row);
    if (const std::string mean = text_of(fields, "avg_ns"); !mean.empty()) {
      const std::string deviation = text_of(fields, "stddev_ns");
      row.figures["total_latency"] = {
          where.number("avg_ns", mean),
          deviation.empty() ? std::nullopt : std::optional(where.number("stddev_ns", deviation))};
    }
  }
  row.as_read = fields;
  return row;
}

// "pp512", "tg128", "pp512+tg128", each also with " @ d512".
void take_test(const std::string& test, ImportedRow* row, const Where& where) {
  int prompt = 0, generated = 0, depth = 0;
  const std::vector<std::string> parts = split_at(test, '@');
  const auto count = [&](const std::string& text, size_t prefix) {
    const double value = where.number("a count of tokens", text.substr(prefix));
    if (value > kMostTokens || value != std::floor(value)) where.refuse("a whole number of tokens", text);
    return static_cast<int>(value);
  };
  for (const std::string& part : split_at(parts[0], '+')) {
    if (part.starts_with("pp"))
      prompt = count(part, 2);
    else if (part.starts_with("tg"))
      generated = count(part, 2);
    else
      where.refuse("a test as pp512, tg128 or pp512+tg128", fmt::format("'{}'", test));
  }
  if (parts.size() == 2 && parts[1].starts_with("d"))
    depth = count(parts[1], 1);
  else if (parts.size() > 1)
    where.refuse("a depth as '@ d512'", fmt::format("'{}'", test));
  take_counts(prompt, generated, depth, row, where);
}

// "663.16 MiB", rounded to a hundredth: how much is not told more exactly.
std::optional<double> size_of(const std::string& text, const Where& where) {
  const std::vector<std::string> parts = split_at(text, ' ');
  if (parts.size() != 2) return std::nullopt;
  const double unit = parts[1] == "MiB" ? 1 << 20 : parts[1] == "GiB" ? 1 << 30 : 0;
  if (unit == 0) return std::nullopt;
  return where.number("size", parts[0]) * unit;
}

std::vector<std::string> table_cells(const std::string& line) {
  std::vector<std::string> cells = split_at(trimmed(line), '|');
  if (!cells.empty()) cells.erase(cells.begin());  // before the first bar, and behind the last
  if (!cells.empty() && cells.back().empty()) cells.pop_back();
  return cells;
}

}  // namespace

std::vector<ImportedRow> llama_bench_json(const Record& row, const Where& where) {
  return {from_fields(row, where, "json")};
}

std::vector<ImportedRow> llama_bench_csv(std::string_view content, const std::string& path) {
  std::vector<ImportedRow> rows;
  std::vector<std::string> headings;
  int number = 0;
  for (const std::string& line : lines_of(content)) {
    const Where where{path, ++number};
    if (trimmed(line).empty()) continue;
    const std::vector<std::string> fields = csv_fields(line, where);
    if (headings.empty()) {
      headings = fields;
      continue;
    }
    if (fields.size() != headings.size())
      where.refuse(fmt::format("{} fields, as the headings have", headings.size()), fmt::format("{}", fields.size()));
    Record named = Record::object();
    for (size_t i = 0; i < fields.size(); ++i) named[headings[i]] = fields[i];
    rows.push_back(from_fields(named, where, "csv"));
  }
  return rows;
}

std::vector<ImportedRow> llama_bench_markdown(std::string_view content, const std::string& path) {
  std::vector<ImportedRow> rows;
  std::vector<std::string> headings;
  std::string build;
  int number = 0;
  for (const std::string& line : lines_of(content)) {
    const Where where{path, ++number};
    if (line.starts_with("build: ")) build = trimmed(line.substr(7));
    if (!line.starts_with("|") || line.starts_with("| -") || line.starts_with("|-")) continue;
    const std::vector<std::string> cells = table_cells(line);
    if (cells.empty() || cells[0] == "model") {
      headings = cells;
      continue;
    }
    if (cells.size() != headings.size())
      where.refuse(fmt::format("{} columns, as the headings have", headings.size()), fmt::format("{}", cells.size()));
    Record named = Record::object();
    for (size_t i = 0; i < cells.size(); ++i) named[headings[i]] = cells[i];
    for (const char* needed : {"model", "test", "t/s"}) {
      if (!named.contains(needed)) where.refuse(fmt::format("a column '{}' of llama-bench's table", needed), line);
    }
    ImportedRow row{.line = number, .tool = kTool, .format = "md", .engine = "llama.cpp"};
    take_model_type(named["model"], &row);
    take_test(named["test"], &row, where);
    std::string rate = named["t/s"];
    const size_t sign = rate.find("±");
    if (sign == std::string::npos) where.refuse("mean ± deviation as t/s", fmt::format("'{}'", rate));
    const int counted =
        row.kind == "prefill" ? *row.prompt_tokens : *row.new_tokens + (row.kind == "decode" ? 0 : *row.prompt_tokens);
    take_rate(where.number("t/s", trimmed(rate.substr(0, sign))),
              where.number("the deviation of t/s", trimmed(rate.substr(sign + std::string_view("±").size()))), counted,
              &row);
    if (named.contains("size")) {
      if (const auto size = size_of(named["size"], where)) row.figures["weight_bytes"] = {*size, std::nullopt};
    }
    std::string others;
    for (const auto& [heading, value] : named.items()) {
      if (heading == "model" || heading == "size" || heading == "params" || heading == "test" || heading == "t/s")
        continue;
      others += fmt::format("{}{} {}", others.empty() ? "" : ", ", heading, value.get<std::string>());
    }
    row.tuning = others;
    const std::string backends = text_of(named, "backend");
    row.on_cpu = !backends.empty() && !runs_on_gpu(backends, text_of(named, "ngl"));
    row.as_read = named;
    rows.push_back(std::move(row));
  }
  for (ImportedRow& row : rows) {
    if (!build.empty()) row.tuning += (row.tuning.empty() ? "build " : ", build ") + build;
  }
  return rows;
}

}  // namespace quantbench
