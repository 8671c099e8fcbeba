// Register kernels over int8 keys and values: scores, probabilities, weighted values.
//
// What meets the bytes is an integer of 15 bits with a scale, split into a high and a low part of 8:
// two passes of the byte dot product, hence nothing is lost but what storing in int8 lost. Queries
// have a scale a row, probabilities (times their token's scale of V) one a row and chunk. The
// bytes' offset of 128 is taken off again by `offset` = -128 * sum of the integers.
// Integer sums are exact: at most 256 * 255 * 16256 + its offset < 2^31.
#pragma once
#include "attention_tile.h"

namespace hr::paged {

constexpr float kWhole = 127 * 128;  // the largest integer: high part 127
static_assert(kChunk <= kMaxHeadDim, "integer sums over a chunk must fit");

// Integers up to kWhole, either sign → high * 128 + low, low in 0..127.
HR_INLINE void split(I whole, int8_t* high, int8_t* low) {
  store_s8(high, shift_right<7>(whole));
  store_s8(low, low_bits<7>(whole));
}

// What integers against bytes + 128 have too much, negated; wraps where a NaN made them nonsense.
inline int32_t offset_of(I wholes) { return (int32_t)(0u - (uint32_t)kByteOffset * (uint32_t)isum(wholes)); }

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
    float most = largest(top);
    F inverse = set1(most > 0 ? kWhole / most : 0.0f);
    for (int d = 0; d < head_dim; d += 16) {
      I whole = to_int(mul(load(q + d), inverse));
      added = iadd(added, whole);
      split(whole, high + d, low + d);
    }
    uint32_t *highs = block.q + row, *lows = highs + (int64_t)head_dim / 4 * rows;
    for (int d = 0; d < head_dim; d += 4) {
      memcpy(highs + d / 4 * rows, high + d, 4);
      memcpy(lows + d / 4 * rows, low + d, 4);
    }
    block.query_scale[row] = most / kWhole * by + sum(off);
    block.query_offset[row] = offset_of(added);
  }

  // `J` sub-blocks from `sub` on, for R rows.
  template <int R, int J>
  HR_INLINE void score(const RowBlock& block, const Chunk& chunk, int sub, Weights& weights) {
    I sums[R][J];
    HR_UNROLL for (int r = 0; r < R; r++) HR_UNROLL for (int j = 0; j < J; j++) sums[r][j] = izero();
    const int32_t* q = (const int32_t*)block.q;
    for (int part = 0; part < 2; part++) {
      HR_UNROLL for (int r = 0; r < R; r++) {
        HR_UNROLL for (int j = 0; j < J; j++) sums[r][j] = shift_left<7>(sums[r][j]);
      }
      for (int64_t at = 0; at < chunk.head_dim * 16; at += 64, q += R) {
        W k[J];
        HR_UNROLL for (int j = 0; j < J; j++) {
          k[j] = load_w(chunk.k[sub + j] + at);
          if (part == 0) prefetch_far(chunk.next_k[sub + j] + at);
        }
        HR_UNROLL for (int r = 0; r < R; r++) {
          HR_UNROLL for (int j = 0; j < J; j++) sums[r][j] = dot_u8s8(sums[r][j], k[j], q + r);
        }
      }
    }
    HR_UNROLL for (int j = 0; j < J; j++) {
      F scale = load_bf16(chunk.k_scale[sub + j]);
      HR_UNROLL for (int r = 0; r < R; r++) {
        F exact = to_float(iadd(sums[r][j], iset1(block.query_offset[r])));
        store(&weights.score[r][(sub + j) * kSub], mul(exact, mul(scale, set1(block.query_scale[r]))));
      }
    }
  }

  // Relative to the chunk's own largest score, so that a row keeps its precision here whatever came
  // before.
  template <int R>
  static void weigh(RowBlock& block, const Chunk& chunk, Weights& weights) {
    alignas(64) float top[16], here[16];
    memcpy(top, block.top, sizeof top);
    memcpy(here, block.top, sizeof here);
    const int start = block.from_sub * kSub, count = (block.to_sub - block.from_sub) * kSub;
    for (int r = 0; r < R; r++) {
      here[r] = block.whole ? largest_of(weights.score[r] + start, count)
                            : mask_and_max(weights.score[r], block.seen_from[r], block.seen_to[r]);
      top[r] = std::max(top[r], here[r]);
    }
    store(weights.by, power2(hr::sub(load(block.top), load(top))));
    store(weights.factor, power2(hr::sub(load(here), load(top))));
    memcpy(block.top, top, sizeof top);
    for (int r = 0; r < R; r++) {
      Powers powers = block.whole ? scaled_powers(weights.score[r], block, here[r], chunk)
                                  : seen_powers(weights.score[r], block, r, here[r], chunk);
      F by = set1(weights.by[r]), factor = set1(weights.factor[r]);
      block.total[r] = fma(block.total[r], by, mul(powers.added, factor));
      weights.offset[r] = round_row(powers.most, start, count, r, weights);
      weights.factor[r] *= powers.most / kWhole;
    }
  }

  struct Powers {
    F added;     // sums of 2^(score - top), by lane
    float most;  // the largest of them once multiplied with its token's scale
  };

  // score becomes 2^(score - top) * the token's scale of V.
  HR_INLINE Powers scaled_powers(float* score, const RowBlock& block, float top, const Chunk& chunk) {
    F added = zero(), most = zero();
    for (int sub = block.from_sub; sub < block.to_sub; sub++) {
      F e = power2(hr::sub(load(score + sub * kSub), set1(top)));
      F scaled = mul(e, load_bf16(chunk.v_scale[sub]));
      added = add(added, e);
      most = max(most, scaled);
      store(score + sub * kSub, scaled);
    }
    return {added, largest(most)};
  }

  // The same for a row that does not see all: zeros elsewhere, even where a scale is NaN.
  static Powers seen_powers(float* score, const RowBlock& block, int r, float top, const Chunk& chunk) {
    F added = zero(), most = zero();
    for (int sub = block.from_sub; sub < block.to_sub; sub++) {
      float* x = score + sub * kSub;
      int from = block.seen_from[r] - sub * kSub, to = block.seen_to[r] - sub * kSub;
      bool any = from < to && from < kSub && to > 0;
      F e = any ? between(from, to, power2(hr::sub(load(x), set1(top))), zero()) : zero();
      F scaled = any ? between(from, to, mul(e, load_bf16(chunk.v_scale[sub])), zero()) : zero();
      added = add(added, e);
      most = max(most, scaled);
      store(x, scaled);
    }
    return {added, largest(most)};
  }

  // One row's scaled powers → integers of at most kWhole, split; their offset.
  HR_INLINE int32_t round_row(float most, int start, int count, int r, Weights& weights) {
    const float* score = weights.score[r] + start;
    int8_t *high = (int8_t*)weights.p[r] + start, *low = high + kChunk;
    F inverse = set1(most > 0 ? kWhole / most : 0.0f);
    I added = izero();
    for (int t = 0; t < count; t += kSub) {
      I whole = to_int(mul(load(score + t), inverse));
      added = iadd(added, whole);
      split(whole, high + t, low + t);
    }
    return offset_of(added);
  }

  // 16 * N dimensions of the outputs from `d` on.
  template <int R, int N>
  HR_INLINE void add_values(const RowBlock& block, const Chunk& chunk, int d, const Weights& weights) {
    I sums[R][N];
    HR_UNROLL for (int r = 0; r < R; r++) HR_UNROLL for (int n = 0; n < N; n++) sums[r][n] = izero();
    for (int part = 0; part < 2; part++) {
      HR_UNROLL for (int r = 0; r < R; r++) {
        HR_UNROLL for (int n = 0; n < N; n++) sums[r][n] = shift_left<7>(sums[r][n]);
      }
      for (int sub = block.from_sub; sub < block.to_sub; sub++) {
        const uint8_t *v = chunk.v[sub] + d * 4, *ahead = chunk.next_v[sub] + d * 4;
        const int32_t* p = (const int32_t*)&weights.p[0][part * kChunk / 4 + sub * kSub / 4];
        for (int t = 0; t < kSub / 4; t++, v += chunk.head_dim * 4, ahead += chunk.head_dim * 4, p++) {
          W w[N];
          HR_UNROLL for (int n = 0; n < N; n++) {
            w[n] = load_w(v + 64 * n);
            if (part == 0) prefetch_far(ahead + 64 * n);
          }
          HR_UNROLL for (int r = 0; r < R; r++) {
            HR_UNROLL for (int n = 0; n < N; n++) sums[r][n] = dot_u8s8(sums[r][n], w[n], p + r * kChunk / 2);
          }
        }
      }
    }
    float* out = block.out + d;
    HR_UNROLL for (int r = 0; r < R; r++) {
      F by = set1(weights.by[r]), factor = set1(weights.factor[r]);
      HR_UNROLL for (int n = 0; n < N; n++) {
        float* at = out + r * chunk.head_dim + 16 * n;
        F exact = to_float(iadd(sums[r][n], iset1(weights.offset[r])));
        store(at, fma(exact, factor, mul(load(at), by)));
      }
    }
  }
};

}  // namespace hr::paged
