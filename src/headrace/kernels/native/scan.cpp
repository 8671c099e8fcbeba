// Searching an index: int8 rows against one question, the best of those allowed; BM25 of one word.
//
// The question is shifted to 0..255, so that a product of bytes is one instruction where there is
// one (VNNI's usdot, which compilers find by themselves in this loop):
// q . r = (q + 128) . r - 128 * sum(r). AVX2 has none: there the question is widened to 16 bits
// once, and each row as it is read. Sums are of integers, so they are equal everywhere.
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
#define HR_WIDENED 1
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstring>
#include <vector>

#include "headrace.h"

namespace {

// A question as the scan multiplies it.
#ifdef HR_WIDENED
struct Question {
  std::vector<int16_t> wide;
  float scale;

  Question(const int8_t* q, int dims, float scale) : wide(q, q + dims), scale(scale) {}

  float cosine(const int8_t* __restrict r, int32_t, float row_scale) const {
    const int16_t* __restrict q = wide.data();
    int dims = (int)wide.size(), i = 0;
    __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (; i + 32 <= dims; i += 32) {
      for (int j = 0; j < 2; j++) {
        __m256i row = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(r + i + 16 * j)));
        __m256i asked = _mm256_loadu_si256((const __m256i*)(q + i + 16 * j));
        sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(row, asked));
      }
    }
    __m256i sum = _mm256_add_epi32(sums[0], sums[1]);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1));
    int32_t product = _mm_cvtsi128_si32(four);
    for (; i < dims; i++) product += (int32_t)q[i] * (int32_t)r[i];
    return (float)product * row_scale * scale;
  }
};
#else
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
#endif

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

int64_t hr_group(int64_t count, const uint64_t* hashes, const uint32_t* positions,
                 const uint8_t* body, const uint8_t* titles, uint64_t* words, int64_t* starts,
                 uint32_t* by_word, uint8_t* body_by_word, uint8_t* titles_by_word) {
  std::vector<int64_t> table(1 << 12, -1);  // of hashes: which word each is, in order of arrival
  std::vector<int32_t> word_of(count);
  std::vector<uint64_t> met;
  std::vector<int64_t> times;
  auto place = [&](uint64_t hash) {
    size_t mask = table.size() - 1, i = hash & mask;
    while (table[i] >= 0 && met[table[i]] != hash) i = (i + 1) & mask;
    return i;
  };
  for (int64_t i = 0; i < count; i++) {
    size_t at = place(hashes[i]);
    if (table[at] < 0) {
      table[at] = (int64_t)met.size();
      met.push_back(hashes[i]);
      times.push_back(0);
      word_of[i] = (int32_t)table[at];
      if (2 * met.size() > table.size()) {
        table.assign(2 * table.size(), -1);
        for (size_t w = 0; w < met.size(); w++) table[place(met[w])] = (int64_t)w;
      }
    } else {
      word_of[i] = (int32_t)table[at];
    }
    times[word_of[i]]++;
  }
  std::vector<int32_t> order(met.size());
  for (size_t w = 0; w < order.size(); w++) order[w] = (int32_t)w;
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return met[a] < met[b]; });
  std::vector<int64_t> next(met.size());
  int64_t start = 0;
  for (size_t w = 0; w < order.size(); w++) {
    words[w] = met[order[w]];
    next[order[w]] = starts[w] = start;
    start += times[order[w]];
  }
  starts[order.size()] = start;
  for (int64_t i = 0; i < count; i++) {
    int64_t to = next[word_of[i]]++;
    by_word[to] = positions[i];
    body_by_word[to] = body[i];
    titles_by_word[to] = titles[i];
  }
  return (int64_t)met.size();
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
