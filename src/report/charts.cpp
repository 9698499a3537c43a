#include "report/charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numeric>

#include "report/format.h"
#include "report/record_json.h"
#include "report/report.h"

namespace quantbench {
namespace {

constexpr size_t kMostBars = 40, kMostLines = 8;
constexpr double kWidth = 900, kLeft = 330, kRight = 190, kTop = 62, kRow = 22, kAxis = 46;
constexpr double kPlotLeft = 90, kPlotHeight = 340;
constexpr size_t kMostSteps = 256;
// The page's, on white (page.css).
constexpr std::array kColours{"#0072b2", "#b34700", "#00795a", "#9a3c86", "#6b6300",
                              "#3f4fb5", "#a3243b", "#4d5660", "#97803f"};
constexpr std::array kDashes{"", "7 3", "2 3", "9 3 2 3", "4 2", "1 2", "12 4", "6 2 2 2"};
constexpr std::array kLedgerParts{"process",     "weights",   "scales", "unquantized", "kv_cache",
                                  "activations", "workspace", "tables", "other"};
using Format = std::string (*)(double);

std::string format_share(double share) { return fmt::format("{:.1f} %", 100 * share); }
std::string format_plain(double value) { return fmt::format("{:.4g}", value); }

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : one_line(text)) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else
      out += c;
  }
  return out;
}

std::string shortened(const std::string& text, size_t most) {
  size_t end = 0, count = 0;  // in characters, not bytes
  while (end < text.size() && count < most) {
    ++end, ++count;
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
  }
  return end == text.size() ? text : text.substr(0, end) + "…";
}

class Svg {
 public:
  Svg(double height, const std::string& title, const std::string& note) {
    out_ = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:g}\" height=\"{1:g}\" viewBox=\"0 0 {0:g} {1:g}\" "
        "font-family=\"sans-serif\" font-size=\"12\" fill=\"#1b1d21\">\n<title>{2}</title>\n"
        "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        kWidth, height, escaped(title));
    text(10, 20, title, "start", "font-size=\"15\" font-weight=\"bold\"");
    if (!note.empty()) text(10, height - 8, note, "start", "font-size=\"10\" fill=\"#5b6068\"");
  }
  void text(double x, double y, const std::string& what, const char* anchor = "start", const std::string& more = "") {
    out_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" {}>{}</text>\n", x, y, anchor, more,
                        escaped(what));
  }
  void rect(double x, double y, double width, double height, const char* colour) {
    out_ += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\"/>\n", x, y,
                        std::max(width, 0.0), height, colour);
  }
  void path(const std::string& d, const std::string& more) { out_ += fmt::format("<path d=\"{}\" {}/>\n", d, more); }
  void line(double x1, double y1, double x2, double y2, const char* colour, double width = 1.3) {
    path(fmt::format("M{:.1f},{:.1f}L{:.1f},{:.1f}", x1, y1, x2, y2),
         fmt::format("stroke=\"{}\" stroke-width=\"{:g}\"", colour, width));
  }
  std::string finish() { return out_ + "</svg>\n"; }

 private:
  std::string out_;
};

// From values to places in the picture.
struct Scale {
  double low, high, from, to;
  double operator()(double value) const { return from + (value - low) / (high - low) * (to - from); }
};

Scale scale_of(double low, double high, double from, double to) {
  if (!(high > low)) high = low + std::max(std::fabs(low) * 0.1, 1e-9);
  return {low, high, from, to};
}

// Round numbers; of bytes whole powers of two.
std::vector<double> ticks(const Scale& scale, Format format, int about) {
  const double least = (scale.high - scale.low) / about;
  double step = std::pow(10, std::floor(std::log10(least)));
  if (format == static_cast<Format>(format_bytes))
    step = std::exp2(std::ceil(std::log2(least)));
  else
    step *= least > 5 * step ? 10 : least > 2 * step ? 5 : least > step ? 2 : 1;
  std::vector<double> at;
  double x = std::ceil(scale.low / step) * step;
  while (x <= scale.high * (1 + 1e-12) + step * 1e-9) {
    at.push_back(x);
    x += step;
  }
  return at;
}

