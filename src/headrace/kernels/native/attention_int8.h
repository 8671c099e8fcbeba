// Register kernels over int8 keys and values: scores, probabilities, weighted values.
//
// What meets the bytes is an integer of 15 bits with a scale, split into a high and a low part of 8:
// two passes of the byte dot product, hence nothing is lost but what storing in int8 lost. A query
// has one scale. A value's scale is a power of two, whose exponent is added to the token's score: so
// probability times scale comes out of one exponential, and relative to the chunk's largest such
// product, which is what the integers must resolve (a token that takes all attention but has no
// value drowns nobody). The bytes' offset of 128 is taken off again: sums start at minus the sum of
// the integers, which the shift between high and low parts multiplies by 128.
// Integer sums are exact: at most 256 * 255 * 16256 < 2^31.
#pragma once
#include "attention_tile.h"

namespace hr::paged {

constexpr float kWhole = 127 * 128;       // the largest integer: high part 127
constexpr float kLog2Whole = 13.988684f;  // a little less than its logarithm
static_assert(kChunk <= kMaxHeadDim, "integer sums over a chunk must fit");

// Integers up to kWhole, either sign → high * 128 + low, low in 0..127.
HR_INLINE void split(I whole, int8_t* high, int8_t* low) {
  store_s8(high, shift_right<7>(whole));
  store_s8(low, low_bits<7>(whole));
}

// Of a sum over the high parts, which is shifted by 7 before the low parts come.
HR_INLINE I start_of(int32_t wholes) { return kDotOffset ? isub(izero(), iset1(wholes)) : izero(); }
static_assert(kDotOffset == 0 || kDotOffset == 128);

struct Int8Kernels {
  // Fours, the high parts [head_dim / 4][rows], then the low parts; `by` = scale * log2(e).
  static void pack_query(const float* q, float by, int row, int rows, int head_dim, RowBlock& block) {
    alignas(64) int8_t high[kMaxHeadDim], low[kMaxHeadDim];
    F top = zero(), off = zero();
    I added = izero();
    for (int d = 0; d < head_dim; d += 16) {
      F x = load(q + d);
      top = max(top, abs(x));
      off = add(off, hr::sub(x, x));  // NaN where x is not finite
    }
    float most = largest(top), infinite = sum(off);
    bool usable = most > 0 && infinite == 0;
    F inverse = set1(usable ? kWhole / most : 0.0f);
    for (int d = 0; d < head_dim; d += 16) {
      I whole = usable ? to_int(mul(load(q + d), inverse)) : izero();
      added = iadd(added, whole);
      split(whole, high + d, low + d);
    }
    uint32_t *highs = block.q + row, *lows = highs + (int64_t)head_dim / 4 * rows;
    for (int d = 0; d < head_dim; d += 4) {
      memcpy(highs + d / 4 * rows, high + d, 4);
      memcpy(lows + d / 4 * rows, low + d, 4);
    }
    block.query_scale[row] = most / kWhole * by + infinite;
    block.query_sum[row] = isum(added);
  }

  // `J` sub-blocks from `sub` on, for R rows.
  template <int R, int J>
  HR_INLINE void score(const RowBlock& block, const Chunk& chunk, const Chunk& ahead, int sub,
                       Weights& weights) {
    I sums[R][J];
    HR_UNROLL for (int r = 0; r < R; r++) {
      I start = start_of(block.query_sum[r]);
      HR_UNROLL for (int j = 0; j < J; j++) sums[r][j] = start;
    }
    const int32_t* q = (const int32_t*)block.q;
    for (int part = 0; part < 2; part++) {
      if (part == 1) {
        HR_UNROLL for (int r = 0; r < R; r++) {
          HR_UNROLL for (int j = 0; j < J; j++) sums[r][j] = shift_left<7>(sums[r][j]);
        }
      }
      for (int64_t at = 0; at < chunk.head_dim * 16; at += 64, q += R) {
        W k[J];
        HR_UNROLL for (int j = 0; j < J; j++) {
          k[j] = load_w(chunk.k[sub + j] + at);
          if ((at >> 6 & 1) == part) prefetch_far(ahead.k[sub + j] + at);
        }
        HR_UNROLL for (int r = 0; r < R; r++) {
          HR_UNROLL for (int j = 0; j < J; j++) sums[r][j] = dot_bytes(sums[r][j], k[j], q + r);
        }
      }
    }
    F scale[J], exponent[J];
    HR_UNROLL for (int j = 0; j < J; j++) {
      scale[j] = load_bf16(chunk.k_scale[sub + j]);
      exponent[j] = load(weights.exponent + (sub + j) * kSub);
    }
    HR_UNROLL for (int r = 0; r < R; r++) {
      F most = weights.most[r];
      HR_UNROLL for (int j = 0; j < J; j++) {
        F by = mul(scale[j], set1(block.query_scale[r]));
        F score = fma(to_float(sums[r][j]), by, exponent[j]);
        store(&weights.score[r][(sub + j) * kSub], score);
        most = max(most, score);
      }
      weights.most[r] = most;
    }
  }

  // The exponents of the chunk's values, and one over their scales; the next chunk's are fetched.
  static void begin_chunk(const Chunk& chunk, const Chunk& ahead, Weights& weights) {
    for (int sub = 0; sub < ahead.subs; sub++) {
      prefetch_far(ahead.k_scale[sub]);
      prefetch_far(ahead.v_exponent[sub]);
    }
    for (int sub = 0; sub < chunk.subs; sub++) {
      F exponent = mul(to_float(load_s16(chunk.v_exponent[sub])), set1(1.0f / kExponentSteps));
      store(weights.exponent + sub * kSub, exponent);
      store(weights.inverse + sub * kSub, power2(hr::sub(zero(), exponent)));
    }
  }

