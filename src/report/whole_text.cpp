#include "report/report.h"

#include <fmt/format.h>

#include "report/format.h"

namespace quantbench {

std::string whole_text(std::span<const RecordView> views, bool markdown, bool explained) {
  std::string text = markdown ? table_markdown(views) : table_text(views);
  const auto add_lines = [&](const std::vector<std::string>& lines) {
    if (lines.empty()) return;
    text += "\n";
    for (const std::string& line : lines) text += (markdown ? "- " + without_elements(line) : line) + "\n";
  };
  if (const std::string quality = markdown ? quality_markdown(views) : quality_text(views); !quality.empty()) {
    text += "\nQuality\n\n" + quality;
  }
  add_lines(notes(views));
  add_lines(picture_notes(views));
  add_lines(memory_notes(views));
  if (explained) add_lines(explanations(views));
  const std::string said = markdown ? responses_markdown(views) : responses_text(views);
  if (!said.empty()) text += "\nResponses\n\n" + said;
  const bool is_too_many = views.size() > kMostVerdictCells;
  const std::vector<std::string> lines =
      is_too_many ? std::vector<std::string>{fmt::format("left out of more than {} cells; report a part of them",
                                                         kMostVerdictCells)}
                  : verdict(views);
  if (!lines.empty()) {
    text += said.empty() ? "\nVerdict\n" : "Verdict\n";
    add_lines(lines);
  }
  const std::vector<std::string> floor = is_too_many ? std::vector<std::string>() : noise_floor(views);
  if (!floor.empty()) {
    text += said.empty() ? "\nNoise floor\n" : "Noise floor\n";
    add_lines(floor);
  }
  if (said.empty() || !lines.empty() || !floor.empty()) text += "\n";
  return text;
}

}  // namespace quantbench
