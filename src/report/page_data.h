// What the page of `quantbench report -o html` knows: records, made short, as JSON that may stand in a script element.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bench/record.h"

namespace quantbench {

// Up to so many records a page holds every sample; of more, quantiles and where the samples are.
constexpr size_t kMostRecordsWithSamples = 100;

// What the page shows of a record. Texts that many records share are kept apart, for the page to have them once.
struct PageCell {
  std::vector<std::pair<const char*, std::string>> texts;  // a key, and what it says
  std::vector<std::string> reasons;
  std::string machine;                // JSON
  std::string said, said_in_brief;    // the response, or how it begins
  std::string facts, samples, brief;  // members of the cell's object: of both, with every sample, and without
};
// `path`: the file that the record is in, which the page names. Without samples it cannot be in a page of few records.
// May be called from several threads. Error usage for a record that another program or a person has made something else
// of.
PageCell page_cell(const Record& record, const RecordView& view, const std::string& path, bool with_samples);

class PageData {
 public:
  void add(PageCell cell);
  void add(const Record& record, const std::string& path) {
    add(page_cell(record, view_of(record), path, count() < kMostRecordsWithSamples));
  }
  size_t count() const { return cells_.size(); }

  // problems: files that were left out, and why; verdict: lines below the charts. The text has no "<" and none of the
  // two line ends that older JavaScript takes for its own, so nothing in a record can end the script.
  std::string json(std::span<const std::string> problems, std::span<const std::string> verdict,
                   const std::string& generated_utc, const std::string& program) const;

 private:
  std::vector<PageCell> cells_;
};

// A text as it may stand in a script element of type application/json.
std::string safe_in_script(const std::string& json);

}  // namespace quantbench
