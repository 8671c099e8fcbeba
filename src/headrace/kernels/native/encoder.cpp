// The whole encoder in one call a batch: what model/encoder.py computes, fused.
//
// As in decoder.cpp all threads go through the same stages with a barrier between them. Activations
// are float32 wherever matrices are not multiplied. Attention takes a head of a document at a time:
// its keys are turned once so that sixteen of them are a vector, then a few queries at a time see all
// of them, in float32.
//
// Invariant: a row's result depends on its document and nothing else in the batch, bit for bit, as
// every sum is taken in one order: over columns, over head_dim, over the document's positions.
#include "encoder.h"

#include <algorithm>
#include <utility>

#include "elementwise.h"
#include "pool.h"
#include "scratch.h"

namespace hr {
namespace {

constexpr int kStages = 11;  // counters a layer
constexpr int kQueries = 6;  // at a time
constexpr int kSums = kRegisters >= 32 ? 24 : 6;

// Lanes of a row of probabilities: whole vectors.
int lanes(int length) { return (length + 15) & ~15; }

struct Head {
  const float *q, *k, *v;  // of the document's first row
  int64_t ld;
  int length, head_dim;
};

// [vector of 16 positions][head_dim][16]; beyond the document zeros.
void turn_keys(const Head& head, float* keys) {
  for (int from = 0; from < head.length; from += 16) {
    int some = std::min(16, head.length - from);
    float* to = keys + (int64_t)from * head.head_dim;
    for (int lane = 0; lane < 16; lane++) {
      const float* k = head.k + (from + lane) * head.ld;
      for (int d = 0; d < head.head_dim; d++) to[d * 16 + lane] = lane < some ? k[d] : 0;
    }
  }
}

// Scores of R queries and J vectors of keys from position `from` on.
template <int R, int J>
void score(const float* queries, const float* keys, int head_dim, int from, int ld, float* weights) {
  F sums[R][J];
  HR_UNROLL for (int r = 0; r < R; r++) HR_UNROLL for (int j = 0; j < J; j++) sums[r][j] = zero();
  const float* k = keys + (int64_t)from * head_dim;
  for (int d = 0; d < head_dim; d++) {
    HR_UNROLL for (int j = 0; j < J; j++) {
      F sixteen = load(k + (j * head_dim + d) * 16);
      HR_UNROLL for (int r = 0; r < R; r++) {
        sums[r][j] = dot_f32(sums[r][j], sixteen, queries + r * head_dim + d);
      }
    }
  }
  HR_UNROLL for (int r = 0; r < R; r++) {
    HR_UNROLL for (int j = 0; j < J; j++) store(weights + r * ld + from + j * 16, sums[r][j]);
  }
}

// Scores become probabilities times their sum, which is returned; lanes beyond the document 0.
float weigh(float* weights, int length) {
  const float lowest = -3e38f;
  F most = set1(lowest);
  for (int i = 0; i < length; i += 16) {
    most = max(most, first(length - i, load(weights + i), set1(lowest)));
  }
  F top = set1(largest(most)), total = zero();
  for (int i = 0; i < length; i += 16) {
    F p = first(length - i, power2(sub(load(weights + i), top)), zero());
    total = add(total, p);
    store(weights + i, p);
  }
  return sum(total);
}

// N vectors of head_dim from `d` on of R weighted sums of values.
template <int R, int N>
void add_values(const Head& head, const float* weights, int ld, int d, const float* by, float* out,
                int64_t ldo) {
  F sums[R][N];
  HR_UNROLL for (int r = 0; r < R; r++) HR_UNROLL for (int n = 0; n < N; n++) sums[r][n] = zero();
  const float* v = head.v + d;
  for (int i = 0; i < head.length; i++, v += head.ld) {
    HR_UNROLL for (int n = 0; n < N; n++) {
      F values = load(v + n * 16);
      HR_UNROLL for (int r = 0; r < R; r++) {
        sums[r][n] = dot_f32(sums[r][n], values, weights + r * ld + i);
      }
    }
  }
  HR_UNROLL for (int r = 0; r < R; r++) {
    HR_UNROLL for (int n = 0; n < N; n++) {
      store(out + r * ldo + d + n * 16, mul(sums[r][n], set1(by[r])));
    }
  }
}

constexpr int columns(int rows, int most) {
  int n = 1;
  while (n * 2 <= most && rows * n * 2 <= kSums) n *= 2;
  return n;
}

template <int R, int J>
void score_all(const float* queries, const float* keys, int head_dim, int from, int ld, float* weights) {
  for (; from + J * 16 <= ld; from += J * 16) score<R, J>(queries, keys, head_dim, from, ld, weights);
  if constexpr (J > 1) score_all<R, J / 2>(queries, keys, head_dim, from, ld, weights);
}

template <int R, int N>
void add_all(const Head& head, const float* weights, int ld, int d, const float* by, float* out,
             int64_t ldo) {
  for (; d + N * 16 <= head.head_dim; d += N * 16) add_values<R, N>(head, weights, ld, d, by, out, ldo);
  if constexpr (N > 1) add_all<R, N / 2>(head, weights, ld, d, by, out, ldo);
}

// R queries, packed and scaled, see the whole document.
template <int R>
void attend_rows(const Head& head, const float* queries, const float* keys, float* weights, float* out,
                 int64_t ldo) {
  int ld = lanes(head.length);
  score_all<R, columns(R, 4)>(queries, keys, head.head_dim, 0, ld, weights);
  float by[R];
  for (int r = 0; r < R; r++) by[r] = 1.0f / weigh(weights + r * ld, head.length);
  add_all<R, columns(R, 4)>(head, weights, ld, 0, by, out, ldo);
}

typedef void (*AttendRows)(const Head&, const float*, const float*, float*, float*, int64_t);

template <int... R>
AttendRows attend_rows_of(int rows, std::integer_sequence<int, R...>) {
  static constexpr AttendRows table[] = {attend_rows<R + 1>...};
  return table[rows - 1];
}

struct Work {
  const hr_encoder& model;
  int documents;
  const int32_t *start, *ids;
  float* hidden;
  Pool& pool;
  EncoderScratch& buffers;

