// Charts as pictures of their own, for papers and for machines without a browser: SVG, and PNG by librsvg.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "bench/record.h"

namespace quantbench {

// Times of a decode step over the runs of a cell: 10th, 50th and 90th percentile.
struct StepBand {
  double step = 0, low = 0, middle = 0, high = 0;  // step: counted from 0; nanoseconds
};
// Of so many stretches of the run, or of each step where there are fewer; runs: of each its steps (decode_steps_of).
std::vector<StepBand> step_bands(const std::vector<std::vector<double>>& runs, size_t stretches);

// What memory is booked under, in records and in figures.
std::span<const char* const> ledger_parts();

// What charts need of a record.
struct ChartCell {
  RecordView view;
  std::vector<StepBand> steps;
  std::vector<double> ledger;  // bytes at the end by ledger_parts(), of all devices; empty: the record has none
};
ChartCell chart_cell(const Record& record, RecordView view);

struct Chart {
  std::string name;  // of a file, without its end
  std::string svg;
};
// One for each figure that some of these cells have, of those that ended well and are not INVALID: throughput, latency,
// first-token, inter-token, memory, ledger, read-share, and speed against each measure of quality. Of more than 40
// cells (8 lines) the first are drawn, and the chart says how many there are.
std::vector<Chart> charts(std::span<const ChartCell> cells);

// `scale` pixels for each of the picture's. Error usage where librsvg is missing, with what to install; Error disk.
void write_png(const std::string& svg, double scale, const std::string& path);

}  // namespace quantbench
