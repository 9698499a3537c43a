#include "model/loader.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>
#include <unordered_set>

#include <fmt/ranges.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/prequantized.h"
#include "core/error.h"
#include "core/os.h"
#include "quant/int8.h"
#include "quant/nf4.h"

namespace quantbench {
namespace {

constexpr int64_t kElementsAtOnce = 1 << 18;  // of one read: large enough for the disk, small enough to share out
// Of a matrix that the host quantises, on its way as fp16: enough for all threads, little beside the model.
constexpr size_t kStagedElements = size_t{4} << 20;
constexpr size_t kMostNamed = 8;  // tensors that a message lists

// `….q_proj.weight.absmax`, `….q_proj.SCB` → `….q_proj.weight`, the weight that they belong to.
std::string weight_of(const std::string& name) {
  for (const std::string_view end : {".SCB", ".weight_format"}) {
    if (name.ends_with(end)) return name.substr(0, name.size() - end.size()) + ".weight";
  }
  const size_t at = name.rfind(".weight.");
  return at == std::string::npos ? name : name.substr(0, at + std::strlen(".weight"));
}

// Buffers that older transformers saved and that are computed, not learnt; and what the first T5 learnt for its
// cross-attention, which no model reads (transformers 5.17, T5's _keys_to_ignore_on_load_unexpected).
bool is_unused(const std::string& name) {
  return name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".attn.bias") || name.ends_with(".masked_bias") ||
         name == "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";
}

void check_quantized(const WeightSlot& slot, const WeightSource& source) {
  if (source.prequantized() == Prequantized::none || !source.find(slot.name)) return;
  if (is_prequantized(source, slot.name) == slot.quantized) return;
  fail(ErrorKind::bad_model,
       "{}: tensor '{}' is {}quantised, expected {}: every linear is, but for the output head and those that "
       "llm_int8_skip_modules names; save the model again, with the output head among them",
       source.where(), slot.name, slot.quantized ? "not " : "", slot.quantized ? "that it is" : "that it is not");
}

class Loader {
 public:
  Loader(Model& model, const WeightSource& source, Backend& backend, const Plan& plan, const LoadProgress& progress)
      : slots_(model.weights()), source_(source), backend_(backend), plan_(plan), progress_(progress) {}

  LoadReport run() {
    const int64_t start_ns = os::steady_now_ns();
    const MemoryUse before = backend_.memory();
    check();
    for (const WeightSlot& slot : slots_) {
      if (slot.tied_to.empty()) {
        fill(slot);
      } else if (source_.find(slot.name)) {
        compare(slot);
      }
      advance(companion_bytes(slot));
    }
    quantizer_.reset();  // what it takes is none of the model's
    for (size_t use = 0; use < kUses; ++use) {
      report_.resident.bytes[use] = backend_.memory().bytes[use] - before.bytes[use];
    }
    check_resident();
    report_.bytes_read = done_;
    report_.duration_ns = os::steady_now_ns() - start_ns;
    return report_;
  }

 private:
  // Everything that can be known before a byte is read.
  void check() {
    check_fits(slots_, source_);
    for (const std::string& name : source_.names()) {
      if (!is_unused(name)) total_ += byte_count(*source_.find(name));
    }
  }

  void fill(const WeightSlot& slot) {
    if (const auto* linear = std::get_if<Matrix*>(&slot.target)) {
      // The same alternative again, so its address stays: an embedding tied to the head points into this Matrix.
      **linear = matrix(slot, format_of(**linear));
    } else {
      *std::get<const float**>(slot.target) = vector(slot);
    }
  }

