#include "bench/quality_pass.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <map>

#include "bench/open_model.h"
#include "bench/own_thread.h"
#include "bench/quality_scores.h"
#include "bench/statistics.h"
#include "engine/buffers.h"
#include "engine/session.h"
#include "image/image.h"
#include "image/pixels.h"
#include "model/loader.h"
#include "model/registry.h"

namespace quantbench {
namespace {

StateShape shape_for(const Shape& model, const QualityRequest& request) {
  int prompt = 1, ids = std::max(request.answer_tokens, 1);
  for (const ForcedText& text : request.texts) {
    prompt = std::max(prompt, static_cast<int>(text.prompt.size()));
    ids = std::max(ids, static_cast<int>(text.ids.size()));
  }
  StateShape shape{.rows = ids, .logit_rows = kScoredRows, .sequences = 1, .positions = ids};
  if (!model.encoder) return shape;
  shape.encoder_rows = shape.encoder_positions = model.has_picture() ? model.encoder->picture->tokens() : prompt;
  if (model.has_picture()) {
    shape.rows = std::max(prompt, ids);
    shape.positions = prompt + ids;
  }
  return shape;
}

// A model on a backend and a thread of its own.
class ForcedModel {
 public:
  // Opens and plans; reads no weight.
  ForcedModel(const Cell& cell, const QualityRequest& request, const ChooseDevice& choose) : cell_(cell) {
    thread_.run([&] {
      backend_ = choose(cell.engine.device, {.threads = cell.engine.threads, .engine = cell.engine.engine}).backend;
      opened_ = open_model(cell.model, cell.precision);
      const Shape& shape = opened_.model->shape();
      state_ = shape_for(shape, request);
      plan_ = backend_->plan(decode_shapes(*opened_.model, 1, state_.encoder_positions), state_.rows,
                             encode_shapes(*opened_.model, state_.encoder_rows));
      predicted_bytes_ = predict_memory(plan_, *opened_.model, state_).total();
    });
  }
  ~ForcedModel() {
    thread_.run([this] {
      session_.reset();
      opened_ = {};
      backend_.reset();
    });
  }
  ForcedModel(const ForcedModel&) = delete;

  const DeviceInfo& device() const { return backend_->device(); }
  const Shape& shape() const { return opened_.model->shape(); }
  size_t predicted_bytes() const { return predicted_bytes_; }
  std::string label() const { return fmt::format("{} {}", cell_.model.shown(), name_of(cell_.precision)); }

  void load(const std::function<void()>& still_alive) {
    thread_.run([&] {
      int64_t last = 0;
      const auto on_bytes = [&](int64_t done, int64_t total) {
        constexpr int64_t kTold = 20;  // times a model, so that nobody takes the process for stuck
        if (done - last < total / kTold) return;
        last = done;
        still_alive();
      };
      quantbench::load(*opened_.model, *opened_.weights, *backend_, plan_, on_bytes);
      opened_.weights.reset();
      session_ = std::make_unique<Session>(*backend_, *opened_.model, state_);
      if (!shape().has_picture()) return;
      const Picture& picture = *shape().encoder->picture;
      patches_.resize(static_cast<size_t>(picture.tokens()) * static_cast<size_t>(picture.values()));
      siglip_patches(load_image(cell_.picture, picture.size, backend_->host_pool()).pixels, picture.patch, patches_);
    });
    logits_.resize(static_cast<size_t>(kScoredRows) * static_cast<size_t>(shape().vocab));
  }

  std::vector<int32_t> answer_to(const std::vector<int32_t>& prompt, int most) {
    GenerateOptions options{.max_new_tokens = most, .stop_at = shape().eos};
    Run run;
    thread_.run([&] { run = session_->generate({prompt, patches_}, options); });
    return run.tokens;
  }
  void force(const ForcedText& text) {
    thread_.run([&] { session_->force({text.prompt, patches_}, text.ids); });
  }
  void fetch(int first_row, int count) {
    thread_.run([&] {
      session_->forced_logits(first_row, count, std::span(logits_).first(static_cast<size_t>(count) * vocab()));
    });
  }
  std::span<const float> logits(size_t row) const { return std::span(logits_).subspan(row * vocab(), vocab()); }

  // Calls body(row) for each, on all threads of this model's pool.
  void for_rows(int count, FunctionRef<void(size_t row)> body) {
    thread_.run([&] {
      backend_->host_pool().for_chunks(static_cast<size_t>(count), 1, [&](size_t begin, size_t end, int) {
        for (size_t row = begin; row < end; ++row) body(row);
      });
    });
  }

 private:
  size_t vocab() const { return static_cast<size_t>(shape().vocab); }