void bottom_axis(Svg* svg, const Scale& x, double y, double top, Format format, const std::string& label) {
  for (const double t : ticks(x, format, 6)) {
    svg->line(x(t), top, x(t), y, "#d4d7dc", 0.7);
    svg->text(x(t), y + 15, t == 0 ? "0" : format(t), "middle");
  }
  svg->line(x.from, y, x.to, y, "#5b6068");
  svg->text((x.from + x.to) / 2, y + 31, label, "middle");
}

void left_axis(Svg* svg, const Scale& y, double right, Format format, const std::string& label) {
  for (const double t : ticks(y, format, 5)) {
    svg->line(kPlotLeft, y(t), right, y(t), "#d4d7dc", 0.7);
    svg->text(kPlotLeft - 6, y(t) + 4, t == 0 ? "0" : format(t), "end");
  }
  svg->line(kPlotLeft, y.from, kPlotLeft, y.to, "#5b6068");
  const double middle = (y.from + y.to) / 2;
  svg->text(14, middle, label, "middle", fmt::format("transform=\"rotate(-90 14 {:.1f})\"", middle));
}

// All cells of a chart: how they are called and coloured.
class Drawing {
 public:
  explicit Drawing(std::span<const ChartCell> cells) {
    for (const ChartCell& c : cells) {
      if (c.view.status == "ok" && c.view.stamp.kind != StampKind::invalid) usable_.push_back(&c);
    }
    const auto differ = [&](std::string (*of)(const RecordView&)) {
      return std::any_of(usable_.begin(), usable_.end(),
                         [&](const ChartCell* c) { return of(c->view) != of(usable_.front()->view); });
    };
    devices_ = differ([](const RecordView& v) { return v.device; });
    engines_ = differ([](const RecordView& v) { return v.engine; });
    for (const ChartCell* c : usable_) {
      if (std::find(precisions_.begin(), precisions_.end(), c->view.precision) == precisions_.end())
        precisions_.push_back(c->view.precision);
    }
  }

  // Those that have the figure, at most so many.
  template <typename Has>
  std::vector<const ChartCell*> having(size_t most, size_t* all, const Has& has) const {
    std::vector<const ChartCell*> cells;
    for (const ChartCell* c : usable_) {
      if (has(*c)) cells.push_back(c);
    }
    *all = cells.size();
    if (cells.size() > most) cells.resize(most);
    return cells;
  }
  std::string name(const RecordView& v, bool with_precision = true) const {
    std::string text = v.shown_model();
    if (const size_t slash = text.find('/'); slash != text.npos) text = text.substr(slash + 1);
    if (with_precision) text += " · " + v.shown_precision();
    text += " · " + v.test;
    if (devices_ && !v.device.empty()) text += " · " + v.device;
    if (engines_ && !v.engine.empty()) text += " · " + v.engine;
    return text;
  }
  size_t colour_number(const RecordView& v) const {
    return static_cast<size_t>(std::find(precisions_.begin(), precisions_.end(), v.precision) - precisions_.begin());
  }
  const char* colour(const RecordView& v) const { return kColours[colour_number(v) % kColours.size()]; }

  // What stands below: where it was measured, what a star means, how many are not drawn.
  std::string note(const std::vector<const ChartCell*>& drawn, size_t all, bool has_intervals) const {
    std::string text = drawn.front()->view.device;
    if (devices_) text.clear();
    const auto add = [&](const std::string& more) { text += (text.empty() ? "" : ". ") + more; };
    if (has_intervals) add("Medians with their 95 % intervals");
    if (std::any_of(drawn.begin(), drawn.end(),
                    [](const ChartCell* c) { return c->view.stamp.kind == StampKind::flagged; }))
      add("* FLAGGED: the record says why");
    if (all > drawn.size()) add(fmt::format("The first {} of {} cells", drawn.size(), all));
    return text;
  }
  void legend(Svg* svg, const std::vector<std::string>& names, const std::function<std::string(size_t)>& mark) const {
    double x = 10;
    for (size_t i = 0; i < names.size(); ++i) {
      svg->path(fmt::format("M{:.1f},38h22", x), mark(i));
      svg->text(x + 27, 42, names[i]);
      x += 40 + 7.0 * static_cast<double>(names[i].size());
    }
  }
  void legend_of_precisions(Svg* svg) const {
    legend(svg, precisions_,
           [](size_t i) { return fmt::format("stroke=\"{}\" stroke-width=\"11\"", kColours[i % kColours.size()]); });
  }

