#include "backend/cuda/weight_quantizer.h"

#include <algorithm>

#include "backend/host_memory.h"
#include "core/error.h"
#include "quant/kernels.h"

namespace quantbench::QB_CUDA {
namespace {

class DeviceQuantizer final : public WeightQuantizer {
 public:
  DeviceQuantizer(Runtime& runtime, DeviceMemory& memory, ThreadPool& pool, const Tables& tables)
      : runtime_(runtime), memory_(memory), pool_(pool), tables_(tables) {}

  Matrix quantize(const HostF16& weight, Format format, Role role) override {
    if (format == Format::int8) return int8(weight, role);
    if (format == Format::nf4) return nf4(weight, role);
    fail(ErrorKind::internal, "a weight was to be quantised as {}, expected int8 or nf4: this is a fault of quantbench",
         name_of(format));
  }

 private:
  Matrix int8(const HostF16& m, Role role) {
    const size_t n = static_cast<size_t>(m.n), k = static_cast<size_t>(m.k);
    auto* const codes = static_cast<int8_t*>(memory_.keep(codes_use(role), n * k));
    auto* const absmax = static_cast<float*>(memory_.keep(Use::scales, n * sizeof(float)));
    stream(m, 1, [&](const uint16_t* rows, size_t first, size_t count) {
      quantize_rows({rows, static_cast<int>(count), m.k, codes + first * k, absmax + first}, runtime_.stream());
    });
    return Int8Matrix{m.n, m.k, codes, absmax};
  }

  Matrix nf4(const HostF16& m, Role role) {
    const size_t k = static_cast<size_t>(m.k), size = static_cast<size_t>(m.n) * k, blocks = ceil_div(size, kNf4Block);
    auto* const codes = static_cast<uint8_t*>(memory_.keep(codes_use(role), ceil_div(size, 2)));
    auto* const absmax8 = static_cast<uint8_t*>(memory_.keep(Use::scales, blocks));
    const size_t groups = ceil_div(blocks, kNf4NestedBlock);
    auto* const nested_absmax = static_cast<float*>(memory_.keep(Use::scales, groups * sizeof(float)));
    auto* const absmax = room<float>(&absmax_, blocks + 1);  // the mean behind them
    BlocksArgs args{};
    std::copy_n(nf4_midpoints().at, std::size(args.midpoints), args.midpoints);
    // So that each piece of rows begins with a block.
    stream(m, kNf4Block, [&](const uint16_t* rows, size_t first, size_t count) {
      args.w = rows, args.count = count * k;
      args.absmax = absmax + first * k / kNf4Block;
      args.codes = codes + first * k / 2;
      quantize_blocks(args, runtime_.stream());
    });
    quantize_scales({absmax, blocks, tables_.nested_code, absmax + blocks, absmax8, nested_absmax}, runtime_.stream());
    Nf4Matrix out{m.n, m.k, codes, absmax8, nested_absmax};
    runtime_.from_device(&out.offset, absmax + blocks, sizeof out.offset);
    return out;
  }

  // work(rows on the device, first, count): asks for what is to be done with them.
  template <typename Work>
  void stream(const HostF16& m, size_t multiple, const Work& work) {
    stream_rows<f16>(m, multiple, pool_, [&](size_t first, size_t count, const f16* from) {
      const size_t numbers = count * static_cast<size_t>(m.k);
      auto* const rows = room<uint16_t>(&rows_, numbers);
      runtime_.to_device(rows, from, numbers * sizeof(f16));
      work(rows, first, count);
    });
  }
  template <typename T>
  T* room(std::unique_ptr<Buffer>* buffer, size_t count) {
    if (!*buffer || (*buffer)->bytes() < count * sizeof(T)) {
      buffer->reset();
      *buffer = memory_.allocate(Use::workspace, count * sizeof(T));
    }
    return static_cast<T*>((*buffer)->data());
  }

  Runtime& runtime_;
  DeviceMemory& memory_;
  ThreadPool& pool_;
  const Tables& tables_;
  std::unique_ptr<Buffer> rows_, absmax_;
};

}  // namespace

std::unique_ptr<WeightQuantizer> make_weight_quantizer(Runtime& runtime, DeviceMemory& memory, ThreadPool& pool,
                                                       const Tables& tables) {
  return std::make_unique<DeviceQuantizer>(runtime, memory, pool, tables);
}

}  // namespace quantbench::QB_CUDA