  template <int R>
  static void weigh(RowBlock& block, Weights& weights) {
    alignas(64) float top[16], here[16];
    memcpy(top, block.top, sizeof top);
    memcpy(here, block.top, sizeof here);
    for (int r = 0; r < R; r++) {
      here[r] = block.whole ? largest(weights.most[r])
                            : mask_and_max(weights.score[r], block.seen_from[r], block.seen_to[r]);
      top[r] = std::max(top[r], here[r]);
    }
    F factor = mul(power2(hr::sub(load(here), load(top))), set1(1.0f / kWhole));
    store(weights.factor, factor);
    store(weights.by, power2(hr::sub(load(block.top), load(top))));
    memcpy(block.top, top, sizeof top);
    for (int r = 0; r < R; r++) {
      Powers powers = block.whole ? all_powers(block, r, here[r], weights)
                                  : seen_powers(block, r, here[r], weights);
      F by = set1(weights.by[r]);
      block.total[r] = fma(block.total[r], by, mul(powers.added, set1(weights.factor[r])));
      weights.sum[r] = isum(powers.wholes);
    }
  }

  struct Powers {
    F added;   // sums of probabilities, relative to the largest product, times kWhole; by lane
    I wholes;  // sums of the integers
  };

  // A vector of scores, exponents in them → products with kWhole for the largest, in p.
  HR_INLINE F integers(F score, float top, I& wholes, int8_t* p) {
    F e = power2(hr::sub(score, set1(top - kLog2Whole)));
    I whole = to_int(min(e, set1(kWhole)));  // and kWhole where it is NaN, as its total tells
    wholes = iadd(wholes, whole);
    split(whole, p, p + kChunk);
    return e;
  }

  HR_INLINE Powers all_powers(const RowBlock& block, int r, float top, Weights& weights) {
    Powers powers = {zero(), izero()};
    int8_t* p = (int8_t*)weights.p[r];
    for (int t = block.from_sub * kSub; t < block.to_sub * kSub; t += kSub) {
      F e = integers(load(weights.score[r] + t), top, powers.wholes, p + t);
      powers.added = fma(e, load(weights.inverse + t), powers.added);
    }
    return powers;
  }

  // The same for a row that does not see all: zeros elsewhere, whatever bits are there.
  static Powers seen_powers(const RowBlock& block, int r, float top, Weights& weights) {
    Powers powers = {zero(), izero()};
    int8_t* p = (int8_t*)weights.p[r];
    for (int t = block.from_sub * kSub; t < block.to_sub * kSub; t += kSub) {
      int from = block.seen_from[r] - t, to = block.seen_to[r] - t;
      if (from < to && from < kSub && to > 0) {
        F e = integers(load(weights.score[r] + t), top, powers.wholes, p + t);  // 0 at kLowest
        F inverse = between(from, to, load(weights.inverse + t), zero());
        powers.added = fma(e, inverse, powers.added);
      } else {
        split(izero(), p + t, p + t + kChunk);
      }
    }
    return powers;
  }

  // 16 * N dimensions of the outputs from `d` on.
  template <int R, int N>
  HR_INLINE void add_values(const RowBlock& block, const Chunk& chunk, const Chunk& ahead, int d,
                            const Weights& weights) {
    I sums[R][N];
    HR_UNROLL for (int r = 0; r < R; r++) {
      I start = start_of(weights.sum[r]);
      HR_UNROLL for (int n = 0; n < N; n++) sums[r][n] = start;
    }
    for (int part = 0; part < 2; part++) {
      if (part == 1) {
        HR_UNROLL for (int r = 0; r < R; r++) {
          HR_UNROLL for (int n = 0; n < N; n++) sums[r][n] = shift_left<7>(sums[r][n]);
        }
      }
      for (int sub = block.from_sub; sub < block.to_sub; sub++) {
        const uint8_t *v = chunk.v[sub] + d * 4, *fetch = ahead.v[sub] + d * 4;
        const int32_t* p = (const int32_t*)&weights.p[0][part * kChunk / 4 + sub * kSub / 4];
        for (int t = 0; t < kSub / 4; t++, v += chunk.head_dim * 4, fetch += chunk.head_dim * 4, p++) {
          W w[N];
          HR_UNROLL for (int n = 0; n < N; n++) {
            w[n] = load_w(v + 64 * n);
            if ((t & 1) == part) prefetch_far(fetch + 64 * n);
          }
          HR_UNROLL for (int r = 0; r < R; r++) {
            HR_UNROLL for (int n = 0; n < N; n++) sums[r][n] = dot_bytes(sums[r][n], w[n], p + r * kChunk / 2);
          }
        }
      }
    }
    float* out = block.out + d;
    HR_UNROLL for (int r = 0; r < R; r++) {
      F by = set1(weights.by[r]), factor = set1(weights.factor[r]);
      HR_UNROLL for (int n = 0; n < N; n++) {
        float* at = out + r * chunk.head_dim + 16 * n;
        store(at, fma(to_float(sums[r][n]), factor, mul(load(at), by)));
      }
    }
  }
};

}  // namespace hr::paged
