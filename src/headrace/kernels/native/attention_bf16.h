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
  HR_INLINE void score(const RowBlock& block, const Chunk& chunk, int sub, Weights& weights) {
    F sums[R][J];
    HR_UNROLL for (int r = 0; r < R; r++) HR_UNROLL for (int j = 0; j < J; j++) sums[r][j] = zero();
    const uint32_t* q = block.q;
    for (int64_t at = 0; at < chunk.head_dim * 32; at += 64, q += R) {
      W k[J];
      HR_UNROLL for (int j = 0; j < J; j++) {
        k[j] = load_w(chunk.k[sub + j] + at);
        prefetch(chunk.v[sub + j] + at);
      }
      HR_UNROLL for (int r = 0; r < R; r++) {
        HR_UNROLL for (int j = 0; j < J; j++) sums[r][j] = dot_bf16(sums[r][j], k[j], q + r);
      }
    }
    HR_UNROLL for (int r = 0; r < R; r++) {
      HR_UNROLL for (int j = 0; j < J; j++) store(&weights.score[r][(sub + j) * kSub], sums[r][j]);
    }
  }

  template <int R>
  static void weigh(RowBlock& block, const Chunk&, Weights& weights) {
    alignas(64) float top[16];
    memcpy(top, block.top, sizeof top);
    for (int r = 0; r < R; r++) {
      top[r] = std::max(top[r], mask_and_max(weights.score[r], block.seen_from[r], block.seen_to[r]));
    }
    store(weights.by, power2(sub(load(block.top), load(top))));
    memcpy(block.top, top, sizeof top);
    for (int r = 0; r < R; r++) {
      int from = block.seen_from[r], to = block.seen_to[r];
      bf16* p = (bf16*)weights.p[r];
      F added = zero();
      for (int t = block.from_sub * kSub; t < block.to_sub * kSub; t += kSub) {
        F e = zero();
        if (t < to && t + kSub > from) {
          e = power2(sub(load(weights.score[r] + t), set1(top[r])));
          if (t < from || t + kSub > to) e = between(from - t, to - t, e, zero());
          added = add(added, e);
        }
        store_bf16(p + t, e);
      }
      block.total[r] = fma(block.total[r], set1(weights.by[r]), added);
    }
  }

  // 16 * N dimensions of the outputs from `d` on.
  template <int R, int N>
  HR_INLINE void add_values(const RowBlock& block, const Chunk& chunk, int d, const Weights& weights) {
    F sums[R][N];
    float* out = block.out + d;
    HR_UNROLL for (int r = 0; r < R; r++) {
      F by = set1(weights.by[r]);
      HR_UNROLL for (int n = 0; n < N; n++) sums[r][n] = mul(load(out + r * chunk.head_dim + 16 * n), by);
    }
    for (int sub = block.from_sub; sub < block.to_sub; sub++) {
      const uint8_t *v = chunk.v[sub] + d * 4, *ahead = chunk.next_k[sub] + d * 4;
      const uint32_t* p = &weights.p[0][sub * kSub / 2];
      for (int t = 0; t < kSub / 2; t++, v += chunk.head_dim * 4, ahead += chunk.head_dim * 4, p++) {
        W w[N];
        HR_UNROLL for (int n = 0; n < N; n++) {
          w[n] = load_w(v + 64 * n);
          prefetch(ahead + 64 * n);
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