  const Cell& cell_;
  OwnThread thread_;
  std::unique_ptr<Backend> backend_;
  OpenedModel opened_;
  StateShape state_;
  Plan plan_;
  size_t predicted_bytes_ = 0;
  std::unique_ptr<Session> session_;
  std::vector<float> patches_;
  std::vector<float> logits_;  // on the host, [kScoredRows, vocab]
};

using Models = std::vector<std::unique_ptr<ForcedModel>>;

// Those on one device take its memory together.
void require_room(const Models& models) {
  std::map<std::string, size_t> wanted;
  for (const auto& model : models) wanted[model->device().id] += model->predicted_bytes();
  for (const auto& model : models) {
    const DeviceInfo& device = model->device();
    const size_t bytes = wanted[device.id];
    if (device.available_bytes == 0 || bytes <= device.available_bytes) continue;  // 0: it is not known
    std::string names;
    for (const auto& other : models) {
      if (other->device().id == device.id) names += (names.empty() ? "" : ", ") + other->label();
    }
    fail(
        ErrorKind::out_of_memory,
        "quality compares {} side by side, which needs {:.2f} GiB, and {:.2f} GiB of {} are available; free memory, or "
        "leave --quality out",
        names, static_cast<double>(bytes) / (1 << 30), static_cast<double>(device.available_bytes) / (1 << 30),
        device.name);
  }
}

struct RowScore {
  double nll = 0, kl = 0, reference_nll = 0;
  bool same_top = false;
};

// The rows of one call, of all models.
class Comparison {
 public:
  Comparison(const QualityRequest& request, Models& models)
      : request_(request),
        models_(models),
        normalizers_(models.size()),
        rows_(models.size()),
        token_kl_(models.size()) {}

  void add(const ForcedText& text, QualityReport* report) {
    for (const auto& model : models_) model->force(text);
    const int count = static_cast<int>(text.targets.size());
    for (ModelScores& scores : report->models) scores.texts.push_back({.tokens = count});
    for (int first = 0; first < count; first += kScoredRows) {
      const int some = std::min(kScoredRows, count - first);
      for (const auto& model : models_) model->fetch(text.first_row + first, some);
      score({text.targets.data() + first, static_cast<size_t>(some)});
      for (size_t m = 0; m < models_.size(); ++m) take(m, first, report->models[m].texts);
    }
  }

  std::optional<double> kl_p99(size_t model) const { return tail_quantile(token_kl_[model], 0.99); }

 private:
  void score(std::span<const int32_t> targets) {
    for (size_t m = 0; m < models_.size(); ++m) {
      normalizers_[m].resize(targets.size());
      rows_[m].resize(targets.size());
    }
    models_.front()->for_rows(static_cast<int>(targets.size()), [&](size_t row) {
      for (size_t m = 0; m < models_.size(); ++m) {
        const auto logits = models_[m]->logits(row);
        normalizers_[m][row] = normalizer_of(logits);
        rows_[m][row].nll = negative_log_likelihood(logits, normalizers_[m][row], targets[row]);
      }
      for (size_t m = 0; m < models_.size(); ++m) {
        if (request_.references[m] < 0) continue;
        const auto r = static_cast<size_t>(request_.references[m]);
        rows_[m][row].kl =
            kl_divergence(models_[r]->logits(row), normalizers_[r][row], models_[m]->logits(row), normalizers_[m][row]);
        rows_[m][row].reference_nll = rows_[r][row].nll;
        rows_[m][row].same_top = normalizers_[m][row].top == normalizers_[r][row].top;
      }
    });
  }

  // In the order of the rows, so that sums do not depend on the threads.
  void take(size_t m, int first, std::vector<TextScore>& texts) {
    for (size_t row = 0; row < rows_[m].size(); ++row) {
      const RowScore& s = rows_[m][row];
      if (!std::isfinite(normalizers_[m][row].log_sum)) {
        fail(ErrorKind::internal, "{}: its logits are not finite at scored token {} of text {}; quality is undefined",
             models_[m]->label(), static_cast<size_t>(first) + row + 1, texts.size());
      }
      TextScore& sum = texts.back();
      sum.nll += s.nll;
      sum.kl += s.kl;
      sum.reference_nll += s.reference_nll;
      sum.same_top += s.same_top ? 1 : 0;
      if (request_.references[m] >= 0) token_kl_[m].push_back(s.kl);
    }
  }

  const QualityRequest& request_;
  Models& models_;
  std::vector<std::vector<Normalizer>> normalizers_;  // [model][row]
  std::vector<std::vector<RowScore>> rows_;
  std::vector<std::vector<double>> token_kl_;  // [model], of all texts
};

}  // namespace

QualityReport measure_quality(const QualityRequest& request, const ChooseDevice& choose, const OnProgress& progress) {
  assert(!request.models.empty() && request.references.size() == request.models.size());
  const auto tell = [&](double done) {
    if (progress) progress(done);
  };
  Models models;
  for (const Cell& cell : request.models) {
    models.push_back(std::make_unique<ForcedModel>(cell, request, choose));
    const int vocab = models.front()->shape().vocab, found = models.back()->shape().vocab;
    if (found != vocab) fail(ErrorKind::internal, "quality: vocabularies of {} and {} ids", vocab, found);
  }
  require_room(models);
  for (const auto& model : models) model->load([&] { tell(0); });

  QualityReport report;
  report.models.resize(models.size());
  std::vector<ForcedText> texts = request.texts;
  if (request.answer_tokens > 0) {
    ForcedText& text = texts.at(0);
    report.answer = models[static_cast<size_t>(request.answers)]->answer_to(text.prompt, request.answer_tokens);
    text.targets = report.answer;
    text.ids.assign(report.answer.begin(), report.answer.end() - 1);
  }
  Comparison comparison(request, models);
  for (size_t i = 0; i < texts.size(); ++i) {
    comparison.add(texts[i], &report);
    tell(static_cast<double>(i + 1) / static_cast<double>(texts.size()));
  }
  for (size_t m = 0; m < models.size(); ++m) {
    if (request.references[m] >= 0) report.models[m].kl_p99 = comparison.kl_p99(m);
  }
  return report;
}

}  // namespace quantbench