 private:
  std::vector<const ChartCell*> usable_;
  std::vector<std::string> precisions_;
  bool devices_ = false, engines_ = false;
};

std::string star(const RecordView& v) { return v.stamp.kind == StampKind::flagged ? " *" : ""; }

std::string with_interval(const Summary& s, Format format) {
  return s.low && s.high ? fmt::format("{} [{}, {}]", format(s.median), format(*s.low), format(*s.high))
                         : format(s.median);
}

using Figure = const Summary* (*)(const RecordView&);

std::string bars(const Drawing& drawing, const std::string& title, Figure figure, Format format,
                 const std::string& label) {
  size_t all = 0;
  const auto cells = drawing.having(kMostBars, &all, [&](const ChartCell& c) { return figure(c.view) != nullptr; });
  if (cells.empty()) return "";
  double most = 0;
  for (const ChartCell* c : cells) most = std::max({most, figure(c->view)->median, figure(c->view)->high.value_or(0)});
  const double bottom = kTop + kRow * static_cast<double>(cells.size());
  Svg svg(bottom + kAxis + 20, title, drawing.note(cells, all, figure(cells.front()->view)->low.has_value()));
  drawing.legend_of_precisions(&svg);
  const Scale x = scale_of(0, most * 1.02, kLeft, kWidth - kRight);
  bottom_axis(&svg, x, bottom, kTop, format, label);
  for (size_t i = 0; i < cells.size(); ++i) {
    const RecordView& v = cells[i]->view;
    const Summary& s = *figure(v);
    const double y = kTop + kRow * (static_cast<double>(i) + 0.5);
    svg.text(kLeft - 8, y + 4, shortened(drawing.name(v), 50), "end");
    svg.rect(kLeft, y - 8, x(s.median) - kLeft, 16, drawing.colour(v));
    if (s.low && s.high) {
      svg.path(
          fmt::format("M{0:.1f},{2:.1f}v8M{0:.1f},{3:.1f}H{1:.1f}M{1:.1f},{2:.1f}v8", x(*s.low), x(*s.high), y - 4, y),
          "fill=\"none\" stroke=\"#1b1d21\" stroke-width=\"1.3\"");
    }
    svg.text(kWidth - kRight + 10, y + 4, with_interval(s, format) + star(v), "start", "font-size=\"11\"");
  }
  return svg.finish();
}

