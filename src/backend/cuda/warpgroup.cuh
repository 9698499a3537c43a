// What tensor products need of sm_90a beyond hopper.cuh: products of warpgroups (four warps side by side) from shared
// memory, boxes of plain matrices, clusters of blocks that see each other's shared memory.
#pragma once

#include "backend/cuda/persistent/hopper.cuh"

#if defined(QB_CUDA_EMULATED)
#define QB_WARPGROUPS
#include "backend/cuda/emulated/warpgroup_emulated.h"
#else
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define QB_WARPGROUPS
#endif

namespace quantbench::QB_CUDA {

constexpr int kWarpgroup = 4 * kWarpSize;
constexpr int kProductColumns = 256;               // of a warpgroup's product, which has 64 rows
constexpr int kProductSums = kProductColumns / 2;  // of a thread, the bits of int32 or float

// --- products -----------------------------------------------------------------------------------------------------
// Operands lie in rows of 128 bytes, as a swizzled box does; where the first of them begins.
QB_DEVICE uint64_t operand_at(SharedAddress from) {
  constexpr uint64_t kEightRows = 1024 >> 4, kSwizzle128 = 1;
  return uint64_t{(from & 0x3ffff) >> 4} | uint64_t{1} << 16 | kEightRows << 32 | kSwizzle128 << 62;
}
// By a whole warpgroup: sums (=, +=) X·Wᵀ of 64 rows of X and 256 of W, 32 bytes of k. A thread's sums: as mma_f16, for
// each eight columns, of rows 16 · warp + g and g + 8. They may not be touched until wait_for_products().
// clang-format off
#define QB_SUM_REGISTERS_64 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define QB_SUM_OPERANDS_64 \
  "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3]), "+r"(sums[4]), "+r"(sums[5]), "+r"(sums[6]), "+r"(sums[7]), \
  "+r"(sums[8]), "+r"(sums[9]), "+r"(sums[10]), "+r"(sums[11]), "+r"(sums[12]), "+r"(sums[13]), "+r"(sums[14]), "+r"(sums[15]), \
  "+r"(sums[16]), "+r"(sums[17]), "+r"(sums[18]), "+r"(sums[19]), "+r"(sums[20]), "+r"(sums[21]), "+r"(sums[22]), "+r"(sums[23]), \
  "+r"(sums[24]), "+r"(sums[25]), "+r"(sums[26]), "+r"(sums[27]), "+r"(sums[28]), "+r"(sums[29]), "+r"(sums[30]), "+r"(sums[31]), \
  "+r"(sums[32]), "+r"(sums[33]), "+r"(sums[34]), "+r"(sums[35]), "+r"(sums[36]), "+r"(sums[37]), "+r"(sums[38]), "+r"(sums[39]), \
  "+r"(sums[40]), "+r"(sums[41]), "+r"(sums[42]), "+r"(sums[43]), "+r"(sums[44]), "+r"(sums[45]), "+r"(sums[46]), "+r"(sums[47]), \
  "+r"(sums[48]), "+r"(sums[49]), "+r"(sums[50]), "+r"(sums[51]), "+r"(sums[52]), "+r"(sums[53]), "+r"(sums[54]), "+r"(sums[55]), \
  "+r"(sums[56]), "+r"(sums[57]), "+r"(sums[58]), "+r"(sums[59]), "+r"(sums[60]), "+r"(sums[61]), "+r"(sums[62]), "+r"(sums[63])
#define QB_SUM_REGISTERS \
  QB_SUM_REGISTERS_64 ", " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define QB_SUM_OPERANDS \
  QB_SUM_OPERANDS_64, \
  "+r"(sums[64]), "+r"(sums[65]), "+r"(sums[66]), "+r"(sums[67]), "+r"(sums[68]), "+r"(sums[69]), "+r"(sums[70]), "+r"(sums[71]), \
  "+r"(sums[72]), "+r"(sums[73]), "+r"(sums[74]), "+r"(sums[75]), "+r"(sums[76]), "+r"(sums[77]), "+r"(sums[78]), "+r"(sums[79]), \
  "+r"(sums[80]), "+r"(sums[81]), "+r"(sums[82]), "+r"(sums[83]), "+r"(sums[84]), "+r"(sums[85]), "+r"(sums[86]), "+r"(sums[87]), \
  "+r"(sums[88]), "+r"(sums[89]), "+r"(sums[90]), "+r"(sums[91]), "+r"(sums[92]), "+r"(sums[93]), "+r"(sums[94]), "+r"(sums[95]), \
  "+r"(sums[96]), "+r"(sums[97]), "+r"(sums[98]), "+r"(sums[99]), "+r"(sums[100]), "+r"(sums[101]), "+r"(sums[102]), "+r"(sums[103]), \
  "+r"(sums[104]), "+r"(sums[105]), "+r"(sums[106]), "+r"(sums[107]), "+r"(sums[108]), "+r"(sums[109]), "+r"(sums[110]), "+r"(sums[111]), \
  "+r"(sums[112]), "+r"(sums[113]), "+r"(sums[114]), "+r"(sums[115]), "+r"(sums[116]), "+r"(sums[117]), "+r"(sums[118]), "+r"(sums[119]), \
  "+r"(sums[120]), "+r"(sums[121]), "+r"(sums[122]), "+r"(sums[123]), "+r"(sums[124]), "+r"(sums[125]), "+r"(sums[126]), "+r"(sums[127])
// clang-format on
template <bool kInt8>
QB_DEVICE void warpgroup_product(uint32_t (&sums)[kProductSums], SharedAddress x, SharedAddress w, bool adds) {
#if defined(QB_WARPGROUPS)
  if constexpr (kInt8) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\nwgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 "
        "{" QB_SUM_REGISTERS "}, %128, %129, p;\n}"
        : QB_SUM_OPERANDS
        : "l"(operand_at(x)), "l"(operand_at(w)), "r"(static_cast<int>(adds)));
  } else {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\nwgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 "
        "{" QB_SUM_REGISTERS "}, %128, %129, p, 1, 1, 0, 0;\n}"
        : QB_SUM_OPERANDS
        : "l"(operand_at(x)), "l"(operand_at(w)), "r"(static_cast<int>(adds)));
  }
