#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "report/format.h"
#include "report/report.h"

namespace quantbench {
namespace {

constexpr const char* kNothing = "n/a";

std::string with_interval(const Summary* s) {
  if (!s) return kNothing;
  if (!s->low || !s->high) return format_rate(s->median);
  return fmt::format("{} ± {}", format_rate(s->median), format_rate((*s->high - *s->low) / 2));
}

std::string of(const RecordView& v, std::string_view metric, std::string (*format)(double)) {
  const Summary* s = v.find(metric);
  return s ? format(s->median) : kNothing;
}

std::string read_share(const RecordView& v) {
  if (v.in_cache) return "in cache";
  const Summary* s = v.find(kReadShare);
  if (!s) return kNothing;
  return fmt::format("{:.1f} %", 100 * s->median);
}

// Three digits, since they go from microjoules of small models to joules; a figure that was estimated says so.
std::string joules_per_token(const RecordView& v) {
  const Summary* s = v.find(kJoulesPerToken);
  if (!s) return "n/a";
  return fmt::format("{}{:.3g}", v.energy_estimated ? "≈ " : "", s->median);
}

// Devices and engines, where not all cells ran on the same: else rows need no more words than model, precision and
// test.
class Places {
 public:
  explicit Places(std::span<const RecordView> views) {
    std::set<std::string> devices, engines;
    for (const RecordView& v : views) {
      if (!v.device.empty()) devices.insert(v.device);
      if (is_one_of_several(v.engine) || v.engine == "native") engines.insert(v.engine);
    }
    devices_ = devices.size() > 1;
    engines_ = engines.size() > 1;
  }
  std::vector<std::string> headings() const { return chosen("device", "engine"); }
  std::vector<std::string> of(const RecordView& v) const { return chosen(one_line(v.device), one_line(v.engine)); }

