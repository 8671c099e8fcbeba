// How fast this machine reads memory and multiplies: the walls that speed is a fraction of.
#include "probe.h"

#include <atomic>
#include <chrono>

#include "scratch.h"
#include "simd.h"

namespace hr {
namespace {

constexpr int kAhead = 4096;
constexpr int kChains = kRegisters / 2;
constexpr int kRounds = 400000;

std::atomic<int32_t> sink;  // so that no loop is dead

template <class Work>
double seconds(Pool& pool, const Work& work) {
  auto began = std::chrono::steady_clock::now();
  pool.run(work);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

void read(const uint8_t* from, const uint8_t* to) {
  I sums[4] = {izero(), izero(), izero(), izero()};
  for (; from + 256 <= to; from += 256) {
    HR_UNROLL for (int i = 0; i < 4; i++) {
      prefetch(from + kAhead + 64 * i);
      sums[i] = iadd(sums[i], iload((const int32_t*)(from + 64 * i)));
    }
  }
  sink = isum(iadd(iadd(sums[0], sums[1]), iadd(sums[2], sums[3])));
}

// The operands are as opaque to the compiler as in the kernels, and as many: read from memory each
// round, one line of weights for all rows.
void dot_int8() {
  alignas(64) volatile int32_t source[16] = {3};
  static_assert(kChains <= 16);
  I sums[kChains];
  HR_UNROLL for (int i = 0; i < kChains; i++) sums[i] = iset1(i);  // equal chains may be made one
  const int32_t* x = const_cast<const int32_t*>(source);
  for (int round = 0; round < kRounds; round++) {
    asm volatile("" ::: "memory");
    W w = load_w(x);
    HR_UNROLL for (int i = 0; i < kChains; i++) sums[i] = dot_bytes(sums[i], w, x + i);
  }
  HR_UNROLL for (int i = 1; i < kChains; i++) sums[0] = iadd(sums[0], sums[i]);
  sink = isum(sums[0]);
}

void dot_bf16_pairs() {
  alignas(64) volatile uint32_t source[16] = {0x3f803f80};
  F sums[kChains];
  HR_UNROLL for (int i = 0; i < kChains; i++) sums[i] = set1((float)i);
  const uint32_t* x = const_cast<const uint32_t*>(source);
  for (int round = 0; round < kRounds; round++) {
    asm volatile("" ::: "memory");
    W w = load_w(x);
    HR_UNROLL for (int i = 0; i < kChains; i++) sums[i] = dot_bf16(sums[i], w, x + i);
  }
  HR_UNROLL for (int i = 1; i < kChains; i++) sums[0] = add(sums[0], sums[i]);
  sink = (int32_t)sum(sums[0]);
}

}  // namespace
}  // namespace hr

double hr_probe_read(hr_pool* pool, const void* data, int64_t bytes) {
  hr::Pool& threads = pool->threads;
  int64_t slice = bytes / threads.threads() / 4096 * 4096;
  const uint8_t* from = (const uint8_t*)data;
  double took = hr::seconds(threads, [&](int t) { hr::read(from + t * slice, from + (t + 1) * slice); });
  return (double)(slice * threads.threads()) / took;
}

double hr_probe_dot(hr_pool* pool, int format) {
  bool bf16 = format == HR_BF16;
  double took = hr::seconds(pool->threads, [&](int) { bf16 ? hr::dot_bf16_pairs() : hr::dot_int8(); });
  double each = bf16 ? 2.0 * 32 : 2.0 * 64;
  return each * hr::kChains * hr::kRounds * pool->threads.threads() / took;
}
