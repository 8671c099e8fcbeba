// A row of logits: its tiles and their maxima, edits in it, its best entries in order.
//
// Keys order entries by score, equal ones by lowest id.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <vector>

#include "pool.h"
#include "sampler.h"
#include "simd.h"

namespace hr::sampling {

constexpr int kTile = 64;      // entries that share one maximum
constexpr int kSegments = 4;   // of a row, for threads to share
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Row {
  const float* x;
  int size;

  int tiles() const { return (size + kTile - 1) / kTile; }
  int first_tile(int segment) const { return (int)((int64_t)tiles() * segment / kSegments); }
  int entries(int tile) const { return std::min(kTile, size - tile * kTile); }
  // 64 entries; the last tile is filled up with `pad` in `buffer`.
  const float* tile(int tile, float pad, float* buffer) const {
    int count = entries(tile);
    const float* from = x + (int64_t)tile * kTile;
    if (count == kTile) return from;
    std::fill(std::copy(from, from + count, buffer), buffer + kTile, pad);
    return buffer;
  }
};

// work(i) for i < n, in any order; on all threads where there is a pool.
template <class Work>
inline void each(Pool* pool, int n, const Work& work) {
  if (!pool || n == 1) {
    for (int i = 0; i < n; i++) work(i);
    return;
  }
  std::atomic<int> next{0};
  pool->run([&](int) {
    for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) work(i);
  });
}

struct Extent {
  float max, min;
  bool finite;  // all entries
};

struct Scan {
  Extent extent;
  std::vector<float> tops;  // of each tile
};

inline Extent scan_segment(const Row& row, int segment, float* tops) {
  F high = set1(-kInfinity), low = set1(kInfinity), poison = zero();
  float buffer[kTile];
  for (int t = row.first_tile(segment); t < row.first_tile(segment + 1); t++) {
    const float* x = row.tile(t, row.x[row.size - 1], buffer);
    F top = load(x);
    HR_UNROLL
    for (int i = 0; i < kTile; i += 16) {
      F v = load(x + i);
      top = max(top, v);
      low = min(low, v);
      poison = fma(v, zero(), poison);  // NaN after an infinity or a NaN
    }
    tops[t] = largest(top);
    high = max(high, top);
  }
  return {largest(high), -largest(sub(zero(), low)), sum(poison) == 0.0f};
}

inline void scan(Pool* pool, const Row& row, Scan& out) {
  out.tops.resize(row.tiles());
  Extent parts[kSegments];
  each(pool, kSegments, [&](int s) { parts[s] = scan_segment(row, s, out.tops.data()); });
  out.extent = {-kInfinity, kInfinity, true};
  for (const Extent& part : parts) {
    out.extent.max = std::max(out.extent.max, part.max);
    out.extent.min = std::min(out.extent.min, part.min);
    out.extent.finite &= part.finite;
  }
}

// A row's edits, in its logits while this lives; `seen` follows them.
class Edited {
 public:
  Edited(const hr_sample_row& rule, float* x, std::vector<float>& kept) : rule_(rule), x_(x), kept_(kept) {
    kept_.resize(rule.edits);
    for (int64_t e = 0; e < rule.edits; e++) {
      kept_[e] = x[rule.edit_ids[e]];
      x[rule.edit_ids[e]] = rule.edit_scores[e];
    }
  }
  ~Edited() {
    for (int64_t e = 0; e < rule_.edits; e++) x_[rule_.edit_ids[e]] = kept_[e];
  }
  Edited(const Edited&) = delete;
  Edited& operator=(const Edited&) = delete;

  // False where an edit is NaN.
  bool update(const Row& row, Scan& seen) const {
    for (int64_t e = 0; e < rule_.edits; e++) {
      float score = rule_.edit_scores[e];
      if (score != score) return false;
      int tile = (int)(rule_.edit_ids[e] / kTile);
      const float* from = row.x + (int64_t)tile * kTile;
      seen.tops[tile] = *std::max_element(from, from + row.entries(tile));
      seen.extent.min = std::min(seen.extent.min, score);
    }
    seen.extent.max = *std::max_element(seen.tops.begin(), seen.tops.end());
    return true;
  }

 private:
  const hr_sample_row& rule_;
  float* x_;
  std::vector<float>& kept_;
};

inline int32_t argmax(const Row& row, const Scan& seen) {
  int tile = 0;
  while (seen.tops[tile] != seen.extent.max) tile++;
  int i = tile * kTile;
  while (row.x[i] != seen.extent.max) i++;
  return i;
}

typedef std::vector<uint64_t> Keys;

// Greater for a greater score, then for a lower id; minus zero equals zero.
HR_INLINE uint64_t key_of(float x, int id) {
  uint32_t bits;
  x += 0.0f;
  memcpy(&bits, &x, 4);
  bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u;
  return (uint64_t)bits << 32 | (0xffffffffu - (uint32_t)id);
}

HR_INLINE int32_t id_of(uint64_t key) { return (int32_t)(0xffffffffu - (uint32_t)key); }

HR_INLINE float score_of(uint64_t key) {
  uint32_t bits = (uint32_t)(key >> 32);
  bits ^= bits >> 31 ? 0x80000000u : 0xffffffffu;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// The k best entries, in order.
inline void find_best(const Row& row, const Scan& seen, int k, std::vector<float>& bounds, Keys& keys) {
  keys.clear();
  float bound = -kInfinity;
  if (k < row.tiles()) {  // k tiles have an entry of at least the k-th largest maximum
    bounds = seen.tops;
    auto at = bounds.begin() + (k - 1);
    std::nth_element(bounds.begin(), at, bounds.end(), std::greater<float>());
    bound = *at;
  }
  for (int t = 0; t < row.tiles(); t++) {
    if (seen.tops[t] < bound) continue;
    const float* x = row.x + (int64_t)t * kTile;
    for (int i = 0; i < row.entries(t); i++)
      if (x[i] >= bound) keys.push_back(key_of(x[i], t * kTile + i));
  }
  if (keys.size() > (size_t)k) {
    std::nth_element(keys.begin(), keys.begin() + (k - 1), keys.end(), std::greater<uint64_t>());
    keys.resize(k);
  }
  std::sort(keys.begin(), keys.end(), std::greater<uint64_t>());
}

}  // namespace hr::sampling