std::string stacked(const Drawing& drawing) {
  size_t all = 0;
  const auto cells = drawing.having(kMostBars, &all, [](const ChartCell& c) { return !c.ledger.empty(); });
  if (cells.empty()) return "";
  const auto positive = [](const ChartCell& c) {
    return std::accumulate(c.ledger.begin(), c.ledger.end(), 0.0,
                           [](double sum, double x) { return sum + std::max(x, 0.0); });
  };
  double most = 0;
  for (const ChartCell* c : cells) most = std::max(most, positive(*c));
  const double bottom = kTop + kRow * static_cast<double>(cells.size());
  Svg svg(bottom + kAxis + 20, "Memory at the end, by use", drawing.note(cells, all, false));
  drawing.legend(&svg, {kLedgerParts.begin(), kLedgerParts.end()},
                 [](size_t i) { return fmt::format("stroke=\"{}\" stroke-width=\"11\"", kColours[i]); });
  const Scale x = scale_of(0, most * 1.02, kLeft, kWidth - kRight);
  bottom_axis(&svg, x, bottom, kTop, format_bytes, "memory of the cell's process, on all its devices");
  for (size_t i = 0; i < cells.size(); ++i) {
    const double y = kTop + kRow * (static_cast<double>(i) + 0.5);
    svg.text(kLeft - 8, y + 4, shortened(drawing.name(cells[i]->view), 50), "end");
    double from = 0;
    for (size_t part = 0; part < kLedgerParts.size(); ++part) {
      const double bytes = cells[i]->ledger[part];
      if (bytes <= 0) continue;
      svg.rect(x(from), y - 8, x(from + bytes) - x(from), 16, kColours[part]);
      from += bytes;
    }
    const double sum = std::accumulate(cells[i]->ledger.begin(), cells[i]->ledger.end(), 0.0);
    svg.text(kWidth - kRight + 10, y + 4, format_bytes(sum) + star(cells[i]->view), "start", "font-size=\"11\"");
  }
  return svg.finish();
}

std::string lines(const Drawing& drawing) {
  size_t all = 0;
  const auto cells = drawing.having(kMostLines, &all, [](const ChartCell& c) { return c.steps.size() > 1; });
  if (cells.empty()) return "";
  double low = INFINITY, high = 0, last = 1;
  for (const ChartCell* c : cells) {
    for (const StepBand& b : c->steps) {
      low = std::min(low, b.low);
      high = std::max(high, b.high);
      last = std::max(last, b.step + 1);
    }
  }
  const double top = 34 + 18 * static_cast<double>(cells.size()), bottom = top + kPlotHeight, pad = 0.05 * (high - low);
  Svg svg(bottom + kAxis + 20, "Inter-token latency over the run",
          drawing.note(cells, all, false) +
              ". Median over runs of each step; the bands go from the 10th to the 90th percentile");
  const Scale x = scale_of(1, last, kPlotLeft, kWidth - 30),
              y = scale_of(std::max(0.0, low - pad), high + pad, bottom, top);
  bottom_axis(&svg, x, bottom, top, format_plain, "decode step of the run");
  left_axis(&svg, y, kWidth - 30, format_ns, "time of a step");
  for (size_t i = 0; i < cells.size(); ++i) {
    std::string middle, band, back;
    for (const StepBand& b : cells[i]->steps) {
      const char first = middle.empty() ? 'M' : 'L';
      middle += fmt::format("{}{:.1f},{:.1f}", first, x(b.step + 1), y(b.middle));
      band += fmt::format("{}{:.1f},{:.1f}", first, x(b.step + 1), y(b.high));
      back = fmt::format("L{:.1f},{:.1f}", x(b.step + 1), y(b.low)) + back;
    }
    const std::string stroke = fmt::format("fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\" stroke-dasharray=\"{}\"",
                                           kColours[i], kDashes[i]);
    svg.path(band + back + "Z", fmt::format("fill=\"{}\" fill-opacity=\"0.15\"", kColours[i]));
    svg.path(middle, stroke);
    const double at = 38 + 18 * static_cast<double>(i);
    svg.path(fmt::format("M10,{:.1f}h30", at - 4), stroke);
    svg.text(46, at, drawing.name(cells[i]->view) + star(cells[i]->view));
  }
  return svg.finish();
}

// A mark that can be told without its colour.
std::string mark_at(size_t number, double x, double y) {
  constexpr std::array kMarks{
      "m-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0", "m-5,-5h10v10h-10z", "m0,-6l6,10h-12z", "m0,-7l6,7l-6,7l-6,-7z",
      "m-6,-2h4v-4h4v4h4v4h-4v4h-4v-4h-4z",   "m0,6l6,-10h-12z"};
  return fmt::format("M{:.1f},{:.1f}{}", x, y, kMarks[number % kMarks.size()]);
}

using Quality = std::optional<Estimate> QualityView::*;

