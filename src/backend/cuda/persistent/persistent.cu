// One token in one launch. Each multiprocessor has one block: a producer that streams its share of all weights of the
// model through a ring in shared memory, as fast as memory gives them and without looking at the ops; sixteen warps
// that multiply what arrives; and three that make outputs of their sums. Blocks meet only in the words of the exchange
// buffers (step.h).
#include <type_traits>

#include "backend/cuda/launch.cuh"
#include "backend/cuda/persistent/finish_units.cuh"
#include "backend/cuda/persistent/head_attention.cuh"
#include "backend/cuda/persistent/unit_products.cuh"

namespace quantbench::QB_CUDA {
namespace persistent {
namespace {

// Four warps at a time have registers in common: behind the consumers come the finishers and the producer. All have 96
// a thread at first, of which the last four warps leave some to the others: no more than that in all.
constexpr int kOtherWarps = 4, kThreads = (kConsumerWarps + kOtherWarps) * kWarpSize;
static_assert(kFinishers + 1 <= kOtherWarps);
constexpr int kRegisters = 96, kConsumerRegisters = 104, kOtherRegisters = 64;
static_assert(kConsumerWarps * kConsumerRegisters + kOtherWarps * kOtherRegisters ==
              (kConsumerWarps + kOtherWarps) * kRegisters);  // a warp that asks for more waits for ever

#if defined(QB_HOPPER)

// Copies a step to where the consumers read it, beside the one that they are at.
QB_DEVICE void fetch_step(const PersistentArgs& a, const Shared& m, int step) {
  constexpr int kPiece = 16;
  const int thread = thread_index();
  if (thread >= static_cast<int>(sizeof(Step) / kPiece) || step >= a.step_count) return;
  const SharedAddress to = shared_address(m.base + m.at.steps) + static_cast<SharedAddress>(step % 2) * sizeof(Step);
  copy16_async(to + static_cast<SharedAddress>(thread * kPiece),
               reinterpret_cast<const std::byte*>(a.steps + step) + thread * kPiece);
}
QB_DEVICE void step_arrived() { wait_for_copies(); }

template <WeightFormat kFormat, int kHeadDim, bool kForT5>
QB_DEVICE void consume(const PersistentArgs& a, const Shared& m) {
  if (a.nf4) {
    auto* const table = m.pointer<uint32_t>(m.at.table);
    for (int i = thread_index(); i < 256 * kWarpSize; i += kConsumers) table[i] = a.code_pairs[i / kWarpSize];
    float* const code = m.pointer<float>(m.at.code);
    for (int i = thread_index(); i < 256; i += kConsumers) code[i] = a.nested_code[i];
  }
  if constexpr (kForT5) copy_bias(a, m);
  if (lane_index() == 0) m.pointer<Place>(m.at.places)[warp_index()] = {};
  fetch_step(a, m, 0);
  step_arrived();
  sync_consumers();
  for (int i = 0; i < a.step_count; ++i) {
    const Step& s = m.pointer<Step>(m.at.steps)[i % 2];
    const Wait wait{a.stuck, a.epoch, &s.index};
    fetch_step(a, m, i + 1);
    if (s.kind == StepKind::attend) {
      attend<kHeadDim, kForT5>(a, m, s, wait);
    } else if (kForT5 && s.format == WeightFormat::f32) {
      if constexpr (kForT5) product<WeightFormat::f32>(a, m, s, wait);
    } else if (kFormat == WeightFormat::f16 || s.format == WeightFormat::f16) {
      product<WeightFormat::f16>(a, m, s, wait);
    } else {
      product<kFormat>(a, m, s, wait);
    }
    step_arrived();
    sync_consumers();  // the next step is there, and the row of this one is used up
  }
}
#endif

// As KernelKind.
template <WeightFormat kFormat, int kHeadDim, bool kForT5>
__global__ void __launch_bounds__(kThreads, 1) persistent_kernel(const __grid_constant__ PersistentArgs a) {
#if defined(QB_HOPPER)
  const Shared m{a.at, aligned_shared()};
  if (thread_index() == 0) {
    for (int i = 0; i < a.slots; ++i) {
      barrier_init(m.barriers() + static_cast<SharedAddress>(i) * kTwoBarriers, 1);
      barrier_init(m.barriers() + static_cast<SharedAddress>(i) * kTwoBarriers + kEmpty, kArrivals);
    }
    for (int i = 0; a.nf4 && i <= a.slots; ++i) barrier_init(m.scale_barriers() + static_cast<SharedAddress>(i) * 8, 1);
    publish_barriers();
    for (int i = 0; i < kPartBuffers; ++i) {
      barrier_init(m.part_barriers() + static_cast<SharedAddress>(i) * kTwoBarriers, kArrivals);
      put_count(finished_count(m.part_barriers() + static_cast<SharedAddress>(i) * kTwoBarriers), 0);
    }
    barrier_init(m.best_barrier(), kFinishers - 1);
    *m.position() = a.position[0];
    *m.token() = a.token[0];
    *m.sequence() = a.sequence[0];
    if (shared_address(m.base) % 1024 != 0) give_up(a.stuck, 4, 0);
  }
  sync_block();
  if (warp_index() < kConsumerWarps) {
    take_registers<kConsumerRegisters>();
    consume<kFormat, kHeadDim, kForT5>(a, m);
  } else {
    leave_registers<kOtherRegisters>();
    if (warp_index() < kConsumerWarps + kFinishers)
      finish<kFormat, kForT5>(a, m, warp_index() - kConsumerWarps);
    else if (warp_index() == kConsumerWarps + kFinishers)
      produce(a, m);
  }
#endif
}

}  // namespace
}  // namespace persistent

namespace {

// Calls with_kernel(kernel) for the one of these; not at all where there is none (has_persistent_kernel).
template <typename WithKernel>
void for_kernel(const KernelKind& kind, const WithKernel& with_kernel) {
  const auto with_heads = [&](auto head_dim, auto for_t5) {
    constexpr int kHeadDim = decltype(head_dim)::value;
    constexpr bool kForT5 = decltype(for_t5)::value;
    switch (kind.format) {
      case WeightFormat::int8: return with_kernel(persistent::persistent_kernel<WeightFormat::int8, kHeadDim, kForT5>);
      case WeightFormat::nf4: return with_kernel(persistent::persistent_kernel<WeightFormat::nf4, kHeadDim, kForT5>);
      default: return with_kernel(persistent::persistent_kernel<WeightFormat::f16, kHeadDim, kForT5>);
    }
  };
  if (kind.for_t5) {
    if (kind.head_dim == 64) with_heads(std::integral_constant<int, 64>{}, std::true_type{});
    return;
  }
  switch (kind.head_dim) {
    case 32: return with_heads(std::integral_constant<int, 32>{}, std::false_type{});
    case 64: return with_heads(std::integral_constant<int, 64>{}, std::false_type{});
    case 80: return with_heads(std::integral_constant<int, 80>{}, std::false_type{});
    case 128: return with_heads(std::integral_constant<int, 128>{}, std::false_type{});
    case 256: return with_heads(std::integral_constant<int, 256>{}, std::false_type{});
    default: return;
  }
}

}  // namespace

int missing_registers(const KernelKind& kind) {
  int registers = persistent::kRegisters;
#if !defined(QB_CUDA_EMULATED)
  for_kernel(kind, [&](auto kernel) {
    cudaFuncAttributes attributes{};
    if (cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)) == cudaSuccess)
      registers = attributes.numRegs;
  });
#else
  static_cast<void>(kind);
#endif
  return persistent::kRegisters > registers ? persistent::kRegisters - registers : 0;
}

void launch_persistent(const PersistentArgs& args, const KernelKind& kind, size_t shared_bytes, int multiprocessors,
                       const Stream& stream) {
  for_kernel(kind, [&](auto kernel) {
    launch_cooperative(kernel, multiprocessors, persistent::kThreads, stream, args, shared_bytes);
  });
}

}  // namespace quantbench::QB_CUDA
