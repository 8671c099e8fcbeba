// The products themselves: one tile of 16 outputs times one block of activations, and the order in
// which threads walk tiles and blocks.
//
// A tile meets the blocks one after the other while it lies in the second-level cache; meanwhile the
// next one is fetched from memory, so that arithmetic and memory work at the same time. Activations
// are walked in spans that stay in the cache likewise.
#include "linear.h"

#include <algorithm>
#include <array>
#include <utility>

#include "pool.h"
#include "scratch.h"
#include "simd.h"

namespace hr {
namespace {

constexpr int64_t kSpanBytes = 512 << 10;   // of activations that are walked with one tile
constexpr int64_t kChunkBytes = 64 << 10;   // of weights that a thread takes at a time, at least
constexpr int kAhead = 2048;                // bytes, where a tile is read once

// What to fetch while a tile is multiplied.
struct Fetch {
  const uint8_t* at;
  int lines;  // each group, or 16 lines of bf16; 0 = follow the weights
};

HR_INLINE void fetch_some(Fetch& fetch) {
  for (int i = 0; i < fetch.lines; i++) prefetch(fetch.at + 64 * i);
  fetch.at += 64 * fetch.lines;
}

struct Result {
  float* out;  // of the block's first row, the tile's first output
  int64_t ldo;
  const float* bias;
  int outputs;  // 16, fewer in the last tile
  bool accumulate;
};

template <int B>
HR_INLINE void finish(const F (&sums)[B], const Result& to) {
  F bias = to.bias ? load_some(to.bias, to.outputs) : zero();
  HR_UNROLL for (int m = 0; m < B; m++) {
    float* out = to.out + m * to.ldo;
    F value = to.bias ? add(sums[m], bias) : sums[m];
    if (to.outputs == kOutputs) {
      store(out, to.accumulate ? add(load(out), value) : value);
    } else {
      F before = to.accumulate ? load_some(out, to.outputs) : zero();
      store_some(out, to.accumulate ? add(before, value) : value, to.outputs);
    }
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
    if (fetch.lines == 0) prefetch(w + kAhead);
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

template <int B, int Format, int Group>
void multiply_quantized(const uint8_t* w, const uint8_t* activations, const Tiles& t, Fetch fetch,
                        const Result& to) {
  constexpr int kLines = Format == HR_INT8 ? Group / 4 : Group / 8;
  F sums[B];
  HR_UNROLL for (int m = 0; m < B; m++) sums[m] = zero();
  const uint8_t* scales = w;
  const int32_t* x = (const int32_t*)activations;
  for (int g = 0; g < t.groups(); g++) {
    if (g % 2 == 0) scales = w, w += kScaleLine;
    const float* factors = (const float*)x;
    const int32_t* starts = x + B;
    x += 2 * B;
    fetch_some(fetch);
    I acc[B];
    HR_UNROLL for (int m = 0; m < B; m++) acc[m] = iset1(starts[m]);
    _Pragma("GCC unroll 8") for (int i = 0; i < kLines; i++) {
      W weights = load_w(w);
      if (fetch.lines == 0) prefetch(w + kAhead);
      w += 64;
      if constexpr (Format == HR_INT8) {
        HR_UNROLL for (int m = 0; m < B; m++) acc[m] = dot_u8s8(acc[m], weights, x + m);
        x += B;
      } else {
        W low = low_nibbles(weights), high = high_nibbles(weights);
        HR_UNROLL for (int m = 0; m < B; m++) acc[m] = dot_u8s8(acc[m], low, x + m);
        HR_UNROLL for (int m = 0; m < B; m++) acc[m] = dot_u8s8(acc[m], high, x + B + m);
        x += 2 * B;
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
  return {multiply_bf16<B + 1>...};
}
template <int Format, int Group, int... B>
constexpr Widths quantized_widths(std::integer_sequence<int, B...>) {
  return {multiply_quantized<B + 1, Format, Group>...};
}

const Widths& widths_of(const Tiles& t) {
  typedef std::make_integer_sequence<int, kWidthBf16> Bf16;
  typedef std::make_integer_sequence<int, kWidthQuantized> Quantized;
  static constexpr Widths bf16 = bf16_widths(Bf16());
  static constexpr Widths quantized[2][3] = {
      {quantized_widths<HR_INT8, 32>(Quantized()), quantized_widths<HR_INT8, 64>(Quantized()),
       quantized_widths<HR_INT8, 128>(Quantized())},
      {quantized_widths<HR_INT4, 32>(Quantized()), quantized_widths<HR_INT4, 64>(Quantized()),
       quantized_widths<HR_INT4, 128>(Quantized())}};
  if (!t.quantized()) return bf16;
  return quantized[t.format == HR_INT4][t.group == 32 ? 0 : t.group == 64 ? 1 : 2];
}

// The order of the work: spans of blocks, each walked with all tiles, a chunk of them at a time.
struct Work {
  const hr_matrix& matrix;
  const Activations& x;
  float* out;
  int64_t ldo;
  bool accumulate;
  Tiles t = tiles_of(matrix);
  const Widths& widths = widths_of(t);
  int spans, chunk, chunks;

  Work(const hr_matrix& m, const Activations& a, float* o, int64_t ld, bool add)
      : matrix(m), x(a), out(o), ldo(ld), accumulate(add) {
    int64_t bytes = x.rows() * x.row_bytes();
    spans = (int)std::clamp<int64_t>((bytes + kSpanBytes - 1) / kSpanBytes, 1, x.blocks());
    int64_t walked = t.tile_bytes() * ((x.blocks() + spans - 1) / spans);
    chunk = (int)std::max<int64_t>(1, kChunkBytes / walked);
    chunks = (t.count() + chunk - 1) / chunk;
  }

  int items() const { return spans * chunks; }
  int first_tile(int item) const { return item % chunks * chunk; }
  const uint8_t* tile(int number) const { return (const uint8_t*)matrix.data + number * t.tile_bytes(); }

  void item(int item, int following) const {
    int span = item / chunks, from = first_tile(item);
    int to = std::min(t.count(), from + chunk);
    for (int i = from; i < to; i++) {
      bool last = i + 1 == to;
      walk(i, last ? following < items() ? first_tile(following) : i : i + 1, span, last);
    }
  }

  // One tile times the blocks of a span, while tile `next` is fetched.
  void walk(int number, int next, int span, bool jumps) const {
    int from = (int)((int64_t)x.blocks() * span / spans);
    int to = (int)((int64_t)x.blocks() * (span + 1) / spans);
    int64_t lines = t.quantized() ? t.group_bytes() / 64 + 1 : 16;
    Fetch fetch{tile(next), (int)((lines + to - from - 1) / (to - from))};
    if (to - from == 1) {
      if (jumps) {
        for (int i = 0; i < kAhead; i += 64) prefetch(fetch.at + i);
      }
      fetch.lines = 0;
    }
    int64_t steps = t.quantized() ? t.groups() : t.pairs() / 16;
    for (int b = from; b < to; b++) {
      int64_t at = x.first_row(b) * ldo + number * kOutputs;
      Result result{out + at, ldo, matrix.bias ? matrix.bias + number * kOutputs : nullptr,
                    std::min(kOutputs, t.rows - number * kOutputs), accumulate};
      widths[x.width(b) - 1](tile(number), x.block(b), t, fetch, result);
      fetch.at += steps * fetch.lines * 64;
    }
  }
};

}  // namespace

void multiply(std::atomic<int>& next, const hr_matrix& matrix, const Activations& x, float* out,
              int64_t ldo, bool accumulate) {
  Work work(matrix, x, out, ldo, accumulate);
  auto take = [&] { return next.fetch_add(1, std::memory_order_relaxed); };
  // One item ahead, so that its first lines are on their way when it begins.
  for (int item = take(); item < work.items();) {
    int following = take();
    work.item(item, following);
    item = following;
  }
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
    for (int row; (row = put.fetch_add(1, std::memory_order_relaxed)) < m;) {
      activations.put(row, x + row * ldx);
    }
    threads.barrier();
    hr::multiply(next, *matrix, activations, out, ldo, accumulate != 0);
  });
  return HR_OK;
}