// Speed against quality; a dashed line joins the cells that no other beats in both.
std::string scatter(const Drawing& drawing, Quality quality, bool lower_is_better, Format format,
                    const std::string& label) {
  size_t all = 0;
  const auto speed = [](const ChartCell& c) { return c.view.find(headline_metric(c.view)); };
  const auto cells = drawing.having(kMostBars, &all, [&](const ChartCell& c) {
    return c.view.quality && c.view.quality->error.empty() && (*c.view.quality).*quality && speed(c);
  });
  if (cells.empty()) return "";
  const auto of = [&](const ChartCell* c) { return *((*c->view.quality).*quality); };
  double left = INFINITY, right = 0, low = INFINITY, high = -INFINITY;
  for (const ChartCell* c : cells) {
    const Summary& s = *speed(*c);
    left = std::min(left, s.low.value_or(s.median));
    right = std::max(right, s.high.value_or(s.median));
    low = std::min(low, of(c).low.value_or(of(c).value));
    high = std::max(high, of(c).high.value_or(of(c).value));
  }
  const double top = kTop, bottom = top + kPlotHeight;
  Svg svg(bottom + kAxis + 20, "Speed against quality",
          drawing.note(cells, all, true) + ". The dashed line joins the cells that no other beats in both");
  drawing.legend_of_precisions(&svg);
  const double pad_x = std::max(0.08 * (right - left), 0.01 * right),
               pad_y = std::max(0.08 * (high - low), 1e-6 * std::fabs(high));
  const Scale x = scale_of(std::max(0.0, left - pad_x), right + pad_x, kPlotLeft, kWidth - 170),
              y = scale_of(low - pad_y, high + pad_y, bottom, top);
  bottom_axis(&svg, x, bottom, top, format_rate, "tokens per second (right is faster)");
  left_axis(&svg, y, x.to, format, label);
  const auto as_good = [&](const ChartCell* a, const ChartCell* b) {
    const double difference = of(a).value - of(b).value;
    return speed(*a)->median >= speed(*b)->median && (lower_is_better ? difference <= 0 : difference >= 0);
  };
  std::vector<const ChartCell*> front;
  const auto beats = [&](const ChartCell* a, const ChartCell* b) {
    return !a->view.is_baseline() && as_good(a, b) && !as_good(b, a);
  };
  for (const ChartCell* c : cells) {
    if (!c->view.is_baseline() &&
        std::none_of(cells.begin(), cells.end(), [&](const ChartCell* other) { return beats(other, c); }))
      front.push_back(c);
  }
  std::sort(front.begin(), front.end(),
            [&](const ChartCell* a, const ChartCell* b) { return speed(*a)->median < speed(*b)->median; });
  std::string joined;
  for (const ChartCell* c : front)
    joined += fmt::format("{}{:.1f},{:.1f}", joined.empty() ? 'M' : 'L', x(speed(*c)->median), y(of(c).value));
  svg.path(joined, "fill=\"none\" stroke=\"#5b6068\" stroke-dasharray=\"4 3\"");
  constexpr double kLabelWidth = 160, kLabelHeight = 12;
  std::vector<std::pair<double, double>> labels;  // where they are
  for (const ChartCell* c : cells) {
    const Summary& s = *speed(*c);
    const Estimate e = of(c);
    const char* colour = drawing.colour(c->view);
    if (s.low && s.high) svg.line(x(*s.low), y(e.value), x(*s.high), y(e.value), colour);
    if (e.low && e.high) svg.line(x(s.median), y(*e.low), x(s.median), y(*e.high), colour);
    svg.path(mark_at(drawing.colour_number(c->view), x(s.median), y(e.value)), fmt::format("fill=\"{}\"", colour));
    // Marks may lie on one another; what they are called must not.
    std::pair<double, double> at{x(s.median) + 9, y(e.value) - 7};
    while (std::any_of(labels.begin(), labels.end(), [&](const auto& other) {
      return std::abs(other.first - at.first) < kLabelWidth && std::abs(other.second - at.second) < kLabelHeight;
    }))
      at.second += kLabelHeight;
    labels.push_back(at);
    svg.text(at.first, at.second,
             shortened(c->view.shown_precision() + " " + drawing.name(c->view, false), 34) + star(c->view), "start",
             "font-size=\"11\"");
  }
  return svg.finish();
}

}  // namespace