  Matrix matrix(const WeightSlot& slot, Format format) {
    const int n = slot.rows, k = slot.cols;
    const bool is_ready = source_.prequantized() != Prequantized::none && slot.quantized;
    switch (format) {
      case Format::int8:
        if (!is_ready && quantizer_) return quantizer_->quantize(rows_of(slot), format, slot.role);
        if (is_ready) {
          read_int8(source_, slot.name, n, k, &int8_);
          advance(stored_bytes(slot));
        } else {
          int8_.n = n, int8_.k = k;
          int8_.codes.resize(static_cast<size_t>(n) * static_cast<size_t>(k));
          int8_.absmax.resize(static_cast<size_t>(n));
          stage(slot, [&](size_t first, size_t count, std::span<const f16> rows) {
            const auto width = static_cast<size_t>(k);
            quantize_int8(rows, static_cast<int>(count), k,
                          std::span(int8_.codes).subspan(first * width, count * width),
                          std::span(int8_.absmax).subspan(first, count), backend_.host_pool());
          });
        }
        return backend_.pack(int8_.view(), slot.role, plan_);
      case Format::nf4:
        if (!is_ready && quantizer_) return quantizer_->quantize(rows_of(slot), format, slot.role);
        if (is_ready) {
          read_nf4(source_, slot.name, n, k, &nf4_);
          advance(stored_bytes(slot));
        } else {
          begin_nf4(n, k, &nf4_);
          stage(slot, [&](size_t first, size_t, std::span<const f16> rows) {
            quantize_nf4_part(rows, first * static_cast<size_t>(k) / kNf4Block, &nf4_, backend_.host_pool());
          });
          finish_nf4(&nf4_, backend_.host_pool());
        }
        return backend_.pack(nf4_.view(), slot.role, plan_);
      case Format::f16: return backend_.pack(rows_of(slot), slot.role, plan_);
      case Format::bf16:
        return backend_.pack(HostBf16{n, k,
                                      [&](int first, int count, bf16* out) {
                                        read(slot, first, count, out);
                                        if (slot.role != Role::embedding) check_range(slot, first, count, out);
                                      }},
                             slot.role, plan_);
      case Format::f32:
        return backend_.pack(HostF32{n, k,
                                     [&](int first, int count, float* out) {
                                       source_.read_f32(slot.name, first, count, out);
                                       advance(stored_bytes(slot) / n * count);
                                     }},
                             slot.role, plan_);
    }
    return {};
  }

  HostF16 rows_of(const WeightSlot& slot) {
    return {slot.rows, slot.cols, [&](int first, int count, f16* out) { read(slot, first, count, out); }};
  }

  // Infinity and NaN are the source's to refuse.
  void check_range(const WeightSlot& slot, int first, int count, const bf16* values) const {
    const float largest = backend_.largest_bf16();
    if (largest == std::numeric_limits<float>::max()) return;
    const size_t size = static_cast<size_t>(count) * static_cast<size_t>(slot.cols);
    const bf16* const end = values + size;
    const bf16* const at = std::find_if(values, end, [&](bf16 b) {
      const float magnitude = std::abs(to_float(b));
      return magnitude > largest && std::isfinite(magnitude);
    });
    if (at == end) return;
    const auto cols = static_cast<ptrdiff_t>(slot.cols);
    fail(ErrorKind::bad_model,
         "{}: tensor '{}' element [{}, {}] is {}; on this device bf16 weights are multiplied as fp16, which ends at "
         "{}: run this model on the CPU (--device cpu)",
         source_.where(), slot.name, first + (at - values) / cols, (at - values) % cols, to_float(*at), largest);
  }

  // Rounded to fp16, or bf16, as every parameter is, kept in fp32 as the slot says.
  const float* vector(const WeightSlot& slot) {
    const int count = slot.rows * slot.cols;
    const HostF32 values{1, count, [&](int, int, float* out) {
                           is_bf16_ ? read_vector<bf16>(slot, out) : read_vector<f16>(slot, out);
                           advance(stored_bytes(slot));
                         }};
    return std::get<F32Matrix>(backend_.pack(values, Role::vector, plan_)).w;
  }

  template <typename T>
  void read_vector(const WeightSlot& slot, float* out) {
    std::vector<T> rounded(static_cast<size_t>(slot.rows) * static_cast<size_t>(slot.cols));
    read_rows(slot.name, 0, slot.rows, rounded.data());
    std::transform(rounded.begin(), rounded.end(), out,
                   [&](T value) { return to_float(value) * slot.times + slot.plus; });
  }
  void read_rows(const std::string& name, int64_t first, int64_t count, f16* out) const {
    source_.read_f16(name, first, count, out);
  }
  void read_rows(const std::string& name, int64_t first, int64_t count, bf16* out) const {
    source_.read_bf16(name, first, count, out);
  }

