// Searching an index: int8 rows against one question, the best of those allowed; BM25 of one word.
//
// The question is shifted to 0..255, so that a product of bytes is one instruction where there is
// one (VNNI's usdot, which compilers find by themselves in this loop):
// q . r = (q + 128) . r - 128 * sum(r). Sums are of integers, so they are equal everywhere.
#include <algorithm>
#include <cstring>
#include <vector>

#include "headrace.h"

namespace {

// A question as the scan multiplies it.
struct Question {
  std::vector<uint8_t> shifted;
  float scale;

  Question(const int8_t* q, int dims, float scale) : shifted(dims), scale(scale) {
    for (int i = 0; i < dims; i++) shifted[i] = (uint8_t)(q[i] + 128);
  }

  float cosine(const int8_t* __restrict r, int32_t sum, float row_scale) const {
    const uint8_t* __restrict q = shifted.data();
    int dims = (int)shifted.size();
    int32_t product = 0;
    for (int i = 0; i < dims; i++) product += (int32_t)q[i] * (int32_t)r[i];
    return (float)(product - 128 * sum) * row_scale * scale;
  }
};

struct Hit {
  float score;
  int32_t place;
  // The better one; of equals the earlier.
  bool operator<(const Hit& o) const {
    return score > o.score || (score == o.score && place < o.place);
  }
};

// The k best hits, the worst of them on top of a heap.
struct Best {
  std::vector<Hit> heap;
  size_t k;

  explicit Best(int k) : k((size_t)k) { heap.reserve(k); }

  void offer(Hit hit) {
    if (heap.size() == k) {
      if (!(hit < heap.front())) return;
      std::pop_heap(heap.begin(), heap.end());
      heap.pop_back();
    }
    heap.push_back(hit);
    std::push_heap(heap.begin(), heap.end());
  }

  int take(int32_t* places, float* scores) {
    std::sort_heap(heap.begin(), heap.end());
    for (size_t i = 0; i < heap.size(); i++) {
      places[i] = heap[i].place;
      scores[i] = heap[i].score;
    }
    return (int)heap.size();
  }
};

}  // namespace

extern "C" {

int hr_scan_ranges(const hr_bytes* m, const uint8_t* allowed, int count, const int64_t* ranges,
                   int64_t budget, const int8_t* q, float scale, int k, int32_t* places,
                   float* scores) {
  if (m->dims < 1 || count < 0 || k < 1) return -HR_ESHAPE;
  Question question(q, m->dims, scale);
  Best best(k);
  int64_t seen = 0;
  for (int c = 0; c < count && (budget < 0 || seen < budget); c++) {
    for (int64_t row = ranges[2 * c]; row < ranges[2 * c + 1]; row++) {
      int32_t place = m->places ? m->places[row] : (int32_t)row;
      if (allowed && !allowed[place]) continue;
      seen++;
      best.offer({question.cosine(m->rows + row * m->dims, m->sums[row], m->scales[row]), place});
    }
  }
  return best.take(places, scores);
}

int hr_scan_rows(const hr_bytes* m, int64_t count, const int64_t* wanted, const int8_t* q,
                 float scale, int k, int32_t* places, float* scores) {
  if (m->dims < 1 || count < 0 || k < 1) return -HR_ESHAPE;
  Question question(q, m->dims, scale);
  Best best(k);
  for (int64_t c = 0; c < count; c++) {
    if (c + 8 < count) {  // where rows are few among many, memory is waited for
      const char* next = (const char*)(m->rows + wanted[c + 8] * m->dims);
      for (int i = 0; i < m->dims; i += 64) __builtin_prefetch(next + i);
    }
    int64_t row = wanted[c];
    int32_t place = m->places ? m->places[row] : (int32_t)row;
    best.offer({question.cosine(m->rows + row * m->dims, m->sums[row], m->scales[row]), place});
  }
  return best.take(places, scores);
}

int64_t hr_count_seen(int64_t count, const uint32_t* positions, const uint8_t* seen) {
  int64_t n = 0;
  for (int64_t i = 0; i < count; i++) n += seen[positions[i]];
  return n;
}

int hr_bm25_add(int64_t count, const uint32_t* positions, const uint8_t* body,
                const uint8_t* titles, const uint8_t* seen, const float* norms, float gain,
                float title_weight, float* scores) {
  for (int64_t i = 0; i < count; i++) {
    uint32_t p = positions[i];
    float times = (float)body[i] + title_weight * (float)titles[i];
    scores[p] += seen[p] ? gain * times / (times + norms[p]) : 0.0f;
  }
  return HR_OK;
}

}  // extern "C"
