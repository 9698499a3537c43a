#include "report/claims.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <set>

#include "bench/comparison.h"
#include "core/error.h"
#include "core/json.h"
#include "report/database.h"
#include "report/format.h"
#include "report/report.h"

namespace quantbench {
namespace {

constexpr size_t kFewestSamples = 6;  // of which a median has an interval of 95 %
// Peaks this close are the same, as in verdicts.
constexpr double kSameMemory = 0.01;

using nlohmann::json;

struct Class {
  std::string name;
  std::vector<std::string> names, others;  // parts of a name; starts of an architecture, or compute capabilities
};

struct Claim {
  std::string id, says, compare, metric, precision, over, device, device_class, family, on;
  std::vector<std::string> against;
  std::optional<double> above, below;
  bool across_tests = false;
};

struct Claims {
  std::vector<Class> families, device_classes;
  std::vector<Claim> claims;
};

// A member of the file; errors name the claim.
template <typename T>
T member(const json& from, const char* key, const std::string& where, std::optional<T> otherwise = std::nullopt) {
  if (!from.contains(key)) {
    if (otherwise) return *otherwise;
    fail(ErrorKind::usage, "{}: expected \"{}\", found none; see docs/claims.md", where, key);
  }
  try {
    return from.at(key).get<T>();
  } catch (const json::exception&) {
    fail(ErrorKind::usage, "{}: \"{}\" is of the wrong type, found {}; see docs/claims.md", where, key,
         from.at(key).dump());
  }
}

// A misspelt member would else be one that is not there.
void refuse_others(const json& of, const std::set<std::string>& known, const std::string& where) {
  for (const auto& [key, value] : of.items()) {
    if (!known.contains(key)) {
      fail(ErrorKind::usage, "{}: found \"{}\", expected only {}; take it out, or see docs/claims.md", where, key,
           fmt::join(known, ", "));
    }
  }
}

std::vector<Class> read_classes(const json& file, const char* key, const char* others, const std::string& where) {
  std::vector<Class> classes;
  for (const json& c : member<json>(file, key, where, json::array())) {
    const std::string at = fmt::format("{}, {}", where, key);
    if (!c.is_object()) fail(ErrorKind::usage, "{}: expected an object, found {}; see docs/claims.md", at, c.dump());
    refuse_others(c, {"name", "names", others}, at);
    classes.push_back({member<std::string>(c, "name", at), member<std::vector<std::string>>(c, "names", at),
                       member<std::vector<std::string>>(c, others, at, std::vector<std::string>{})});
  }
  return classes;
}

Claims read_claims(std::string_view text, const std::string& where) {
  json file;
  try {
    file = parse_json(text, where);
  } catch (const Error& error) {
    fail(ErrorKind::usage, "{}", error.what());
  }
  if (file.is_object()) refuse_others(file, {"families", "device_classes", "claims"}, where);
  Claims all{read_classes(file, "families", "architectures", where),
             read_classes(file, "device_classes", "compute", where),
             {}};
  const auto number = [](const json& from, const char* key, const std::string& at) {
    return from.contains(key) ? std::optional(member<double>(from, key, at)) : std::nullopt;
  };
  static const std::set<std::string> kKeys{"id",      "says",   "compare",      "metric",      "precision",
                                           "over",    "device", "device_class", "family",      "on",
                                           "against", "above",  "below",        "across_tests"};
  std::set<std::string> metrics{"spread"};
  for (const MetricInfo& m : metric_infos()) metrics.emplace(m.name);
  const std::set<std::string> kinds{"precisions", "devices", "families", "quality", "runs"};
  for (const json& c : member<json>(file, "claims", where)) {
    if (!c.is_object())
      fail(ErrorKind::usage, "{}: a claim is an object, found {}; see docs/claims.md", where, c.dump());
    Claim claim;
    claim.id = member<std::string>(c, "id", where);
    const std::string at = fmt::format("{}, claim '{}'", where, claim.id);
    refuse_others(c, kKeys, at);
    claim.says = member<std::string>(c, "says", at);
    claim.compare = member<std::string>(c, "compare", at);
    if (!kinds.contains(claim.compare)) {
      fail(ErrorKind::usage, "{}: \"compare\" is '{}', expected precisions, devices, families, quality or runs", at,
           claim.compare);
    }
    const std::string none;
    const bool wants_metric = claim.compare != "runs" && claim.compare != "quality";
    claim.metric = member<std::string>(c, "metric", at, wants_metric ? std::nullopt : std::optional(none));
    if (!claim.metric.empty() && !metrics.contains(claim.metric))
      fail(ErrorKind::usage, "{}: \"metric\" is '{}', expected spread or a metric of records (docs/method.md)", at,
           claim.metric);
    claim.precision =
        member<std::string>(c, "precision", at, claim.compare == "devices" ? std::optional(none) : std::nullopt);
    claim.over = member<std::string>(c, "over", at, claim.compare == "families" ? std::nullopt : std::optional(none));
    claim.device =
        member<std::string>(c, "device", at, claim.compare == "devices" ? std::nullopt : std::optional(none));
    claim.family =
        member<std::string>(c, "family", at, claim.compare == "families" ? std::nullopt : std::optional(none));
    claim.device_class = member<std::string>(c, "device_class", at, none);
    claim.on = member<std::string>(c, "on", at, none);
    if (!claim.on.empty() && claim.on != "cpu" && claim.on != "gpu")
      fail(ErrorKind::usage, "{}: \"on\" is '{}', expected cpu or gpu", at, claim.on);
    if (claim.compare != "runs") {
      claim.against = member<std::vector<std::string>>(c, "against", at);
      claim.above = number(c, "above", at);
      claim.below = number(c, "below", at);
      if (!claim.above && !claim.below)
        fail(ErrorKind::usage, "{}: expected \"above\" or \"below\", found neither", at);
      if (claim.above && claim.below && *claim.above >= *claim.below)
        fail(ErrorKind::usage, "{}: \"above\" is {}, expected less than \"below\", {}", at, *claim.above, *claim.below);
    }
    claim.across_tests = member<bool>(c, "across_tests", at, false);
    all.claims.push_back(std::move(claim));
  }
  return all;
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// The first class that one of these is of.
std::string class_of(const std::vector<Class>& classes, const std::string& name, const std::string& other, bool exact) {
  for (const Class& c : classes) {
    for (const std::string& o : c.others) {
      if (!other.empty() && (exact ? other == o : other.starts_with(o))) return c.name;
    }
  }
  for (const Class& c : classes) {
    for (const std::string& n : c.names) {
      if (lower(name).find(lower(n)) != std::string::npos) return c.name;
    }
  }
  return "";
}

struct Measured {
  RecordView view;
  std::string family, device_class;
  std::string on;  // cpu or gpu; empty: not told
  std::string model() const { return view.shown_model(); }
};

// One series or figure of a cell; of `spread` the shares by which its latencies lie off their median, but for the
// median itself.
struct Series {
  std::vector<double> samples;
  std::optional<double> figure;
  bool published = false;
  bool higher_is_better = false;
};

std::optional<Series> series_of(const RecordView& v, const std::string& metric) {
  const bool is_spread = metric == "spread";
  // A prompt alone has one new token: its rate is that of its tokens.
  const bool is_prompt = metric == "tokens_per_second" && v.kind == "prefill";
  const Summary* s = v.find(is_spread ? "total_latency" : is_prompt ? headline_metric(v) : std::string_view(metric));
  if (v.status != "ok" || !s) return std::nullopt;
  if (v.stamp.kind == StampKind::invalid) return std::nullopt;
  Series series{s->samples, std::nullopt, !v.imported_from.empty(), s->better == Better::higher};
  if (!is_spread) {
    if (s->median > 0) series.figure = s->median;
    return series;
  }
  series.samples.clear();
  for (const double x : s->samples) {
    if (x != s->median) series.samples.push_back(std::abs(x - s->median) / s->median);
  }
  return series.samples.size() < kFewestSamples ? std::nullopt : std::optional(series);
}

// How many times as good one cell is as another: by every two of their measurements, from the least to the most.
struct Span {
  double low = std::numeric_limits<double>::infinity(), high = 0;
  bool noise = false;    // a measured pair whose difference may be chance (Holm, over the claim)
  bool figures = false;  // single figures as published, which have no interval
  std::string problem;   // why there is none
};

class Tester {
 public:
  Tester(const Claim& claim, const std::vector<Measured>& all) : claim_(claim), all_(all) {}

  ClaimResult test() {
    if (claim_.compare == "runs") runs();
    if (claim_.compare == "quality") quality();
    // Twice: comparisons are adjusted over all of the claim's, so all are known before any is judged.
    for (collecting_ = true;; collecting_ = false) {
      result_.cases.clear();
      if (claim_.compare == "runs" || claim_.compare == "quality") {
        result_.cases = fixed_;
      } else if (claim_.compare == "precisions") {
        precisions();
      } else if (claim_.compare == "devices") {
        devices();
      } else {
        families();
      }
      if (!collecting_) break;
      compared_ = compare(pairs_, 42);
      next_ = 0;
    }
    result_.id = claim_.id;
    result_.says = claim_.says;
    conclude();
    return result_;
  }

 private:
  using Cells = std::vector<const Measured*>;

  bool is_of(const Measured& m) const {
    return (claim_.on.empty() || claim_.on == m.on) &&
           (claim_.device_class.empty() || m.device_class == claim_.device_class) &&
           (claim_.family.empty() || claim_.compare == "families" || m.family == claim_.family) && m.view.half.empty();
  }

  // Cells between which one thing differs, by their place: model, device and engine.
  std::map<std::string, Cells> places(bool with_device) const {
    std::map<std::string, Cells> found;
    for (const Measured& m : all_) {
      if (!is_of(m)) continue;
      const std::string device = m.view.device.empty() ? "unknown device" : m.view.device;
      const std::string engine = m.view.imported_from.empty() ? "" : fmt::format(" ({})", m.view.imported_from);
      found[one_line(with_device ? fmt::format("{}, {}{}", device, m.model(), engine) : m.model() + engine)].push_back(
          &m);
    }
    return found;
  }

  std::string shown(const Cells& cells) const {
    std::string text;
    for (const Measured* m : cells) {
      const auto series = series_of(m->view, claim_.metric);
      if (!series) continue;
      text += text.empty() ? "" : " and ";
      if (claim_.metric == "spread")
        text += fmt::format("{:.2g} %", 100 * median(series->samples));
      else if (const Unit unit = m->view.find(claim_.metric)->unit; unit == Unit::bytes)
        text += format_bytes(*series->figure);
      else
        text += unit == Unit::nanoseconds ? format_ns(*series->figure) : format_rate(*series->figure);
    }
    return text;
  }

  Span span_of(const Cells& base, const Cells& other) {
    Span span;
    for (const Measured* b : base) {
      for (const Measured* o : other) {
        const auto of_b = series_of(b->view, claim_.metric), of_o = series_of(o->view, claim_.metric);
        if (!of_b || !of_o) continue;
        double low = 0, high = 0;
        if (of_b->samples.size() >= kFewestSamples && of_o->samples.size() >= kFewestSamples) {
          // The series must outlive the comparison, which is made of all at once.
          if (collecting_) {
            kept_.push_back(of_b->samples);
            kept_.push_back(of_o->samples);
            pairs_.push_back(
                {kept_[kept_.size() - 2], kept_.back(), of_b->higher_is_better ? Better::higher : Better::lower});
            low = high = 1;
          } else {
            const Comparison& c = compared_[next_++];
            low = c.speed.low;
            high = c.speed.high;
            span.noise |= c.adjusted_p > kSignificance;
          }
        } else {
          const bool single = of_b->samples.empty() && of_o->samples.empty();
          const bool published = of_b->published || of_o->published;
          if (!of_b->figure || !of_o->figure || !single || (claim_.metric != "memory_peak" && !published)) {
            span.problem = "too few runs for an interval";
            continue;
          }
          low = high = of_b->higher_is_better ? *of_o->figure / *of_b->figure : *of_b->figure / *of_o->figure;
          span.figures |= published;
        }
        span.low = std::min(span.low, low);
        span.high = std::max(span.high, high);
      }
    }
    if (span.high == 0 && span.problem.empty()) span.problem = fmt::format("no {}", claim_.metric);
    return span;
  }

  // A bound of 1 asks for a difference, so it moves by what counts as none.
  Verdict judge(const Span& span) const {
    if (!span.problem.empty()) return Verdict::undecided;
    const double none = claim_.metric == "memory_peak" ? kSameMemory : kSameThreshold;
    const double from = !claim_.above ? 0 : *claim_.above == 1 ? 1 + none : *claim_.above;
    const double to = !claim_.below        ? std::numeric_limits<double>::infinity()
                      : *claim_.below == 1 ? 1 - none
                                           : *claim_.below;
    if (span.high < from || span.low > to) return Verdict::refuted;
    return span.low >= from && span.high <= to && !span.noise ? Verdict::supported : Verdict::undecided;
  }

  static std::string range(const Span& s) {
    const std::string times =
        s.low == s.high ? fmt::format("{:.2f} ×", s.low) : fmt::format("{:.2f} to {:.2f} ×", s.low, s.high);
    return s.figures ? times + ", figures without intervals" : times;
  }

  // Several verdicts of parts of one case: all must support.
  static Verdict both(Verdict a, Verdict b) {
    if (a == Verdict::refuted || b == Verdict::refuted) return Verdict::refuted;
    return a == Verdict::supported && b == Verdict::supported ? Verdict::supported : Verdict::undecided;
  }

  static Cells only(const Cells& cells, const std::string& precision, const std::optional<std::string>& test) {
    Cells some;
    for (const Measured* m : cells) {
      if (m->view.precision == precision && (!test || m->view.test == *test)) some.push_back(m);
    }
    return some;
  }

  static std::set<std::string> tests_of(const Cells& cells) {
    std::set<std::string> tests;
    for (const Measured* m : cells) tests.insert(m->view.test);
    return tests;
  }

  // One precision against others, test by test, or across tests.
  void precisions() {
    for (const auto& [place, cells] : places(true)) {
      const Cells ours = only(cells, claim_.precision, std::nullopt);
      if (ours.empty() || cells.size() == ours.size()) continue;
      std::set<std::string> tests = tests_of(ours);
      if (claim_.across_tests) tests = {""};
      for (const std::string& test : tests) {
        const auto same = claim_.across_tests ? std::nullopt : std::optional(test);
        ClaimCase c{claim_.across_tests ? place : fmt::format("{}, {}", place, test), Verdict::supported, ""};
        const Cells mine = only(cells, claim_.precision, same);
        if (std::none_of(mine.begin(), mine.end(), [&](const Measured* m) { return measures(*m); })) continue;
        c.evidence = fmt::format("{} {}", claim_.precision, shown(mine));
        for (const std::string& other : claim_.against) {
          const Cells theirs = only(cells, other, same);
          if (theirs.empty()) {
            const Cells unlike = only(cells, other, std::nullopt);
            c.verdict = both(c.verdict, Verdict::undecided);
            c.evidence += unlike.empty() ? fmt::format("; no {}", other)
                                         : fmt::format("; {} is of {}: unlike cells", other, *tests_of(unlike).begin());
            continue;
          }
          const Span span = span_of(theirs, mine);
          c.verdict = both(c.verdict, judge(span));
          c.evidence += span.problem.empty() ? fmt::format("; {} {}: {}", other, shown(theirs), range(span))
                                             : fmt::format("; {}: {}", other, span.problem);
        }
        result_.cases.push_back(std::move(c));
      }
    }
  }

  // Whether a cell has what the claim is about.
  bool measures(const Measured& m) const { return series_of(m.view, claim_.metric).has_value(); }

  void devices() {
    for (const auto& [model, cells] : places(false)) {
      std::map<std::string, std::pair<Cells, Cells>> alike;
      for (const Measured* m : cells) {
        if (!measures(*m) || m->view.device.find(" × ") != std::string::npos)
          continue;  // several cards are another thing
        auto& [mine, theirs] = alike[fmt::format("{} {} {}", model, m->view.precision, m->view.test)];
        if (m->view.device.find(claim_.device) != std::string::npos) mine.push_back(m);
        for (const std::string& other : claim_.against) {
          if (m->view.device.find(other) != std::string::npos) theirs.push_back(m);
        }
      }
      for (const auto& [where, both_sides] : alike) {
        const auto& [mine, theirs] = both_sides;
        if (mine.empty() || theirs.empty()) continue;
        const Span span = span_of(theirs, mine);
        result_.cases.push_back(
            {where, judge(span),
             span.problem.empty() ? fmt::format("{}; {}: {}", shown(mine), shown(theirs), range(span)) : span.problem});
      }
    }
  }

  struct Gain {
    std::string family, text;
    Span span;
  };

  // What a precision gains over another, of one family against others on one device.
  void families() {
    std::map<std::string, std::vector<Gain>> gains;
    for (const auto& [place, cells] : places(true)) {
      for (const std::string& test : tests_of(only(cells, claim_.precision, std::nullopt))) {
        const Cells mine = only(cells, claim_.precision, test), base = only(cells, claim_.over, test);
        if (base.empty() || !measures(*mine.front())) continue;
        const Span span = span_of(base, mine);
        if (!span.problem.empty()) continue;
        const RecordView& v = mine.front()->view;
        const std::string engine = v.imported_from.empty() ? "" : fmt::format(" ({})", v.imported_from);
        gains[one_line(v.device) + engine].push_back(
            {mine.front()->family, fmt::format("{} {}: {}", one_line(v.shown_model()), test, range(span)), span});
      }
    }
    for (const auto& [device, of_device] : gains) {
      ClaimCase c{device, Verdict::supported, ""};
      bool ours = false;
      std::set<std::string> missing(claim_.against.begin(), claim_.against.end());
      for (const Gain& a : of_device) {
        if (std::find(claim_.against.begin(), claim_.against.end(), a.family) != claim_.against.end())
          missing.erase(a.family);
        if (a.family != claim_.family) continue;
        ours = true;
        for (const Gain& b : of_device) {
          if (std::find(claim_.against.begin(), claim_.against.end(), b.family) == claim_.against.end()) continue;
          Span ratio = a.span;
          ratio.low = a.span.low / b.span.high;
          ratio.high = a.span.high / b.span.low;
          ratio.noise |= b.span.noise;
          c.verdict = both(c.verdict, judge(ratio));
        }
      }
      for (const Gain& g : of_device) c.evidence += (c.evidence.empty() ? "" : "; ") + g.text;
      if (!ours) missing.insert(claim_.family);
      if (!missing.empty()) c.verdict = both(c.verdict, Verdict::undecided);
      for (const std::string& family : missing)
        c.evidence += fmt::format("; no {} model with both precisions on one test", family);
      result_.cases.push_back(std::move(c));
    }
  }

  void runs() {
    for (const auto& [place, cells] : places(true)) {
      for (const Measured* m : only(cells, claim_.precision, std::nullopt)) {
        const bool ok = m->view.status == "ok";
        if (m->view.status == "interrupted") continue;
        fixed_.push_back({fmt::format("{}, {}", place, m->view.test), ok ? Verdict::supported : Verdict::refuted,
                          ok ? "ran" : one_line(m->view.error)});
      }
    }
  }

  // The other precisions' perplexity over that of `precision`, with its interval.
  void quality() {
    for (const auto& [place, cells] : places(true)) {
      ClaimCase c{place, Verdict::supported, ""};
      for (const std::string& other : claim_.against) {
        const Cells theirs = only(cells, other, std::nullopt);
        const auto found = std::find_if(theirs.begin(), theirs.end(), [&](const Measured* m) {
          const auto& q = m->view.quality;
          return q && q->reference == claim_.precision && q->perplexity_ratio && q->perplexity_ratio->low;
        });
        if (found == theirs.end()) {
          c.verdict = both(c.verdict, Verdict::undecided);
          continue;
        }
        const Estimate& e = *(*found)->view.quality->perplexity_ratio;
        Verdict verdict = Verdict::undecided;
        if (*e.low > 1) verdict = Verdict::supported;
        if (*e.high < 1) verdict = Verdict::refuted;
        c.verdict = both(c.verdict, verdict);
        c.evidence += fmt::format("{}perplexity of {} is {:.4f} × that of {} [{:.4f}, {:.4f}]",
                                  c.evidence.empty() ? "" : "; ", other, e.value, claim_.precision, *e.low, *e.high);
      }
      if (!c.evidence.empty()) fixed_.push_back(std::move(c));
    }
  }

  void conclude() {
    size_t supported = 0, refuted = 0;
    for (const ClaimCase& c : result_.cases) {
      supported += c.verdict == Verdict::supported;
      refuted += c.verdict == Verdict::refuted;
    }
    const size_t all = result_.cases.size();
    if (all == 0) {
      result_.reason = "no cells to test it on";
      return;
    }
    result_.reason = fmt::format("of {} case{}: {} support, {} refute, {} undecided", all, all == 1 ? "" : "s",
                                 supported, refuted, all - supported - refuted);
    if (refuted > 0)
      result_.verdict = Verdict::refuted;
    else if (supported == all)
      result_.verdict = Verdict::supported;
  }

  const Claim& claim_;
  const std::vector<Measured>& all_;
  bool collecting_ = true;
  std::vector<std::vector<double>> kept_;  // moving a vector leaves its values where they are
  std::vector<SamplePair> pairs_;
  std::vector<Comparison> compared_;
  size_t next_ = 0;
  std::vector<ClaimCase> fixed_;
  ClaimResult result_;
};

// What the first device of a record is. Imports have no id but for "cpu", and older ones not that: their CPU has the
// name of the machine's.
std::string processor_of(const Record& record) {
  const Record& device = record.at("devices").at(0);
  const Record id = device.value("id", Record());
  if (id == "cpu" || id == "reference") return "cpu";
  const auto environment = record.find("environment");
  const bool is_cpu = id.is_null() && environment != record.end() && environment->is_object() &&
                      environment->value("cpu", Record()) == device.at("name");
  return is_cpu ? "cpu" : "gpu";
}

constexpr std::string_view kOwnClaims =
#include "report/claims_json.inc"
    ;

}  // namespace

std::string_view own_claims() { return kOwnClaims; }

std::vector<ClaimResult> test_claims(std::span<const Record> records, std::string_view claims,
                                     const std::string& where) {
  const Claims all = read_claims(claims, where);
  std::vector<Measured> measured;
  std::set<std::string> seen;
  for (const Record& record : records) {
    // A record may be in a folder and in a database.
    const Record sealed = record.value("content_sha256", Record());
    if (!seen.insert(sealed.is_string() ? sealed.get<std::string>() : sha256_of(record)).second) continue;
    Measured m{view_of(record), "", "", ""};
    const Record& model = record.at("cell").at("model");
    const Record architecture = model.value("architecture", Record());
    m.family =
        class_of(all.families, m.view.model, architecture.is_string() ? architecture.get<std::string>() : "", false);
    std::string compute;
    if (!record.at("devices").empty()) {
      const Record gpu = record.at("devices").at(0).value("gpu", Record());
      if (gpu.is_object()) compute = gpu.value("compute_capability", "");
      m.on = processor_of(record);
    }
    m.device_class = class_of(all.device_classes, m.view.device, compute, true);
    measured.push_back(std::move(m));
  }
  std::vector<ClaimResult> results;
  for (const Claim& claim : all.claims) results.push_back(Tester(claim, measured).test());
  return results;
}

}  // namespace quantbench