  // Rows of a matrix as fp16 or bf16, in pieces so that progress shows. Called from several threads.
  template <typename T>
  void read(const WeightSlot& slot, int first, int count, T* out) {
    const int at_once = rows_at_once(slot);
    for (int done = 0; done < count; done += at_once) {
      const int rows = std::min(at_once, count - done);
      read_rows(slot.name, first + done, rows, out + static_cast<size_t>(done) * static_cast<size_t>(slot.cols));
      advance(stored_bytes(slot) / slot.rows * rows);
    }
  }
  static int rows_at_once(const WeightSlot& slot) {
    return static_cast<int>(std::max<int64_t>(1, kElementsAtOnce / slot.cols));
  }

  // quantize(first, count, rows): of so many rows of a matrix, which begin at a whole block of nf4.
  template <typename Quantize>
  void stage(const WeightSlot& slot, const Quantize& quantize) {
    const auto k = static_cast<size_t>(slot.cols), rows = static_cast<size_t>(slot.rows);
    const size_t most = std::max(kStagedElements / k / kNf4Block, size_t{1}) * kNf4Block;
    for (size_t first = 0; first < rows; first += most) {
      const size_t count = std::min(most, rows - first);
      staged_.resize(count * k);
      backend_.host_pool().for_chunks(
          count, static_cast<size_t>(rows_at_once(slot)), [&](size_t begin, size_t end, int) {
            read(slot, static_cast<int>(first + begin), static_cast<int>(end - begin), staged_.data() + begin * k);
          });
      quantize(first, count, std::span<const f16>(staged_));
    }
  }

  // A tied tensor that is in the file all the same must say what its partner says.
  void compare(const WeightSlot& slot) { is_bf16_ ? compare_as<bf16>(slot) : compare_as<f16>(slot); }
  template <typename T>
  void compare_as(const WeightSlot& slot) {
    const auto k = static_cast<size_t>(slot.cols), grain = static_cast<size_t>(rows_at_once(slot));
    std::atomic<int64_t> first_other{INT64_MAX};
    backend_.host_pool().for_chunks(static_cast<size_t>(slot.rows), grain, [&](size_t begin, size_t end, int) {
      std::vector<T> own((end - begin) * k), partner((end - begin) * k);
      const auto first = static_cast<int64_t>(begin), count = static_cast<int64_t>(end - begin);
      read_rows(slot.name, first, count, own.data());
      read_rows(slot.tied_to, first, count, partner.data());
      advance(stored_bytes(slot) / slot.rows * count);
      const auto other = std::mismatch(own.begin(), own.end(), partner.begin()).first;
      if (other == own.end()) return;
      const int64_t at = first * slot.cols + (other - own.begin());
      for (int64_t known = first_other; at < known && !first_other.compare_exchange_weak(known, at);) {
      }
    });
    if (first_other == INT64_MAX) return;
    fail(ErrorKind::bad_model,
         "{}: tensor '{}' differs from '{}' at row {}, column {}, though config.json says that they are tied "
         "(tie_word_embeddings); weights and config.json must be of the same model",
         source_.where(), slot.name, slot.tied_to, first_other / slot.cols, first_other % slot.cols);
  }

  int64_t stored_bytes(const WeightSlot& slot) const { return byte_count(*source_.find(slot.name)); }
  // Of the tensors beside a weight that was saved quantised.
  int64_t companion_bytes(const WeightSlot& slot) const {
    if (source_.prequantized() == Prequantized::none || !slot.quantized) return 0;
    const std::string module = slot.name.substr(0, slot.name.rfind('.'));
    int64_t bytes = 0;
    for (const std::string& name : {module + ".SCB", module + ".weight_format", slot.name + ".absmax",
                                    slot.name + ".quant_map", slot.name + ".nested_absmax",
                                    slot.name + ".nested_quant_map", slot.name + ".quant_state.bitsandbytes__nf4"}) {
      if (const auto info = source_.find(name)) bytes += byte_count(*info);
    }
    return bytes;
  }

