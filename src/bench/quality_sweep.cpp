#include "bench/quality_sweep.h"

#include <algorithm>
#include <cmath>

#include "bench/open_model.h"

namespace quantbench {
namespace {

constexpr const char* kFp32 = "fp32 arithmetic on the CPU (weights and cache in fp16)";

// Some cells of a model with what they are compared with.
class Comparison {
 public:
  Comparison(const std::vector<const Cell*>& cells, const QualityText& text, bool has_fp16, bool with_fp32)
      : cells_(cells) {
    const bool measures_fp16 =
        std::any_of(cells.begin(), cells.end(), [](const Cell* c) { return c->precision == Precision::fp16; });
    int fp32 = -1, fp16 = -1;
    if (with_fp32 && measures_fp16) {
      fp32 = add(*cells.front(), Precision::fp16, -1);
      request.models.back().engine.device = "cpu";
      request.models.back().engine.engine = "auto";
    }
    if (has_fp16) fp16 = add(*cells.front(), Precision::fp16, fp32);
    for (const Cell* cell : cells) {
      of_cell_.push_back(cell->precision == Precision::fp16 ? fp16 : add(*cell, cell->precision, fp16));
    }
    request.texts = text.texts;
    request.answer_tokens = text.answer_tokens;
    request.answers = std::max(fp16, 0);
  }

  void take(const QualityReport& report, std::vector<QualityData>* out) const {
    for (size_t i = 0; i < cells_.size(); ++i) {
      const auto m = static_cast<size_t>(of_cell_[i]);
      QualityData& data = (*out)[i];
      data.scores = report.models.at(m);
      data.answer = report.answer;
      const int reference = request.references[m];
      const bool is_fp16 = cells_[i]->precision == Precision::fp16;
      if (reference >= 0) {
        data.reference = is_fp16 ? kFp32 : "fp16";
      } else {
        data.no_reference = is_fp16 ? "it is what the others are compared with"
                                    : "the checkpoint is stored quantised, so there is no FP16 of it";
      }
    }
  }

  QualityRequest request;

 private:
  int add(const Cell& like, Precision precision, int reference) {
    request.models.push_back(like);
    request.models.back().precision = precision;
    request.references.push_back(reference);
    return static_cast<int>(request.models.size()) - 1;
  }
  std::vector<const Cell*> cells_;
  std::vector<int> of_cell_;  // which of the request's models
};

std::string key_of(const Cell& cell) {
  return fmt::format("{} in '{}' {}", cell.model.shown(), cell.model.folder, name_of(cell.precision));
}

}  // namespace

std::vector<QualityData> QualitySweep::measure(std::span<const Cell> cells, const QualityText& text,
                                               const StartWorker& start, Progress& progress) {
  std::vector<const Cell*> wanted;
  for (const Cell& cell : cells) {
    const auto is_same = [&](const Cell* other) { return key_of(*other) == key_of(cell); };  // the other half of an A/A
    if (known_.contains(key_of(cell)) || std::any_of(wanted.begin(), wanted.end(), is_same)) continue;
    wanted.push_back(&cell);
  }
  if (!wanted.empty()) measure_new(wanted, text, start, progress);
  std::vector<QualityData> result;
  for (const Cell& cell : cells) result.push_back(known_.at(key_of(cell)));
  return result;
}

void QualitySweep::measure_new(const std::vector<const Cell*>& cells, const QualityText& text, const StartWorker& start,
                               Progress& progress) {
  const std::string model = cells.front()->model.shown();
  progress.line(fmt::format("{}: quality on {}, {} text{}", model, text.name, text.texts.size(),
                            text.texts.size() == 1 ? "" : "s"));
  QualityData about;
  about.text = text;
  about.text.texts.clear();
  std::vector<QualityData> found(cells.size(), about);
  const auto run = [&](const std::vector<const Cell*>& some, std::vector<QualityData>* out) {
    const bool has_fp16 = stored_form(some.front()->model) == Prequantized::none;
    if (!has_fp16 && !text.has_perplexity()) {
      fail(
          ErrorKind::usage,
          "the checkpoint is stored quantised, so there is no FP16 of it, and {} says nothing without; leave --quality "
          "out",
          text.name);
    }
    const Comparison comparison(some, text, has_fp16, with_fp32_);
    const std::unique_ptr<Worker> worker = start(some.front());
    const auto count = static_cast<double>(text.texts.size());
    const auto on_progress = [&](double done) {
      progress.status(done == 0 ? fmt::format("{}: quality: loading {} models", model, comparison.request.models.size())
                                : fmt::format("{}: quality: {:.0f} of {:.0f} texts", model, done * count, count));
    };
    comparison.take(worker->quality(comparison.request, on_progress), out);
  };
  // What is wrong, or nothing. A request to stop goes further up.
  const auto failure = [&](const std::vector<const Cell*>& some,
                           std::vector<QualityData>* out) -> std::optional<Error> {
    try {
      run(some, out);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::interrupted) throw;
      return error;
    } catch (const std::exception& error) {
      return Error(ErrorKind::internal, error.what());
    }
    return std::nullopt;
  };
  std::optional<Error> failed = failure(cells, &found);
  if (failed && cells.size() > 1) {
    progress.line(fmt::format("{}: quality of one precision after another, since together: {}", model, failed->what()));
  }
  for (size_t i = 0; failed && i < cells.size(); ++i) {
    std::vector<QualityData> one{about};
    const std::optional<Error> alone = cells.size() > 1 ? failure({cells[i]}, &one) : failed;
    if (alone) {
      one.front().error = alone->what();
      one.front().kind = alone->kind();
      progress.line(fmt::format("{}: quality was not measured: {}", cells[i]->label(), alone->what()));
    }
    found[i] = one.front();
  }
  for (size_t i = 0; i < cells.size(); ++i) known_[key_of(*cells[i])] = found[i];
}

}  // namespace quantbench
