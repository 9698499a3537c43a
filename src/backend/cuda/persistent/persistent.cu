// One token in one launch. Each multiprocessor has one block: a producer that streams its share of all weights of the
// model through a ring in shared memory, as fast as memory gives them and without looking at the ops; and sixteen warps
// that multiply what arrives. Blocks meet only in the words of the exchange buffers (step.h).
#include <type_traits>

#include "backend/cuda/launch.cuh"
#include "backend/cuda/persistent/head_attention.cuh"
#include "backend/cuda/persistent/unit_products.cuh"

namespace quantbench::QB_CUDA {
namespace persistent {
namespace {

constexpr int kThreads = (kConsumerWarps + 1) * kWarpSize;

#if defined(QB_HOPPER)

// --- the next token -------------------------------------------------------------------------------
QB_DEVICE Best best_of_block(const Shared& m, Best best) {
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    best = better(best, {from_lane_xor(best.score, mask), from_lane_xor(best.id, mask)});
  }
  Best* const all = m.pointer<Best>(m.at.sums);
  sync_consumers();
  if (lane_index() == 0) all[warp_index()] = best;
  sync_consumers();
  best = all[0];
  for (int w = 1; w < kConsumerWarps; ++w) best = better(best, all[w]);
  return best;
}

QB_DEVICE void choose_token(const PersistentArgs& a, const Shared& m) {
  if (!a.chooses) return;
  // Asked for now, so that the end need not wait for it.
  const int sequence = a.sequence[0], stop_count = a.done ? a.stops[0] : 0;
  const bool is_done = a.done && a.done[sequence] != 0;
  sync_consumers();  // all outputs are finished
  constexpr int kEntries = kConsumerWarps * kUnitRows;
  Best best = thread_index() < kEntries ? m.pointer<Best>(m.at.best)[thread_index()] : Best{};
  best = best_of_block(m, best);
  if (thread_index() == 0) {
    put_word(a.best + 2 * block_x(), tagged(bits_of_float(best.score), a.epoch));
    put_word(a.best + 2 * block_x() + 1, tagged(static_cast<uint32_t>(best.id), a.epoch));
  }
  if (block_x() != 0) return;
  best = {};
  for (int i = thread_index(); i < blocks_x(); i += kConsumers) {
    const TwoValues v = wait_two({a.stuck, a.epoch, a.step_count}, a.best + 2 * i);
    best = better(best, {as_float(v.first), static_cast<int32_t>(v.second)});
  }
  best = best_of_block(m, best);
  if (thread_index() != 0) return;
  if (is_done) return;
  const int next = *m.position() + 1;
  a.token[0] = best.id;
  a.position[0] = next;
  if (a.history && next < a.history_positions) {
    a.history[static_cast<size_t>(sequence) * a.history_positions + next] = best.id;
  }
  if (is_among(a.stops + 1, stop_count, best.id)) a.done[sequence] = 1;
}

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

template <WeightFormat kFormat, int kPieces>
QB_DEVICE void consume(const PersistentArgs& a, const Shared& m) {
  if (a.nf4) {
    auto* const table = m.pointer<uint32_t>(m.at.table);
    for (int i = thread_index(); i < 256 * kWarpSize; i += kConsumers) table[i] = a.code_pairs[i / kWarpSize];
    float* const code = m.pointer<float>(m.at.code);
    for (int i = thread_index(); i < 256; i += kConsumers) code[i] = a.nested_code[i];
  }
  if (thread_index() < kConsumerWarps * kUnitRows) m.pointer<Best>(m.at.best)[thread_index()] = {};
  if (lane_index() == 0) {
    Consumer c;
    c.ring.slot = warp_index() / kTeamWarps;
    c.next_slot = static_cast<uint32_t>(c.ring.slot);
    m.pointer<Consumer>(m.at.consumers)[warp_index()] = c;
  }
  fetch_step(a, m, 0);
  step_arrived();
  sync_consumers();
  for (int i = 0; i < a.step_count; ++i) {
    const Step& s = m.pointer<Step>(m.at.steps)[i % 2];
    const Wait wait{a.stuck, a.epoch, i};
    fetch_step(a, m, i + 1);
    if (s.kind == StepKind::attend) {
      attend<kPieces>(a, m, s, wait);
    } else if (kFormat == WeightFormat::f16 || s.format == WeightFormat::f16) {
      product<WeightFormat::f16>(a, m, s, wait);
    } else {
      product<kFormat>(a, m, s, wait);
    }
    step_arrived();
    sync_consumers();  // the next step is there, and the row of this one is used up
  }
  choose_token(a, m);
}
#endif

// kFormat: of all products but the head's, or that one's too. kPieces: sixteenths of a head's dimensions.
template <WeightFormat kFormat, int kPieces>
__global__ void __launch_bounds__(kThreads, 1) persistent_kernel(const __grid_constant__ PersistentArgs a) {
#if defined(QB_HOPPER)
  const Shared m{a.at, aligned_shared()};
  if (thread_index() == 0) {
    for (int i = 0; i < a.slots; ++i) {
      barrier_init(m.barriers() + static_cast<SharedAddress>(i) * kSlotBarriers, 1);
      barrier_init(m.barriers() + static_cast<SharedAddress>(i) * kSlotBarriers + kEmpty, kTeamWarps);
    }
    for (int i = 0; a.nf4 && i <= a.slots; ++i) barrier_init(m.scale_barriers() + static_cast<SharedAddress>(i) * 8, 1);
    publish_barriers();
    for (int i = 0; i < kPartBuffers; ++i) {
      barrier_init(m.part_barriers() + static_cast<SharedAddress>(i) * kSlotBarriers, kPartArrivals);
      barrier_init(m.part_barriers() + static_cast<SharedAddress>(i) * kSlotBarriers + kEmpty, 1);
    }
    *m.position() = a.position[0];
    *m.token() = a.token[0];
    if (shared_address(m.base) % 1024 != 0) give_up(a.stuck, 4, 0);
  }
  sync_block();
  if (warp_index() < kConsumerWarps)
    consume<kFormat, kPieces>(a, m);
  else if (lane_index() == 0)
    produce(a, m);
#endif
}

}  // namespace
}  // namespace persistent

void launch_persistent(const PersistentArgs& args, WeightFormat format, int head_dim, size_t shared_bytes,
                       int multiprocessors, const Stream& stream) {
  const auto with = [&](auto kernel) {
    launch_cooperative(kernel, multiprocessors, persistent::kThreads, stream, args, shared_bytes);
  };
  const auto with_format = [&](auto pieces) {
    constexpr int kPieces = decltype(pieces)::value;
    switch (format) {
      case WeightFormat::int8: return with(persistent::persistent_kernel<WeightFormat::int8, kPieces>);
      case WeightFormat::nf4: return with(persistent::persistent_kernel<WeightFormat::nf4, kPieces>);
      default: return with(persistent::persistent_kernel<WeightFormat::f16, kPieces>);
    }
  };
  switch (head_dim) {
    case 32: return with_format(std::integral_constant<int, 2>{});
    case 64: return with_format(std::integral_constant<int, 4>{});
    case 80: return with_format(std::integral_constant<int, 5>{});
    case 128: return with_format(std::integral_constant<int, 8>{});
    default: return;
  }
}

}  // namespace quantbench::QB_CUDA
