// What the page of `quantbench report -o html` knows: records, made short, as JSON that may stand in a script element.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "bench/record.h"

namespace quantbench {

// Up to so many records a page holds every sample; of more, quantiles and where the samples are.
constexpr size_t kMostRecordsWithSamples = 100;

class PageData {
 public:
  // Takes what the page shows of it; the record is not kept. `path`: the file that it is in, which the page names.
  // Error usage for a record that another program or a person has made something else of.
  void add(const Record& record, const std::string& path);
  size_t count() const { return brief_.size(); }

  // problems: files that were left out, and why; verdict: lines below the charts. The text has no "<" and none of the
  // two line ends that older JavaScript takes for its own, so nothing in a record can end the script.
  std::string json(std::span<const std::string> problems, std::span<const std::string> verdict,
                   const std::string& generated_utc, const std::string& program) const;

 private:
  size_t string_index(const std::string& text);
  size_t machine_index(const Record& record);
  Record cell(const Record& record, const std::string& path, bool with_samples);

  std::vector<std::string> strings_, machines_;  // each once: most cells share most of them
  std::map<std::string, size_t, std::less<>> string_places_, machine_places_;
  std::vector<std::string> full_, brief_;  // of each record; full_ is empty once there are too many
};

// A text as it may stand in a script element of type application/json.
std::string safe_in_script(const std::string& json);

}  // namespace quantbench