std::span<const char* const> ledger_parts() { return kLedgerParts; }

std::vector<StepBand> step_bands(const std::vector<std::vector<double>>& runs, size_t stretches) {
  size_t longest = 0;
  for (const auto& run : runs) longest = std::max(longest, run.size());
  const size_t points = std::min(longest, stretches);
  std::vector<StepBand> bands;
  for (size_t i = 0; i < points; ++i) {
    std::vector<double> values;
    const size_t begin = i * longest / points, end = (i + 1) * longest / points;
    for (const auto& run : runs) {
      for (size_t j = begin; j < std::min(end, run.size()); ++j) values.push_back(run[j]);
    }
    if (values.empty()) continue;
    std::sort(values.begin(), values.end());
    const auto quantile_of = [&](double q) {
      const double at = q * static_cast<double>(values.size() - 1);
      const auto below = static_cast<size_t>(at);
      return values[below] +
             (at - static_cast<double>(below)) * (values[std::min(below + 1, values.size() - 1)] - values[below]);
    };
    bands.push_back({static_cast<double>(begin), quantile_of(0.1), quantile_of(0.5), quantile_of(0.9)});
  }
  return bands;
}

ChartCell chart_cell(const Record& record, RecordView view) {
  ChartCell cell{std::move(view), {}, {}};
  std::vector<std::vector<double>> runs;
  if (record.contains("runs") && record["runs"].is_array()) {
    for (const Record& run : record["runs"]) runs.push_back(decode_steps_of(run));
  }
  cell.steps = step_bands(runs, kMostSteps);
  for (const Record& memory : record.at("memory")) {
    if (!memory.contains("end_ledger") || !memory["end_ledger"].is_object()) continue;
    cell.ledger.resize(kLedgerParts.size());
    for (size_t i = 0; i < kLedgerParts.size(); ++i)
      cell.ledger[i] += static_cast<double>(memory["end_ledger"].value(kLedgerParts[i], int64_t{0}));
  }
  return cell;
}

std::vector<Chart> charts(std::span<const ChartCell> cells) {
  const Drawing drawing(cells);
  std::vector<Chart> all{
      {"throughput", bars(
                         drawing, "Throughput", [](const RecordView& v) { return v.find(headline_metric(v)); },
                         format_rate, "tokens per second (more is better)")},
      {"latency",
       bars(
           drawing, "Latency of the whole generation", [](const RecordView& v) { return v.find("total_latency"); },
           format_ns, "total latency (less is better)")},
      {"first-token",
       bars(
           drawing, "Time to first token", [](const RecordView& v) { return v.find("time_to_first_token"); }, format_ns,
           "time to first token (less is better)")},
      {"inter-token", lines(drawing)},
      {"memory", bars(
                     drawing, "Peak memory", [](const RecordView& v) { return v.find("memory_peak"); }, format_bytes,
                     "peak memory (less is better)")},
      {"ledger", stacked(drawing)},
      {"read-share", bars(
                         drawing, "Share of the read peak",
                         [](const RecordView& v) { return v.in_cache ? nullptr : v.find(kReadShare); }, format_share,
                         "of the measured read rate")},
      {"speed-perplexity",
       scatter(drawing, &QualityView::perplexity, true, format_plain, "perplexity (lower is better)")},
      {"speed-divergence", scatter(drawing, &QualityView::kl_mean, true, format_plain,
                                   "divergence from the reference, nats (lower is better)")},
      {"speed-agreement", scatter(drawing, &QualityView::same_top, false, format_share,
                                  "top-1 agreement with the reference (higher is better)")}};
  std::erase_if(all, [](const Chart& chart) { return chart.svg.empty(); });
  return all;
}

}  // namespace quantbench
