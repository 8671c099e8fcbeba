// The frame that both KV formats' register kernels share: chunks, blocks of rows, who sees what.
#pragma once
#include "attention.h"
#include "elementwise.h"
#include "kv.h"

namespace hr::paged {

constexpr int kChunk = 128;  // tokens that are scored, then weighed, then added up, together
constexpr int kChunkSubs = kChunk / kSub;
constexpr int kSums = kRegisters * 3 / 4;  // registers that hold sums of products at once
constexpr int kBlockRows = kSums / 2;      // rows of one register block
constexpr int kItemRows = 8 * kBlockRows;  // rows that share one pass over the context
constexpr float kLowest = -1e30f;          // a maximum over nothing; finite, so that no NaN arises

// A block of rows as the kernels see it: at most kBlockRows queries of one KV head.
struct RowBlock {
  uint32_t* q;  // as pack_query of the format lays them out
  float* out;   // [rows, head_dim], sums so far, relative to `top`
  F* total;     // [rows], sums of probabilities so far, by lane
  float* top;   // [16], largest score so far
  float* query_scale;     // [rows]; int8 only
  int32_t* query_sum;     // [rows], of its integers; int8 only
  int seen_from[16], seen_to[16];  // of the current chunk; none where to <= from
  int from_sub, to_sub;            // sub-blocks that any row sees
  bool whole;                      // every row sees all of every one of them
};

// Where a chunk's sub-blocks lie.
struct Chunk {
  int head_dim, subs;
  const uint8_t *k[kChunkSubs], *v[kChunkSubs];
  const bf16* k_scale[kChunkSubs];        // int8 only
  const int16_t* v_exponent[kChunkSubs];  // int8 only
};

// Scores and probabilities of one row block over one chunk; stays in the nearest cache.
struct alignas(64) Weights {
  float score[kBlockRows][kChunk];
  uint32_t p[kBlockRows][kChunk / 2];  // bf16 pairs; or int8 fours, high parts and then low parts
  float exponent[kChunk], inverse[kChunk];  // of the chunk's values; int8 only
  F most[kBlockRows];  // the largest of a row's scores, by lane; where it sees all of them
  float by[16];       // what `out` and `total` are multiplied with first
  float factor[16];   // what this chunk's products count; int8 only
  int32_t sum[16];    // of the integers in p; int8 only
};

// Lanes from `from` to `to` of x, the others from `otherwise`.
HR_INLINE F between(int from, int to, F x, F otherwise) {
  x = first(to, x, otherwise);
  return from > 0 ? first(from, otherwise, x) : x;
}

// One row of a chunk's scores: what lies outside what it sees becomes kLowest; the largest.
inline float mask_and_max(float* score, int from, int to) {
  F top = set1(kLowest);
  for (int t = from & ~15; t < to; t += kSub) {
    F x = between(from - t, to - t, load(score + t), set1(kLowest));
    store(score + t, x);
    top = max(top, x);
  }
  return largest(top);
}

}  // namespace hr::paged
