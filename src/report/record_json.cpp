#include "report/record_json.h"

#include <array>
#include <cstring>

namespace quantbench {
namespace {

constexpr int kDeepest = 64;
constexpr int64_t kLargestExact = int64_t{1} << 53;  // whole numbers up to here are doubles
constexpr size_t kUsualMembers = 16;
// Those that are doubles, too: the quotient of a whole number and one of them is rounded once, as it is to be.
constexpr std::array kPowersOfTen{1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                  1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Takes texts apart from left to right. Every function is false where there is not what it is for.
class Reader {
 public:
  Reader(std::string_view text, Spans spans)
      : at_(text.data()), end_(text.data() + text.size()), steps_only_(spans == Spans::steps) {}

  bool document(Record* into) {
    skip();
    if (!value(into, 0)) return false;
    skip();
    return at_ == end_;
  }

 private:
  void skip() {
    while (at_ < end_ && is_space(*at_)) ++at_;
  }
  bool take(char c) {
    if (at_ == end_ || *at_ != c) return false;
    ++at_;
    return true;
  }
  bool word(std::string_view text) {
    if (static_cast<size_t>(end_ - at_) < text.size() || std::memcmp(at_, text.data(), text.size()) != 0) return false;
    at_ += text.size();
    return true;
  }

  bool value(Record* into, int depth) {
    if (at_ == end_) return false;
    switch (*at_) {
      case '{': return object(into, depth + 1);
      case '[': return array(into, depth + 1);
      case '"': {
        std::string text;
        if (!string(&text)) return false;
        *into = std::move(text);
        return true;
      }
      case 'n': return word("null");
      case 't': *into = true; return word("true");
      case 'f': *into = false; return word("false");
      default: return number(into);
    }
  }

  bool object(Record* into, int depth) {
    if (depth > kDeepest) return false;
    ++at_;
    auto& members = (*into = Record::object()).get_ref<Record::object_t&>();
    skip();
    if (take('}')) return true;
    members.reserve(kUsualMembers);
    for (;;) {
      std::string key;
      if (at_ == end_ || *at_ != '"' || !string(&key)) return false;
      skip();
      if (!take(':')) return false;
      skip();
      if (steps_only_ && key == "spans") {
        const char* const from = at_;
        Record steps;
        if (spans(&steps)) {
          if (!members.emplace("step_ns", std::move(steps)).second) return false;
          if (const Next what = next('}'); what != Next::item) return what == Next::end;
          continue;
        }
        at_ = from;  // not as we write them: whoever looks at them says so
      }
      const auto [member, is_new] = members.emplace(key, nullptr);
      if (!is_new || !value(&member->second, depth)) return false;
      if (const Next what = next('}'); what != Next::item) return what == Next::end;
    }
  }

  bool array(Record* into, int depth) {
    if (depth > kDeepest) return false;
    ++at_;
    auto& items = (*into = Record::array()).get_ref<Record::array_t&>();
    skip();
    if (take(']')) return true;
    for (;;) {
      items.emplace_back(nullptr);
      if (!value(&items.back(), depth)) return false;
      if (const Next what = next(']'); what != Next::item) return what == Next::end;
    }
  }

  enum class Next : uint8_t { item, end, wrong };
  // Behind a value: takes the comma, up to the next item, or the bracket.
  Next next(char bracket) {
    skip();
    if (take(bracket)) return Next::end;
    if (!take(',')) return Next::wrong;
    skip();
    return Next::item;
  }

  bool string(std::string* into) {
    const char* const from = ++at_;
    for (; at_ < end_; ++at_) {
      const auto c = static_cast<unsigned char>(*at_);
      if (c == '"') {
        into->assign(from, at_++);
        return true;
      }
      if (c < 0x20) return false;
      if (c == '\\' || c >= 0x80) break;
    }
    // Escapes, and bytes that must be UTF-8.
    while (at_ < end_ && *at_ != '"') at_ += *at_ == '\\' ? 2 : 1;
    if (at_ >= end_) return false;
    ++at_;
    const Record parsed = Record::parse(from - 1, at_, nullptr, false);
    if (!parsed.is_string()) return false;
    *into = parsed.get_ref<const std::string&>();
    return true;
  }

  bool number(Record* into) {
    const char* const from = at_;
    const bool negative = take('-');
    const char* const digits = at_;
    int64_t mantissa = 0;
    while (at_ < end_ && is_digit(*at_) && at_ - digits < 18) mantissa = 10 * mantissa + (*at_++ - '0');
    if (at_ == digits || (*digits == '0' && at_ - digits > 1)) return false;
    if (at_ == end_ || (*at_ != '.' && *at_ != 'e' && *at_ != 'E' && !is_digit(*at_))) {
      if (negative)
        *into = -mantissa;
      else
        *into = static_cast<uint64_t>(mantissa);
      return true;
    }
    bool exact = !is_digit(*at_);  // else it has more digits than we count
    size_t places = 0;
    if (take('.')) {
      const char* const fraction = at_;
      for (; at_ < end_ && is_digit(*at_); ++at_) {
        if (mantissa > kLargestExact / 10)
          exact = false;
        else
          mantissa = 10 * mantissa + (*at_ - '0');
      }
      if (at_ == fraction) return false;
      places = static_cast<size_t>(at_ - fraction);
    }
    const bool has_exponent = at_ < end_ && (*at_ == 'e' || *at_ == 'E');
    if (exact && !has_exponent && places < kPowersOfTen.size() && mantissa <= kLargestExact) {
      const double magnitude = static_cast<double>(mantissa) / kPowersOfTen[places];
      *into = negative ? -magnitude : magnitude;
      return true;
    }
    return long_number(from, into);
  }

  // Of many digits, or with an exponent.
  bool long_number(const char* from, Record* into) {
    while (at_ < end_ && (is_digit(*at_) || *at_ == '.' || *at_ == 'e' || *at_ == 'E' || *at_ == '+' || *at_ == '-'))
      ++at_;
    Record parsed = Record::parse(from, at_, nullptr, false);
    if (!parsed.is_number()) return false;
    *into = std::move(parsed);
    return true;
  }

  bool whole(int64_t* into) {
    const char* const from = at_;
    for (*into = 0; at_ < end_ && is_digit(*at_) && at_ - from < 18; ++at_) *into = 10 * *into + (*at_ - '0');
    return at_ > from && (*from != '0' || at_ - from == 1);
  }

  // [["decode","host",1,2], …] as the differences; what is written otherwise is left to value().
  bool spans(Record* into) {
    if (!take('[')) return false;
    std::array<Record::array_t, 2> steps;  // by the device's clock, by the host's
    *into = Record::array();
    skip();
    if (take(']')) return true;
    Next what;
    do {
      if (!take('[') || !take('"')) return false;
      const char* const phase = at_;
      while (at_ < end_ && *at_ >= 'a' && *at_ <= 'z') ++at_;
      const std::string_view name(phase, static_cast<size_t>(at_ - phase));
      if (!word("\",\"")) return false;
      const bool of_device = word("device");
      if (!of_device && !word("host")) return false;
      int64_t start = 0, end = 0;
      if (!word("\",") || !whole(&start) || !take(',') || !whole(&end) || !take(']')) return false;
      if (name == "decode") steps[of_device ? 0 : 1].emplace_back(end - start);
      what = next(']');
    } while (what == Next::item);
    if (what != Next::end) return false;
    for (Record::array_t& of_clock : steps) {
      if (of_clock.size() > 1) {
        *into = std::move(of_clock);
        break;
      }
    }
    return true;
  }

  const char* at_;
  const char* end_;
  bool steps_only_;
};

}  // namespace

std::optional<Record> parse_record(std::string_view text, Spans spans) {
  std::optional<Record> record(std::in_place);
  if (!Reader(text, spans).document(&*record)) record.reset();
  return record;
}

std::vector<double> decode_steps_of(const Record& run) {
  if (const auto found = run.find("step_ns"); found != run.end()) return found->get<std::vector<double>>();
  std::vector<double> steps;
  const auto spans = run.find("spans");
  if (spans == run.end() || !spans->is_array()) return steps;
  for (const char* clock : {"device", "host"}) {
    for (const Record& span : *spans) {
      if (span.at(0) == "decode" && span.at(1) == clock)
        steps.push_back(span.at(3).get<double>() - span.at(2).get<double>());
    }
    if (steps.size() > 1) return steps;
    steps.clear();  // one span of all steps is none of a step
  }
  return steps;
}

}  // namespace quantbench