 private:
  std::vector<std::string> chosen(const std::string& device, const std::string& engine) const {
    std::vector<std::string> places;
    if (devices_) places.push_back(device);
    if (engines_) places.push_back(engine);
    return places;
  }
  bool devices_, engines_;
};

Grid grid(std::span<const RecordView> views) {
  using enum Grid::Align;
  const Places places(views);
  const auto with_places = [](auto before, const auto& between, const auto& after) {
    before.insert(before.end(), between.begin(), between.end());
    before.insert(before.end(), after.begin(), after.end());
    return before;
  };
  using Row = std::vector<std::string>;
  // As the host sees them, where it was asked to look.
  const bool host_tokens = std::any_of(views.begin(), views.end(), [](const RecordView& v) { return v.host_tokens; });
  const auto between_tokens = [&](const std::string& device, const std::string& host) {
    return host_tokens ? Row{device, host} : Row{device};
  };
  const auto behind_tokens = [](Row first, const Row& between, const Row& after) {
    first.insert(first.end(), between.begin(), between.end());
    first.insert(first.end(), after.begin(), after.end());
    return first;
  };
  std::vector<Grid::Align> align(host_tokens ? 7 : 6, right);
  align.push_back(left);
  const Row headings = places.headings();
  Grid g(with_places(Row{"model", "precision", "size", "test"}, headings,
                     behind_tokens({"t/s", "TTFT"}, between_tokens("inter-token p50", "host p50"),
                                   {"mem peak", "% read peak", "J/token", "stamp"})),
         with_places(std::vector{left, left, right, left}, std::vector(headings.size(), left), align));
  for (const RecordView& v : views) {
    g.add(with_places(
        Row{one_line(v.shown_model()), v.shown_precision(), of(v, "weight_bytes", format_bytes), v.test}, places.of(v),
        behind_tokens({with_interval(v.find(headline_metric(v))), of(v, "time_to_first_token", format_ns)},
                      between_tokens(of(v, "inter_token_median", format_ns), of(v, kInterTokenHostMedian, format_ns)),
                      {of(v, "memory_peak", format_bytes), read_share(v), joules_per_token(v),
                       v.status == "ok" ? std::string(name_of(v.stamp.kind)) : v.status})));
  }
  return g;
}

}  // namespace

std::string_view headline_metric(const RecordView& view) {
  return view.kind == "prefill" ? "prefill_tokens_per_second" : "tokens_per_second";
}

std::string table_text(std::span<const RecordView> views) { return grid(views).text(); }
std::string table_markdown(std::span<const RecordView> views) { return grid(views).markdown(); }

namespace {

std::string cell_name(const RecordView& v, const Places& places) {
  std::string cell = fmt::format("{} {} {}", one_line(v.shown_model()), v.shown_precision(), v.test);
  for (const std::string& place : places.of(v)) cell += " " + place;
  return cell;
}

// "+1.2 MiB"
std::string signed_bytes(int64_t bytes) {
  return fmt::format("{}{}", bytes < 0 ? "" : "+", format_bytes(static_cast<double>(bytes)));
}

std::string of_driver(const std::optional<int64_t>& bytes, int64_t accounted) {
  if (!bytes) return "n/a";
  return fmt::format("{} ({})", format_bytes(static_cast<double>(*bytes)), signed_bytes(*bytes - accounted));
}

}  // namespace

std::vector<std::string> picture_notes(std::span<const RecordView> views) {
  const Places places(views);
  std::vector<std::string> lines;
  for (const RecordView& v : views) {
    if (!v.picture) continue;
    const PictureView& p = *v.picture;
    lines.push_back(fmt::format(
        "{}: picture: {} to decode ({} × {} pixels), {} to resize (to {} × {}); before the runs, no part of them",
        cell_name(v, places), format_ns(p.decode_ns), p.width, p.height, format_ns(p.resize_ns), p.size, p.size));
  }
  return lines;
}

std::vector<std::string> memory_notes(std::span<const RecordView> views) {
  const Places places(views);
  std::vector<std::string> lines;
  for (const RecordView& v : views) {
    for (const MemoryView& m : v.memory) {
      std::string line = fmt::format("{}: memory at the end: {} by use, {} by {} ({})", cell_name(v, places),
                                     format_bytes(static_cast<double>(m.accounted_bytes)),
                                     format_bytes(static_cast<double>(m.end_bytes)), m.counted_by,
                                     signed_bytes(m.end_bytes - m.accounted_bytes));
      if (m.on_gpu) {
        line += fmt::format("; the driver counts {} of the process, {} of all on the device; of that {} are not free",
                            of_driver(m.driver_process_bytes, m.accounted_bytes),
                            of_driver(m.driver_device_bytes, m.accounted_bytes),
                            of_driver(m.taken_bytes, m.accounted_bytes));
      }
      lines.push_back(std::move(line));
    }
  }
  return lines;
}

std::vector<std::string> notes(std::span<const RecordView> views) {
  const Places places(views);
  std::vector<std::string> lines;
  for (const RecordView& v : views) {
    const std::string cell = cell_name(v, places);
    if (v.status != "ok") {
      lines.push_back(fmt::format("{}: {}: {}", cell, v.status, one_line(v.error)));
      continue;
    }
    const std::vector<std::string>& flags = v.stamp.flags;
    for (const std::string& reason : v.stamp.reasons) {
      const bool only_flags = std::find(flags.begin(), flags.end(), reason) != flags.end();
      lines.push_back(fmt::format("{}: {}: {}", cell, name_of(only_flags ? StampKind::flagged : v.stamp.kind), reason));
    }
    if (v.best_and_known_read) {
      const auto& [best, known] = *v.best_and_known_read;
      lines.push_back(
          fmt::format("{}: no share of the read peak: beside it memory was read at {}/s at the most, and this card is "
                      "known for {}/s",
                      cell, format_decimal(best), format_decimal(known)));
    }
  }
  return lines;
}

namespace {

// What a cell's first sequence said: its text, else its first ids.
std::string response(const RecordView& v) {
  if (v.response_text) return printable(*v.response_text);
  constexpr size_t kShown = 8;
  const size_t count = v.response_ids.size() / static_cast<size_t>(v.batch);
  std::string ids;
  for (size_t i = 0; i < count && i < kShown; ++i) ids += fmt::format(" {}", v.response_ids[i]);
  return fmt::format("no tokenizer; ids{}{}", ids, count > kShown ? " …" : "");
}

// A line of backticks that ends no sooner than the text does.
std::string fence_for(const std::string& text) {
  size_t longest = 2, run = 0;
  for (const char c : text) {
    run = c == '`' ? run + 1 : 0;
    longest = std::max(longest, run);
  }
  return std::string(longest + 1, '`');
}

template <typename Format>
std::string each_response(std::span<const RecordView> views, Format format) {
  std::string out;
  for (const RecordView& v : views) {
    if (v.kind != "generation" || v.response_ids.empty() || !v.half.empty()) continue;
    const std::string test = v.depth > 0 || v.batch > 1 ? fmt::format(" {}", v.test) : "";
    out += fmt::format("{} {}{}:\n", one_line(v.shown_model()), v.precision, test) + format(response(v));
  }
  return out;
}

}  // namespace

std::string responses_text(std::span<const RecordView> views) {
  return each_response(views, [](const std::string& text) { return text + "\n\n"; });
}

std::string responses_markdown(std::span<const RecordView> views) {
  return each_response(views, [](const std::string& text) {
    const std::string fence = fence_for(text);
    return fmt::format("\n{}text\n{}\n{}\n\n", fence, text, fence);
  });
}

}  // namespace quantbench
