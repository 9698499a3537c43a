// What compare and gate print.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "report/compare_records.h"
#include "report/format.h"
#include "report/report.h"

namespace quantbench {
namespace {

constexpr const char* kNothing = "–";

std::string_view name_of(Effect effect, std::string_view better, std::string_view worse) {
  switch (effect) {
    case Effect::better: return better;
    case Effect::worse: return worse;
    case Effect::same: return "same";
    case Effect::ambiguous: return "ambiguous";
  }
  return "?";
}

std::string ratio_of(const std::optional<SpeedChange>& s) {
  if (!s) return kNothing;
  return s->low ? fmt::format("{:.3f} [{:.3f}, {:.3f}]", s->ratio, *s->low, *s->high) : fmt::format("{:.3f}", s->ratio);
}

std::string with_verdict(const std::optional<SpeedChange>& s) {
  return s ? fmt::format("{} {}", ratio_of(s), name_of(s->difference)) : kNothing;
}

std::string plus_minus(const FigureChange& f, double times, int digits) {
  return f.low && f.high ? fmt::format(" ± {:.{}f}", times * (*f.high - *f.low) / 2, digits) : "";
}

std::string memory_of(const std::optional<FigureChange>& f) {
  if (!f) return kNothing;
  return fmt::format("{} → {} ({:+.1f} %) {}", format_bytes(f->a), format_bytes(f->b), 100 * f->change,
                     name_of(f->effect, "smaller", "larger"));
}
std::string perplexity_of(const std::optional<FigureChange>& f) {
  if (!f) return kNothing;
  return fmt::format("{:.3f} → {:.3f} ({:+.2f} %{}) {}", f->a, f->b, 100 * f->change, plus_minus(*f, 100, 2),
                     name_of(f->effect, "better", "worse"));
}
std::string kl_of(const std::optional<FigureChange>& f) {
  if (!f) return kNothing;
  return fmt::format("{:.3g} → {:.3g} ({:+.2g}{}) {}", f->a, f->b, f->change,
                     f->low && f->high ? fmt::format(" ± {:.2g}", (*f->high - *f->low) / 2) : "",
                     name_of(f->effect, "better", "worse"));
}
std::string joules_of(const ComparedPair& pair) {
  if (!pair.joules) return kNothing;
  const FigureChange& f = *pair.joules;
  return fmt::format("{}{:.3g} → {:.3g} ({:+.1f} %)",
                     pair.a.view.energy_estimated || pair.b.view.energy_estimated ? "≈ " : "", f.a, f.b,
                     100 * f.change);
}

std::string engines_of(const ComparedPair& pair) {
  const std::string &a = pair.a.view.engine, &b = pair.b.view.engine;
  return one_line(a == b ? a : a + " → " + b);
}
std::string devices_of(const ComparedPair& pair) {
  const std::string &a = pair.a.view.device, &b = pair.b.view.device;
  return one_line(a == b ? a : a + " → " + b);
}

// What GitHub would take for its own marks.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') {
      out += "&lt;";
      continue;
    }
    if (c == '*' || c == '`' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

// What a report is made of, before it is text or Markdown.
struct Section {
  std::string title;
  std::vector<std::string> lines;
};
struct Pages {
  std::string title;  // of a gate
  std::optional<Grid> grid;
  std::string summary;
  std::vector<Section> sections;
};

struct Column {
  std::string heading;
  Grid::Align align;
  std::string (*of)(const ComparedPair&);
  bool always;  // else only where some cell has something there
};

std::vector<Column> columns_of(const RecordsCompared& c, bool gate) {
  using enum Grid::Align;
  const std::string &a = c.options.name_a, &b = c.options.name_b, ratio = b + " / " + a;
  std::vector<Column> columns;
  if (gate)
    columns.push_back({"outcome", left, [](const ComparedPair& p) { return std::string(name_of(p.outcome)); }, true});
  columns.insert(columns.end(),
                 {{"model", left, [](const ComparedPair& p) { return one_line(p.a.view.shown_model()); }, true},
                  {"precision", left, [](const ComparedPair& p) { return one_line(p.a.view.shown_precision()); }, true},
                  {"test", left, [](const ComparedPair& p) { return one_line(p.a.view.test); }, true}});
  const auto vary = [&](std::string (*of)(const ComparedPair&)) {
    return std::any_of(c.pairs.begin(), c.pairs.end(),
                       [&](const ComparedPair& p) { return of(p) != of(c.pairs.front()); });
  };
  if (vary(devices_of)) columns.push_back({"device", left, devices_of, true});
  if (vary(engines_of)) columns.push_back({"engine", left, engines_of, true});
  columns.insert(
      columns.end(),
      {{"t/s " + a, right, [](const ComparedPair& p) { return p.speed ? format_rate(p.speed->a) : kNothing; }, true},
       {"t/s " + b, right, [](const ComparedPair& p) { return p.speed ? format_rate(p.speed->b) : kNothing; }, true},
       {ratio, right, [](const ComparedPair& p) { return ratio_of(p.speed); }, true},
       {"verdict", left,
        [](const ComparedPair& p) {
          return p.speed ? std::string(quantbench::name_of(p.speed->difference)) : std::string(kNothing);
        },
        true},
       {"first token " + ratio, left, [](const ComparedPair& p) { return with_verdict(p.first_token); }, false},
       {"mem peak", left, [](const ComparedPair& p) { return memory_of(p.memory); }, false},
       {"perplexity", left, [](const ComparedPair& p) { return perplexity_of(p.perplexity); }, false},
       {"KL mean", left, [](const ComparedPair& p) { return kl_of(p.kl); }, false},
       {"J/token", left, joules_of, false}});
  return columns;
}

// How pages are made.
struct Style {
  bool gate = false;
  bool markdown = false;
  bool only_bad = false;  // without the cells that are fine
};

Grid grid_of(const RecordsCompared& c, const Style& style) {
  std::vector<Column> columns = columns_of(c, style.gate);
  std::erase_if(columns, [&](const Column& column) {
    return !column.always &&
           std::all_of(c.pairs.begin(), c.pairs.end(), [&](const ComparedPair& p) { return column.of(p) == kNothing; });
  });
  std::vector<std::string> headings;
  std::vector<Grid::Align> align;
  for (const Column& column : columns) {
    headings.push_back(column.heading);
    align.push_back(column.align);
  }
  Grid grid(headings, align);
  for (const ComparedPair& pair : c.pairs) {
    if (style.only_bad && pair.outcome == Outcome::fine) continue;
    std::vector<std::string> row;
    for (const Column& column : columns) row.push_back(style.markdown ? escaped(column.of(pair)) : column.of(pair));
    grid.add(row);
  }
  return grid;
}

std::string cells(size_t count) { return fmt::format("{} cell{}", count, count == 1 ? "" : "s"); }
std::string percent(double share) { return fmt::format("{:g} %", 100 * share); }

std::string speeds_summary(const RecordsCompared& c) {
  const int outside = c.count_outside();
  return fmt::format(
      "by speed: {} faster, {} slower, {} the same within {}{}, {} ambiguous ({} / {} is how many times as fast {} is)",
      c.count(Difference::faster), c.count(Difference::slower), c.count(Difference::same), percent(c.options.threshold),
      outside > 0 ? fmt::format(" ({} flagged: see the notes)", outside) : "", c.count(Difference::ambiguous),
      c.options.name_b, c.options.name_a, c.options.name_b);
}

std::vector<Section> sections_of(const RecordsCompared& c, const Style& style) {
  std::vector<Section> sections;
  const auto add = [&](const std::string& title, std::vector<std::string> lines) {
    if (!lines.empty()) sections.push_back({title, std::move(lines)});
  };
  std::vector<std::string> lines;
  if (style.gate) {
    for (const ComparedPair& pair : c.pairs) {
      if (pair.outcome == Outcome::fine) continue;
      std::string reasons;
      for (const std::string& reason : pair.reasons) reasons += (reasons.empty() ? "" : "; ") + reason;
      lines.push_back(fmt::format("{}: {}: {}", pair.a.label(), name_of(pair.outcome), reasons));
    }
    add("why", lines);
  }
  lines.clear();
  for (const Unmatched& u : c.refused) lines.push_back(u.cell + ": " + u.reason);
  add("not compared", lines);
  add("only in " + c.options.name_a, c.only_a);
  add("only in " + c.options.name_b, c.only_b);
  add("left out of " + c.options.name_a, c.problems_a);
  add("left out of " + c.options.name_b, c.problems_b);
  add(fmt::format("{} against {}", c.options.name_a, c.options.name_b), c.circumstances);
  lines.clear();
  for (const ComparedPair& pair : c.pairs) {
    if (style.only_bad && pair.outcome == Outcome::fine) continue;
    for (const std::string& note : pair.notes) lines.push_back(pair.a.label() + ": " + note);
  }
  add("notes", lines);
  for (Section& section : sections) {
    for (std::string& line : section.lines) line = one_line(line);
  }
  return sections;
}

size_t count(const RecordsCompared& c, Outcome outcome) {
  return static_cast<size_t>(
      std::count_if(c.pairs.begin(), c.pairs.end(), [&](const ComparedPair& p) { return p.outcome == outcome; }));
}

// Why a gate is not fine though its cells may be.
std::string beyond_cells(const RecordsCompared& c) {
  std::string text;
  const auto add = [&](size_t n, const std::string& what) {
    if (n > 0) text += fmt::format("; {} {}", cells(n), what);
  };
  add(c.refused.size(), "refused");
  add(c.only_a.size(), fmt::format("of {} missing in {}", c.options.name_a, c.options.name_b));
  const size_t files = c.problems_a.size() + c.problems_b.size();
  if (files > 0) text += fmt::format("; {} file{} left out", files, files == 1 ? "" : "s");
  return text;
}

Pages pages_of(const RecordsCompared& c, const Style& style) {
  Pages pages;
  if (style.gate) {
    pages.title = fmt::format("quantbench gate: {}", name_of(c.outcome));
    pages.summary = fmt::format("of {}: {} fine, {} ambiguous, {} not comparable, {} with a regression{}\n",
                                cells(c.pairs.size()), count(c, Outcome::fine), count(c, Outcome::ambiguous),
                                count(c, Outcome::not_comparable), count(c, Outcome::regression), beyond_cells(c));
  }
  if (!c.pairs.empty()) {
    pages.grid = grid_of(c, style);
    pages.summary += speeds_summary(c) + "\n";
  }
  pages.sections = sections_of(c, style);
  return pages;
}

std::string text_of(const Pages& pages) {
  std::string out;
  if (pages.grid) out += pages.grid->text() + "\n";
  out += pages.summary;
  for (const Section& section : pages.sections) {
    out += "\n" + section.title + ":\n";
    for (const std::string& line : section.lines) out += "  " + line + "\n";
  }
  if (!pages.title.empty()) out += "\n" + pages.title + "\n";
  return out;
}

std::string markdown_of(const Pages& pages) {
  std::string out = pages.title.empty() ? "" : "### " + pages.title + "\n\n";
  for (size_t at = 0; at < pages.summary.size();) {
    const size_t end = pages.summary.find('\n', at);
    out += escaped(pages.summary.substr(at, end - at)) + "\n\n";
    at = end + 1;
  }
  if (pages.grid) out += pages.grid->markdown() + "\n";
  for (const Section& section : pages.sections) {
    out += "**" + escaped(section.title) + "**\n\n";
    for (const std::string& line : section.lines) out += "- " + escaped(line) + "\n";
    out += "\n";
  }
  return out;
}

Record json_of(const std::optional<SpeedChange>& s) {
  if (!s) return nullptr;
  return {{"metric", s->metric},
          {"unit", quantbench::name_of(s->unit)},
          {"a", s->a},
          {"b", s->b},
          {"ratio", s->ratio},
          {"low", or_null(s->low)},
          {"high", or_null(s->high)},
          {"adjusted_p", s->adjusted_p},
          {"median_outside_interval", s->outside},
          {"verdict", quantbench::name_of(s->difference)}};
}

Record json_of(const std::optional<FigureChange>& f, bool has_verdict = true) {
  if (!f) return nullptr;
  Record j{{"a", f->a}, {"b", f->b}, {"change", f->change}, {"low", or_null(f->low)}, {"high", or_null(f->high)}};
  if (has_verdict) j["verdict"] = name_of(f->effect, "better", "worse");
  return j;
}

Record side_of(const ComparedCell& c) {
  return {{"file", c.path},
          {"device", c.view.device},
          {"engine", c.view.engine},
          {"tuning", c.view.tuning},
          {"commit", c.commit},
          {"started_utc", c.started_utc},
          {"stamp", quantbench::name_of(c.view.stamp.kind)}};
}

Record json_of(const RecordsCompared& c, bool gate) {
  Record cell_list = Record::array(), refused = Record::array();
  for (const ComparedPair& p : c.pairs) {
    const RecordView& v = p.a.view;
    Record cell{{"model", v.shown_model()},
                {"precision", v.precision},
                {"precision_long", v.precision_long},
                {"test", v.test},
                {"kind", v.kind},
                {"prompt_tokens", v.prompt_tokens},
                {"new_tokens", v.new_tokens},
                {"depth", v.depth},
                {"batch", v.batch},
                {"a", side_of(p.a)},
                {"b", side_of(p.b)},
                {"speed", json_of(p.speed)},
                {"time_to_first_token", json_of(p.first_token)},
                {"memory_peak", json_of(p.memory)},
                {"perplexity", json_of(p.perplexity)},
                {"kl_mean", json_of(p.kl)},
                {"joules_per_token", json_of(p.joules, false)},
                {"notes", p.notes}};
    if (gate) {
      cell["outcome"] = name_of(p.outcome);
      cell["reasons"] = p.reasons;
    }
    cell_list.push_back(cell);
  }
  for (const Unmatched& u : c.refused) refused.push_back({{"cell", u.cell}, {"reason", u.reason}});
  Record j{{"schema", "quantbench.comparison"},
           {"schema_version", 1},
           {"thresholds",
            {{"speed", c.options.threshold},
             {"time_to_first_token", c.options.of_first_token()},
             {"memory", c.options.memory_threshold},
             {"perplexity", c.options.quality_threshold},
             {"kl_nats", c.options.kl_threshold}}},
           {"cells", cell_list},
           {"refused", refused},
           {"only_in_a", c.only_a},
           {"only_in_b", c.only_b},
           {"left_out_of_a", c.problems_a},
           {"left_out_of_b", c.problems_b},
           {"circumstances", c.circumstances}};
  if (gate) {
    j["outcome"] = name_of(c.outcome);
    j["exit_code"] = exit_code(c.outcome);
  }
  return j;
}

std::string number(double x) { return fmt::format("{}", x); }
std::string number(const std::optional<double>& x) { return x ? number(*x) : ""; }

// A line a cell, those that were not compared too, with the reason in the last column.
std::string csv_of(const RecordsCompared& c, bool gate) {
  std::vector<std::string> heading{"model",    "precision", "test",    "device_a", "device_b",
                                   "engine_a", "engine_b",  "stamp_a", "stamp_b"};
  for (const std::string name : {"speed", "time_to_first_token"}) {
    for (const char* part : {"_a", "_b", "_ratio", "_low", "_high", "_adjusted_p", "_verdict"}) {
      heading.push_back(name + part);
    }
  }
  for (const std::string name : {"memory_peak", "perplexity", "kl_mean", "joules_per_token"}) {
    for (const char* part : {"_a", "_b", "_change", "_low", "_high", "_verdict"}) heading.push_back(name + part);
  }
  heading.insert(heading.end(), {"status", "reason"});
  std::string out = csv_line(heading);
  for (const ComparedPair& p : c.pairs) {
    std::vector<std::string> row{p.a.view.shown_model(),
                                 p.a.view.precision,
                                 p.a.view.test,
                                 p.a.view.device,
                                 p.b.view.device,
                                 p.a.view.engine,
                                 p.b.view.engine,
                                 std::string(quantbench::name_of(p.a.view.stamp.kind)),
                                 std::string(quantbench::name_of(p.b.view.stamp.kind))};
    for (const std::optional<SpeedChange>* s : {&p.speed, &p.first_token}) {
      if (!*s) {
        row.resize(row.size() + 7);
        continue;
      }
      row.insert(row.end(),
                 {number((*s)->a), number((*s)->b), number((*s)->ratio), number((*s)->low), number((*s)->high),
                  number((*s)->adjusted_p), std::string(quantbench::name_of((*s)->difference))});
    }
    for (const std::optional<FigureChange>* f : {&p.memory, &p.perplexity, &p.kl, &p.joules}) {
      if (!*f) {
        row.resize(row.size() + 6);
        continue;
      }
      row.insert(row.end(),
                 {number((*f)->a), number((*f)->b), number((*f)->change), number((*f)->low), number((*f)->high),
                  f == &p.joules ? "" : std::string(name_of((*f)->effect, "better", "worse"))});
    }
    std::string reasons;
    for (const std::string& reason : gate ? p.reasons : p.notes) reasons += (reasons.empty() ? "" : "; ") + reason;
    row.insert(row.end(), {gate ? std::string(name_of(p.outcome)) : "compared", reasons});
    out += csv_line(row);
  }
  const auto add_left = [&](const std::string& cell, const std::string& status, const std::string& reason) {
    std::vector<std::string> row(heading.size());
    row.front() = cell;
    row[heading.size() - 2] = status;
    row.back() = reason;
    out += csv_line(row);
  };
  for (const Unmatched& u : c.refused) add_left(u.cell, "not compared", u.reason);
  for (const std::string& cell : c.only_a) add_left(cell, "only in " + c.options.name_a, "");
  for (const std::string& cell : c.only_b) add_left(cell, "only in " + c.options.name_b, "");
  return out;
}

}  // namespace

std::string comparison_text(const RecordsCompared& c) { return text_of(pages_of(c, {})); }
std::string comparison_markdown(const RecordsCompared& c) { return markdown_of(pages_of(c, {.markdown = true})); }
std::string comparison_csv(const RecordsCompared& c) { return csv_of(c, false); }
Record comparison_json(const RecordsCompared& c) { return json_of(c, false); }

std::string gate_text(const RecordsCompared& c) { return text_of(pages_of(c, {.gate = true})); }
std::string gate_csv(const RecordsCompared& c) { return csv_of(c, true); }
Record gate_json(const RecordsCompared& c) { return json_of(c, true); }

std::string gate_markdown(const RecordsCompared& c, size_t limit) {
  std::string whole = markdown_of(pages_of(c, {.gate = true, .markdown = true}));
  if (whole.size() <= limit) return whole;
  std::string shorter = markdown_of(pages_of(c, {.gate = true, .markdown = true, .only_bad = true})) +
                        "Cells that are fine were left out: they are too many.\n\n";
  if (shorter.size() <= limit) return shorter;
  return fmt::format("### quantbench gate: {}\n\n{}: too many for this page; see what the program printed.\n\n",
                     name_of(c.outcome), cells(c.pairs.size()));
}

}  // namespace quantbench
