#include "app/hub_progress.h"

#include "report/format.h"

namespace quantbench {
namespace {

std::string time_text(double seconds) {
  constexpr double kMinute = 60, kHour = 3600;
  if (seconds < 2 * kMinute) return fmt::format("{:.0f} s", seconds);
  if (seconds < 2 * kHour) return fmt::format("{:.0f} min", seconds / kMinute);
  return fmt::format("{:.1f} h", seconds / kHour);
}

}  // namespace

void HubProgress::begin(const std::string& model, size_t files, int64_t missing_bytes) {
  model_ = model;
  terminal_.line(fmt::format("downloading {}: {} to go, {} files in all", model,
                             format_bytes(static_cast<double>(missing_bytes)), files));
}

void HubProgress::progress(const DownloadState& state) {
  std::string text =
      fmt::format("downloading {}: {} of {}", model_, format_bytes(static_cast<double>(state.done_bytes)),
                  format_bytes(static_cast<double>(state.total_bytes)));
  if (state.bytes_per_s > 0) {
    text += fmt::format(", {}/s, {} left", format_bytes(state.bytes_per_s),
                        time_text(static_cast<double>(state.total_bytes - state.done_bytes) / state.bytes_per_s));
  }
  terminal_.status(fmt::format("{} ({})", text, state.file));
}

}  // namespace quantbench
