// Register kernels over bf16 keys and values: scores, probabilities, weighted values.
//
// Queries and probabilities are rounded to bf16, as the dot instructions want them; all sums are
// float32. Order for a row: a score adds pairs of dimensions upwards, an output pairs of tokens.
#pragma once
#include "attention_tile.h"

namespace hr::paged {

struct Bf16Kernels {
  // [head_dim / 2][rows] pairs; `by` = scale * log2(e).
  static void pack_query(const float* q, float by, int row, int rows, int head_dim, RowBlock& block) {
    alignas(64) bf16 x[kMaxHeadDim];
    for (int d = 0; d < head_dim; d += 16) store_bf16(x + d, mul(load(q + d), set1(by)));
    for (int d = 0; d < head_dim; d += 2) memcpy(block.q + d / 2 * rows + row, x + d, 4);
  }

  // `J` sub-blocks from `sub` on, for R rows.
  template <int R, int J>
  HR_INLINE void score(const RowBlock& block, const Chunk& chunk, const Chunk& ahead, int sub,
                       Weights& weights) {
    F sums[R][J];
    HR_UNROLL for (int r = 0; r < R; r++) HR_UNROLL for (int j = 0; j < J; j++) sums[r][j] = zero();
    const uint32_t* q = block.q;
    for (int64_t at = 0; at < chunk.head_dim * 32; at += 64, q += R) {
      W k[J];
      HR_UNROLL for (int j = 0; j < J; j++) {
        k[j] = load_w(chunk.k[sub + j] + at);
        prefetch_far(ahead.k[sub + j] + at);
      }
      HR_UNROLL for (int r = 0; r < R; r++) {
        HR_UNROLL for (int j = 0; j < J; j++) sums[r][j] = dot_bf16(sums[r][j], k[j], q + r);
      }
    }
    HR_UNROLL for (int r = 0; r < R; r++) {
      F most = weights.most[r];
      HR_UNROLL for (int j = 0; j < J; j++) {
        store(&weights.score[r][(sub + j) * kSub], sums[r][j]);
        most = max(most, sums[r][j]);
      }
      weights.most[r] = most;
    }
  }

  static void begin_chunk(const Chunk&, const Chunk&, Weights&) {}

  template <int R>
  static void weigh(RowBlock& block, Weights& weights) {
    alignas(64) float top[16];
    memcpy(top, block.top, sizeof top);
    const int start = block.from_sub * kSub, count = (block.to_sub - block.from_sub) * kSub;
    for (int r = 0; r < R; r++) {
      float most = block.whole
                       ? largest(weights.most[r])
                       : mask_and_max(weights.score[r], block.seen_from[r], block.seen_to[r]);
      top[r] = std::max(top[r], most);
    }
    store(weights.by, power2(sub(load(block.top), load(top))));
    memcpy(block.top, top, sizeof top);
    for (int r = 0; r < R; r++) {
      bf16* p = (bf16*)weights.p[r] + start;
      F added = block.whole ? powers(weights.score[r] + start, count, top[r], p)
                            : seen_powers(weights.score[r], block, r, top[r], p);
      block.total[r] = fma(block.total[r], set1(weights.by[r]), added);
    }
  }

  // p = 2^(score - top), rounded; the sums by lane of what was not rounded.
  HR_INLINE F powers(const float* score, int count, float top, bf16* p) {
    F added = zero();
    int t = 0;
    for (; t + kSub < count; t += 2 * kSub) {
      F e = power2(sub(load(score + t), set1(top)));
      F f = power2(sub(load(score + t + kSub), set1(top)));
      added = add(add(added, e), f);
      store_bf16(p + t, e, f);
    }
    if (t < count) {
      F e = power2(sub(load(score + t), set1(top)));
      added = add(added, e);
      store_bf16(p + t, e);
    }
    return added;
  }

  // The same for a row that does not see all: zeros elsewhere.
  static F seen_powers(const float* score, const RowBlock& block, int r, float top, bf16* p) {
    int from = block.seen_from[r], to = block.seen_to[r];
    F added = zero();
    for (int t = block.from_sub * kSub; t < block.to_sub * kSub; t += kSub, p += kSub) {
      F e = zero();
      if (t < to && t + kSub > from) {
        e = between(from - t, to - t, power2(sub(load(score + t), set1(top))), zero());
      }
      added = add(added, e);
      store_bf16(p, e);
    }
    return added;
  }

  // 16 * N dimensions of the outputs from `d` on.
  template <int R, int N>
  HR_INLINE void add_values(const RowBlock& block, const Chunk& chunk, const Chunk& ahead, int d,
                            const Weights& weights) {
    F sums[R][N];
    float* out = block.out + d;
    HR_UNROLL for (int r = 0; r < R; r++) {
      F by = set1(weights.by[r]);
      HR_UNROLL for (int n = 0; n < N; n++) sums[r][n] = mul(load(out + r * chunk.head_dim + 16 * n), by);
    }
    for (int sub = block.from_sub; sub < block.to_sub; sub++) {
      const uint8_t *v = chunk.v[sub] + d * 4, *fetch = ahead.v[sub] + d * 4;
      const uint32_t* p = &weights.p[0][sub * kSub / 2];
      for (int t = 0; t < kSub / 2; t++, v += chunk.head_dim * 4, fetch += chunk.head_dim * 4, p++) {
        W w[N];
        HR_UNROLL for (int n = 0; n < N; n++) {
          w[n] = load_w(v + 64 * n);
          prefetch_far(fetch + 64 * n);
        }
        HR_UNROLL for (int r = 0; r < R; r++) {
          HR_UNROLL for (int n = 0; n < N; n++) sums[r][n] = dot_bf16(sums[r][n], w[n], p + r * kChunk / 2);
        }
      }
    }
    HR_UNROLL for (int r = 0; r < R; r++) {
      HR_UNROLL for (int n = 0; n < N; n++) store(out + r * chunk.head_dim + 16 * n, sums[r][n]);
    }
  }
};

}  // namespace hr::paged