#endif
}
// The same of fewer columns, the left operand in registers, as mma_f16 has it: kColumns of the right one's rows. What a
// thread gives may not be written to until wait_for_products().
template <int kColumns>
QB_DEVICE void warpgroup_product_of_registers(uint32_t (&sums)[kColumns / 2], const uint32_t (&a)[4], SharedAddress w,
                                              bool adds) {
  static_assert(kColumns == 128 || kColumns == 136);
#if defined(QB_WARPGROUPS)
  if constexpr (kColumns == 128) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
        "{" QB_SUM_REGISTERS_64 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}"
        : QB_SUM_OPERANDS_64
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(operand_at(w)), "r"(static_cast<int>(adds)));
  } else {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %73, 0;\nwgmma.mma_async.sync.aligned.m64n136k16.f32.f16.f16 "
        "{" QB_SUM_REGISTERS_64 ", %64, %65, %66, %67}, {%68, %69, %70, %71}, %72, p, 1, 1, 0;\n}"
        : QB_SUM_OPERANDS_64, "+r"(sums[64]), "+r"(sums[65]), "+r"(sums[66]), "+r"(sums[67])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(operand_at(w)), "r"(static_cast<int>(adds)));
  }
#endif
}
// The same with both in shared memory.
template <int kColumns>
QB_DEVICE void warpgroup_product_of(uint32_t (&sums)[kColumns / 2], SharedAddress x, SharedAddress w, bool adds) {
  static_assert(kColumns == 128 || kColumns == 136);
#if defined(QB_WARPGROUPS)
  if constexpr (kColumns == 128) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
        "{" QB_SUM_REGISTERS_64 "}, %64, %65, p, 1, 1, 0, 0;\n}"
        : QB_SUM_OPERANDS_64
        : "l"(operand_at(x)), "l"(operand_at(w)), "r"(static_cast<int>(adds)));
  } else {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %70, 0;\nwgmma.mma_async.sync.aligned.m64n136k16.f32.f16.f16 "
        "{" QB_SUM_REGISTERS_64 ", %64, %65, %66, %67}, %68, %69, p, 1, 1, 0, 0;\n}"
        : QB_SUM_OPERANDS_64, "+r"(sums[64]), "+r"(sums[65]), "+r"(sums[66]), "+r"(sums[67])
        : "l"(operand_at(x)), "l"(operand_at(w)), "r"(static_cast<int>(adds)));
  }
#endif
}
#undef QB_SUM_REGISTERS
#undef QB_SUM_OPERANDS
#undef QB_SUM_REGISTERS_64
#undef QB_SUM_OPERANDS_64
// Around the products of one group: what was written to their sums and operands before is there.
QB_DEVICE void open_products() {
#if defined(QB_WARPGROUPS)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
QB_DEVICE void close_products() {
#if defined(QB_WARPGROUPS)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
// Until all groups but the last kLeft are done.
template <int kLeft>
QB_DEVICE void wait_for_products() {
#if defined(QB_WARPGROUPS)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
#endif
}

// --- boxes --------------------------------------------------------------------------------------------------------
// Rows of 128 bytes, the 16-byte columns of row r at column ^ r % 8; zeros beyond the matrix. column: in numbers.
QB_DEVICE void copy_rows(SharedAddress to, const TensorMap* map, int row, int column, SharedAddress barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          to),
      "l"(map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

// --- groups of threads and blocks ---------------------------------------------------------------------------------
// Of the first kThreads of the block.
template <int kThreads>
QB_DEVICE void sync_first() {
  asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
}
// Of kThreads of each of the cluster's kBlocks blocks, all that have not ended; what they wrote to each other before is
// there.
template <int kBlocks, int kThreads>
QB_DEVICE void sync_cluster() {
#if defined(QB_HOPPER)
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
// Into the shared memory of block `rank` of the cluster, where `to` is in this one's.
template <int kBlocks>
QB_DEVICE void put16_in_cluster(int rank, SharedAddress to, const Bytes16& value) {
#if defined(QB_HOPPER)
  asm volatile(
      "{\n.reg .u32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "st.shared::cluster.v4.u32 [there], {%2, %3, %4, %5};\n}" ::"r"(to),
      "r"(rank), "r"(value.word[0]), "r"(value.word[1]), "r"(value.word[2]), "r"(value.word[3])
      : "memory");
#endif
}

}  // namespace quantbench::QB_CUDA
#endif