  void advance(int64_t bytes) {
    if (bytes == 0) return;
    const int64_t done = done_ += bytes;
    if (progress_ && std::this_thread::get_id() == loading_thread_) progress_(done, total_);
  }

  // What the format predicts is what the backend took: otherwise every memory figure would be in doubt.
  void check_resident() const {
    for (const Use use : {Use::weights, Use::scales, Use::unquantized}) {
      if (report_.resident[use] == plan_.predicted[use]) continue;
      fail(ErrorKind::internal, "{}: loading took {} bytes of {}, predicted were {}: this is a fault of quantbench",
           source_.where(), report_.resident[use], name_of(use), plan_.predicted[use]);
    }
  }

  static bool is_bf16(const WeightSlot& slot) {
    const auto* matrix = std::get_if<Matrix*>(&slot.target);
    return matrix && *matrix && format_of(**matrix) == Format::bf16;
  }

  const std::vector<WeightSlot> slots_;
  const bool is_bf16_ = std::any_of(slots_.begin(), slots_.end(), is_bf16);  // the model's precision
  const WeightSource& source_;
  Backend& backend_;
  const Plan& plan_;
  const LoadProgress& progress_;
  const std::thread::id loading_thread_ = std::this_thread::get_id();
  std::atomic<int64_t> done_{0};
  int64_t total_ = 0;
  LoadReport report_;
  std::unique_ptr<WeightQuantizer> quantizer_ = backend_.weight_quantizer(plan_);
  std::vector<f16> staged_;  // rows of one matrix
  Int8Weights int8_;
  Nf4Weights nf4_;
};

RandomKind kind_of(const WeightSlot& slot) {
  switch (slot.role) {
    case Role::embedding: return RandomKind::embedding;
    case Role::linear:
    case Role::output_head: return RandomKind::linear;
    case Role::vector:
      if (slot.rows > 1) return RandomKind::embedding;
      return slot.name.ends_with(".bias") ? RandomKind::bias : RandomKind::norm;
  }
  return RandomKind::linear;
}

}  // namespace

void check_fits(std::span<const WeightSlot> slots, const WeightSource& source) {
  std::vector<ExpectedTensor> expected;
  std::unordered_set<std::string> known;
  for (const WeightSlot& slot : slots) {
    known.insert(slot.name);
    if (slot.tied_to.empty() || source.find(slot.name)) {
      expected.push_back({slot.name, slot.rows, slot.cols, slot.stored_shape});
    }
    check_quantized(slot, source);
  }
  check_tensors(source, expected);
  std::vector<std::string> strangers;
  for (const std::string& name : source.names()) {
    if (known.count(weight_of(name)) == 0 && known.count(name) == 0 && !is_unused(name)) strangers.push_back(name);
  }
  if (strangers.empty()) return;
  std::sort(strangers.begin(), strangers.end());
  const std::string more =
      strangers.size() > kMostNamed ? fmt::format(" and {} more", strangers.size() - kMostNamed) : "";
  const size_t shown = std::min(strangers.size(), kMostNamed);
  fail(ErrorKind::bad_model,
       "{}: '{}'{} {} of the model that config.json describes, and leaving {} out would give wrong text; weights and "
       "config.json must be of the same model",
       source.where(), fmt::join(strangers.begin(), strangers.begin() + static_cast<ptrdiff_t>(shown), "', '"), more,
       strangers.size() == 1 ? "is no tensor" : "are not tensors", strangers.size() == 1 ? "it" : "them");
}

LoadReport load(Model& model, const WeightSource& source, Backend& backend, const Plan& plan,
                const LoadProgress& progress) {
  return Loader(model, source, backend, plan, progress).run();
}

std::vector<RandomTensor> random_tensors(Model& model) {
  std::vector<RandomTensor> tensors;
  for (const WeightSlot& slot : model.weights()) {
    if (!slot.tied_to.empty()) continue;
    tensors.push_back({.name = slot.name,
                       .rows = slot.rows,
                       .cols = slot.cols,
                       .kind = kind_of(slot),
                       .plus = slot.plus,
                       .stored_shape = slot.stored_shape});
  }
  return tensors;
}

}  // namespace quantbench
