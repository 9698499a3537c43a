#include "app/progress.h"

#include <cstdio>

#include "core/os.h"
#include "report/format.h"

namespace quantbench {
namespace {
constexpr int64_t kPlainEvery_ns = 10'000'000'000;
constexpr int64_t kTerminalEvery_ns = 50'000'000;
constexpr int kStandardError = 2;
}  // namespace

TerminalProgress::TerminalProgress() : terminal_(os::is_terminal(kStandardError)), last_ns_(os::steady_now_ns()) {}
TerminalProgress::~TerminalProgress() { clear(); }

void TerminalProgress::clear() {
  if (shown_) std::fputs("\r\033[K", stderr);
  shown_ = false;
}

void TerminalProgress::line(const std::string& text) {
  clear();
  std::fputs((one_line(text) + "\n").c_str(), stderr);
}

void TerminalProgress::status(const std::string& text) {
  const int64_t now_ns = os::steady_now_ns();
  if (now_ns - last_ns_ < (terminal_ ? kTerminalEvery_ns : kPlainEvery_ns)) return;
  last_ns_ = now_ns;
  if (!terminal_) {
    std::fputs((one_line(text) + "\n").c_str(), stderr);
    return;
  }
  std::string cut = one_line(text);
  const size_t width = static_cast<size_t>(os::terminal_columns(kStandardError)) - 1;
  if (cut.size() > width) {
    size_t end = width;
    while (end > 0 && (cut[end] & 0xc0) == 0x80) --end;  // not inside a character
    cut.resize(end);
  }
  std::fputs(("\r\033[K" + cut).c_str(), stderr);
  std::fflush(stderr);
  shown_ = true;
}

}  // namespace quantbench