  int rows() const { return start[documents]; }

  // each(i) for every i below count, shared out in runs; then everybody waits for everybody.
  template <class Each>
  void share(std::atomic<int>& next, int count, const Each& each) {
    int run = std::max(1, count / (pool.threads() * 8));
    for (int from; (from = next.fetch_add(run, std::memory_order_relaxed)) < count;) {
      int to = std::min(count, from + run);
      for (int i = from; i < to; i++) each(i);
    }
    pool.barrier();
  }

  template <class Values>
  void pack(std::atomic<int>& next, Activations& x, const Values& values) {
    share(next, x.parts(), [&](int number) {
      Activations::Part part = x.part(number);
      for (int row = part.first_row; row < part.last_row; row++) {
        x.put(row, part.from, part.count, values(row, part.from, part.count));
      }
    });
  }

  void product(std::atomic<int>& next, const hr_matrix& matrix, const Activations& x, float* out,
               bool accumulate) {
    multiply(next, pool.threads(), matrix, x, out, matrix.rows, accumulate);
    pool.barrier();
  }

  void norm(std::atomic<int>& next, const float* weight, const float* shift, float* out) {
    share(next, rows(), [&](int row) {
      int64_t at = (int64_t)row * model.width;
      layer_norm(buffers.stream.data() + at, weight, shift, model.width, model.eps, out + at);
    });
  }

  void embed(int row, int place) {
    const int width = model.width;
    const float* word = model.words + (int64_t)ids[row] * width;
    const float* position = model.places + (int64_t)place * width;
    float* to = buffers.stream.data() + (int64_t)row * width;
    for (int i = 0; i < width; i++) to[i] = word[i] + model.kind[i] + position[i];
    layer_norm(to, model.norm, model.shift, width, model.eps, to);
  }

  void attend(int document, int number, int thread) {
    const int width = model.width, dim = model.head_dim;
    const int64_t row = start[document];
    const float* q = buffers.qkv.data() + row * 3 * width + number * dim;
    Head head{q, q + width, q + 2 * width, 3 * (int64_t)width, start[document + 1] - start[document], dim};
    float *keys = buffers.keys(thread), *queries = buffers.queries(thread);
    turn_keys(head, keys);
    const F scale = set1(1.44269504f / std::sqrt((float)dim));
    float* out = buffers.attended.data() + row * width + number * dim;
    for (int from = 0; from < head.length; from += kQueries) {
      int some = std::min(kQueries, head.length - from);
      for (int r = 0; r < some; r++) {
        const float* query = head.q + (from + r) * head.ld;
        for (int d = 0; d < dim; d += 16) store(queries + r * dim + d, mul(load(query + d), scale));
      }
      auto attend_some = attend_rows_of(some, std::make_integer_sequence<int, kQueries>());
      attend_some(head, queries, keys, buffers.weights(thread), out + (int64_t)from * width, width);
    }
  }

