// The products themselves: one tile of 16 outputs times one block of activations, and the order in
// which threads walk tiles and blocks.
//
// Few rows are bound by memory: a tile is read once, as one stream. Where there are more blocks, a
// tile meets them one after the other while it lies in the second-level cache, and meanwhile the next
// tile is fetched, so that arithmetic and memory work at the same time. Activations are walked in
// spans that stay in the cache likewise.
#include "linear.h"

#include <algorithm>
#include <array>
#include <utility>

#include "linear_amx.h"
#include "linear_unit.h"
#include "pool.h"
#include "scratch.h"
#include "shares.h"
#include "simd.h"

namespace hr {
namespace {

constexpr int64_t kSpanBytes = (kRegisters >= 32 ? 512 : 256) << 10;  // of activations, walked with one tile
constexpr int64_t kLeastBytes = 32 << 10;  // of weights that a thread takes at a time
// Rows up to which the processor's own prefetcher keeps up; on Zen 3 none, without hints weights
// come at 0.55 of the wall instead of 0.95.
constexpr int kThin = kRegisters >= 32 ? 3 : 0;

// With few rows one hint for each so many bytes: none in between. On Zen 4 the loads in flight reach
// far enough ahead to keep the processor's prefetcher going, and each hint takes one of the 24
// buffers that loads wait in: a line in four is best. Emerald Rapids reads 0.76 of its wall so, and
// 0.91 with a hint for each line.
uint64_t hint_bytes() {
#ifdef __x86_64__
  __builtin_cpu_init();
  if (__builtin_cpu_is("intel")) return 64;
#endif
  return 256;
}
const uint64_t kUnhinted = hint_bytes() - 64;

// With more rows loads come too slowly for the processor's prefetcher.
template <int B>
HR_INLINE void fetch_behind(const uint8_t* w) {
  if constexpr (B <= kThin) {
    if (((uintptr_t)w & kUnhinted) == 0) prefetch_far(w + 8192);
  } else {
    prefetch_far(w + 8192);
    prefetch(w + 1024);
  }
}

template <int B>
void multiply_bf16(const uint8_t* w, const uint8_t* activations, const Tiles& t, Fetch fetch,
                   const Result& to) {
  const uint32_t* x = (const uint32_t*)activations;
  F sums[B];
  HR_UNROLL for (int m = 0; m < B; m++) sums[m] = zero();
  auto pair = [&] {
    W weights = load_w(w);
    if (fetch.lines == 0) fetch_behind<B>(w);
    HR_UNROLL for (int m = 0; m < B; m++) sums[m] = dot_bf16(sums[m], weights, x + m);
    w += 64;
    x += B;
  };
  int pairs = t.pairs();
  for (; pairs >= 16; pairs -= 16) {
    fetch_some(fetch);
    _Pragma("GCC unroll 4") for (int i = 0; i < 16; i++) pair();
  }
  for (; pairs; pairs--) pair();
  finish(sums, to);
}

// The same where pairs have no instruction of their own: a column at a time, activations as floats.
template <int B>
void multiply_widened(const uint8_t* w, const uint8_t* activations, const Tiles& t, Fetch fetch,
                      const Result& to) {
  const float* x = (const float*)activations;
  F sums[B];
  HR_UNROLL for (int m = 0; m < B; m++) sums[m] = zero();
  const int pairs = t.pairs();
  for (int i = 0; i < pairs; i++, w += 64, x += 2 * B) {
    if (fetch.lines == 0) {
      fetch_behind<B>(w);
    } else if (i % 16 == 0) {
      fetch_some(fetch);
    }
    F weights = evens(load_w(w));
    HR_UNROLL for (int m = 0; m < B; m++) fma_into(sums[m], weights, set1(x[m]));
    // Loaded again: with six rows no register is left to keep the pairs in.
    asm("" : "+r"(w));
    weights = odds(load_w(w));
    HR_UNROLL for (int m = 0; m < B; m++) fma_into(sums[m], weights, set1(x[B + m]));
  }
  finish(sums, to);
}

template <int B>
void multiply_f32(const uint8_t* w, const uint8_t* activations, const Tiles& t, Fetch fetch,
                  const Result& to) {
  const float* x = (const float*)activations;
  F sums[B];
  HR_UNROLL for (int m = 0; m < B; m++) sums[m] = zero();
  auto column = [&] {
    F weights = load((const float*)w);
    if (fetch.lines == 0) fetch_behind<B>(w);
    HR_UNROLL for (int m = 0; m < B; m++) sums[m] = dot_f32(sums[m], weights, x + m);
    w += 64;
    x += B;
  };
  int cols = t.cols;
  for (; cols >= 16; cols -= 16) {
    fetch_some(fetch);
    _Pragma("GCC unroll 4") for (int i = 0; i < 16; i++) column();
  }
  for (; cols; cols--) column();
  finish(sums, to);
}

template <int B, int Format, int Group>
void multiply_quantized(const uint8_t* w, const uint8_t* activations, const Tiles& t, Fetch fetch,
                        const Result& to) {
  constexpr int kLines = Format == HR_INT8 ? Group / 4 : Group / 8;
  F sums[B];
  HR_UNROLL for (int m = 0; m < B; m++) sums[m] = zero();
  const uint8_t* scales = w;
  const int32_t* x = (const int32_t*)activations;
  const int groups = t.groups();
  for (int g = 0; g < groups; g++) {
    if (g % 2 == 0) {
      scales = w;
      if (fetch.lines == 0) fetch_behind<B>(w);
      w += kScaleLine;
    }
    const float* factors = (const float*)x;
    const int32_t* starts = x + B;
    x += 2 * B;
    fetch_some(fetch);
    I acc[B];
    HR_UNROLL for (int m = 0; m < B; m++) acc[m] = iset1(starts[m]);
    auto line = [&] {
      W weights = load_w(w);
      if (fetch.lines == 0) fetch_behind<B>(w);
      w += 64;
      return weights;
    };
    if constexpr (Format == HR_INT8) {
      _Pragma("GCC unroll 8") for (int i = 0; i < kLines; i++) {
        W weights = line();
        HR_UNROLL for (int m = 0; m < B; m++) acc[m] = dot_bytes(acc[m], weights, x + m);
        x += B;
      }
    } else {
      constexpr int kPart = std::min(kLines, kMostNibbles / 2);
      _Pragma("GCC unroll 1") for (int i = 0; i < kLines; i += kPart) {
        Nibbles sums[B];
        HR_UNROLL for (int m = 0; m < B; m++) sums[m] = begin_nibbles(acc[m]);
        HR_UNROLL for (int j = 0; j < kPart; j++) {
          W weights = line(), low = low_nibbles(weights), high = high_nibbles(weights);
          HR_UNROLL for (int m = 0; m < B; m++) sums[m] = dot_nibbles(sums[m], low, x + m);
          HR_UNROLL for (int m = 0; m < B; m++) sums[m] = dot_nibbles(sums[m], high, x + B + m);
          x += 2 * B;
        }
        HR_UNROLL for (int m = 0; m < B; m++) acc[m] = end_nibbles(acc[m], sums[m]);
      }
    }
    F scale = load_f16((const f16*)(scales + g % 2 * 32));
    HR_UNROLL for (int m = 0; m < B; m++) {
      sums[m] = fma(to_float(acc[m]), mul(scale, set1(factors[m])), sums[m]);
    }
  }
  finish(sums, to);
}

typedef void (*Multiply)(const uint8_t*, const uint8_t*, const Tiles&, Fetch, const Result&);
typedef std::array<Multiply, kMaxWidth> Widths;  // [width - 1]

template <int... B>
constexpr Widths bf16_widths(std::integer_sequence<int, B...>) {
  return {(kNativeBf16Dot ? multiply_bf16<B + 1> : multiply_widened<B + 1>)...};
}
template <int... B>
constexpr Widths f32_widths(std::integer_sequence<int, B...>) {
  return {multiply_f32<B + 1>...};
}
template <int Format, int Group, int... B>
constexpr Widths quantized_widths(std::integer_sequence<int, B...>) {
  return {multiply_quantized<B + 1, Format, Group>...};
}

const Widths& widths_of(const Tiles& t) {
  typedef std::make_integer_sequence<int, kWidthBf16> Bf16;
  typedef std::make_integer_sequence<int, kWidthQuantized> Quantized;
  static constexpr Widths bf16 = bf16_widths(Bf16());
  static constexpr Widths f32 = f32_widths(Bf16());
  static constexpr Widths quantized[2][3] = {
      {quantized_widths<HR_INT8, 32>(Quantized()), quantized_widths<HR_INT8, 64>(Quantized()),
       quantized_widths<HR_INT8, 128>(Quantized())},
      {quantized_widths<HR_INT4, 32>(Quantized()), quantized_widths<HR_INT4, 64>(Quantized()),
       quantized_widths<HR_INT4, 128>(Quantized())}};
  if (!t.quantized()) return t.format == HR_F32 ? f32 : bf16;
  return quantized[t.format == HR_INT4][t.group == 32 ? 0 : t.group == 64 ? 1 : 2];
}

// The work in units of one tile times one span of blocks, all tiles of a span in turn.
struct Work {
  const hr_matrix& matrix;
  const Activations& x;
  float* out;
  int64_t ldo;
  bool accumulate;
  Tiles t = tiles_of(matrix);
  const Widths& widths = widths_of(t);
  int spans = (int)std::clamp<int64_t>((x.rows() * x.row_bytes() + kSpanBytes - 1) / kSpanBytes, 1,
                                       x.blocks());