  void layer(const hr_encoder_layer& l, std::atomic<int>* next, int thread, float* out) {
    const int width = model.width, heads = model.heads;
    float *stream = buffers.stream.data(), *inner = buffers.inner.data();
    float *attended = buffers.attended.data(), *piece = buffers.row(thread);
    auto rows_of = [](const float* x, int64_t ld) {
      return [x, ld](int row, int from, int) { return x + row * ld + from; };
    };
    pack(*next++, buffers.qkv_form, rows_of(stream, width));
    product(*next++, l.qkv, buffers.qkv_form, buffers.qkv.data(), false);
    share(*next++, documents * heads, [&](int i) { attend(i / heads, i % heads, thread); });
    pack(*next++, buffers.out_form, rows_of(attended, width));
    product(*next++, l.out, buffers.out_form, stream, true);
    norm(*next++, l.attention_norm, l.attention_shift, stream);
    pack(*next++, buffers.up_form, rows_of(stream, width));
    product(*next++, l.up, buffers.up_form, inner, false);
    pack(*next++, buffers.down_form, [&](int row, int from, int count) {
      gelu_row(inner + (int64_t)row * model.inner + from, count, piece);
      return piece;
    });
    product(*next++, l.down, buffers.down_form, stream, true);
    norm(*next++, l.norm, l.shift, out);
  }

  void run(int thread) {
    std::atomic<int>* next = buffers.counters.data();
    share(*next++, documents, [&](int d) {
      for (int row = start[d]; row < start[d + 1]; row++) embed(row, row - start[d]);
    });
    float* stream = buffers.stream.data();
    for (int i = 0; i < model.layers; i++) {
      layer(model.layer[i], next, thread, i + 1 < model.layers ? stream : hidden);
      next += kStages;
    }
  }
};

int check(const hr_encoder& model, int documents, const int32_t* start, const int32_t* ids) {
  bool whole = model.head_dim % 16 == 0 && model.head_dim <= 256 && model.layers > 0;
  if (!whole || model.heads * model.head_dim != model.width || documents < 1 || start[0]) return HR_ESHAPE;
  for (int d = 0; d < documents; d++) {
    int length = start[d + 1] - start[d];
    if (length < 1 || length > model.positions) return HR_ESHAPE;
  }
  for (int i = 0; i < start[documents]; i++) {
    if (ids[i] < 0 || ids[i] >= model.vocab) return HR_ESHAPE;
  }
  return HR_OK;
}

}  // namespace

void EncoderScratch::prepare(const hr_encoder& model, int rows, int longest, int threads) {
  auto grow = [](auto& buffer, size_t size) {
    if (buffer.size() < size) buffer.resize(size);
  };
  size_t count = rows;
  grow(stream, count * model.width);
  grow(qkv, count * 3 * model.width);
  grow(attended, count * model.width);
  grow(inner, count * model.inner);
  const hr_encoder_layer& layer = model.layer[0];
  qkv_form.shape(rows, layer.qkv);
  out_form.shape(rows, layer.out);
  up_form.shape(rows, layer.up);
  down_form.shape(rows, layer.down);
  row_floats_ = (std::max(model.width, model.inner) + 31) & ~15;
  key_floats_ = (int64_t)lanes(longest) * model.head_dim;
  query_floats_ = (int64_t)kQueries * model.head_dim;
  thread_floats_ = row_floats_ + key_floats_ + query_floats_ + (int64_t)kQueries * lanes(longest);
  memory_.reserve(thread_floats_ * threads * 4);
  size_t wanted = (size_t)model.layers * kStages + 1;
  if (counters.size() < wanted) counters = std::vector<std::atomic<int>>(wanted);
  for (auto& counter : counters) counter.store(0, std::memory_order_relaxed);
}

}  // namespace hr

extern "C" int hr_encode(hr_pool* pool, hr_scratch* scratch, const hr_encoder* encoder, int documents,
                         const int32_t* start, const int32_t* ids, float* hidden) {
  if (int wrong = hr::check(*encoder, documents, start, ids)) return wrong;
  int longest = 0;
  for (int d = 0; d < documents; d++) longest = std::max(longest, start[d + 1] - start[d]);
  scratch->encoder.prepare(*encoder, start[documents], longest, pool->threads.threads());
  hr::Work work{*encoder, documents, start, ids, hidden, pool->threads, scratch->encoder};
  pool->threads.run([&](int thread) { work.run(thread); });
  return HR_OK;
}