  int units() const { return spans * t.count(); }
  // Units that a thread takes at a time, at least.
  int least() const {
    int64_t walked = t.tile_bytes() * ((x.blocks() + spans - 1) / spans);
    return (int)std::max<int64_t>(1, kLeastBytes / walked);
  }
  const uint8_t* tile(int unit) const {
    return (const uint8_t*)matrix.data + unit % t.count() * t.tile_bytes();
  }

  // Does a unit while `next` is fetched.
  void run(int unit, int next) const {
    int span = unit / t.count(), number = unit % t.count();
    int from = (int)((int64_t)x.blocks() * span / spans);
    int to = (int)((int64_t)x.blocks() * (span + 1) / spans);
    Fetch fetch{tile(next), 0};
    if (to - from > 1) {
      int64_t lines = t.quantized() ? t.group_bytes() / 64 + 1 : 16;
      fetch.lines = (int)((lines + to - from - 1) / (to - from));
    } else if (next != unit + 1) {
      for (int i = 0; i < 4096; i += 64) prefetch_far(fetch.at + i);
    }
    int64_t steps = t.quantized() ? t.groups() : t.tile_bytes() / 64 / 16;
    for (int b = from; b < to; b++) {
      float* first = out + x.first_row(b) * ldo + number * kOutputs;
      Result result{first, ldo, matrix.bias ? matrix.bias + number * kOutputs : nullptr,
                    std::min(kOutputs, t.rows - number * kOutputs), accumulate};
      widths[x.width(b) - 1](tile(unit), x.block(b), t, fetch, result);
      fetch.at += steps * fetch.lines * 64;
    }
  }
};

}  // namespace

void multiply(std::atomic<int>& next, int threads, const hr_matrix& matrix, const Activations& x,
              float* out, int64_t ldo, bool accumulate) {
  if constexpr (kAmx) {
    if (x.for_amx()) return multiply_amx(next, threads, matrix, x, out, ldo, accumulate);
  }
  Work work{matrix, x, out, ldo, accumulate};
  walk(Shares(work.units(), work.least(), threads, next),
       [&](int unit, int next) { work.run(unit, next); });
}

}  // namespace hr

int hr_linear(hr_pool* pool, hr_scratch* scratch, const hr_matrix* matrix, int m, const float* x,
              int64_t ldx, float* out, int64_t ldo, int accumulate) {
  if (int wrong = hr::tiles_of(*matrix).check()) return wrong;
  if (m < 1 || ldx < matrix->cols || ldo < matrix->rows) return HR_ESHAPE;
  hr::Activations& activations = scratch->linear;
  activations.shape(m, *matrix);
  hr::Pool& threads = pool->threads;
  std::atomic<int> put{0}, next{0};
  threads.run([&](int) {
    for (int i; (i = put.fetch_add(1, std::memory_order_relaxed)) < activations.parts();) {
      hr::Activations::Part part = activations.part(i);
      for (int row = part.first_row; row < part.last_row; row++) {
        activations.put(row, part.from, part.count, x + row * ldx + part.from);
      }
    }
    threads.barrier();
    hr::multiply(next, threads.threads(), *matrix, activations, out, ldo, accumulate != 0);
  });
  return HR_OK;
}
