// The whole decoder in one call a step: what model/decoder.py computes, fused.
//
// All threads go through the same stages with a barrier between them; inside a stage they take rows,
// heads, tiles of weights or attention items from the stage's own counter. The residual stream is
// float32; what a linear reads is packed once a stage, with the norm or the gated activation fused in
// front of the packing, and what it adds to the stream is accumulated there.
//
// Invariant: nothing here mixes rows, so a row's result is the same bits whatever else is in the step.
#include <algorithm>

#include "attention.h"
#include "elementwise.h"
#include "headrace.h"
#include "linear.h"
#include "pool.h"
#include "scratch.h"

namespace hr {
namespace {

constexpr int kStages = 10;  // counters a layer

struct Work {
  const hr_decoder& model;
  const hr_spans& spans;
  const int32_t* ids;
  const int32_t* positions;
  float* hidden;
  Pool& pool;
  AttendScratch& attention;
  DecoderScratch& buffers;

  int rows() const { return spans.rows; }
  int qkv_width() const { return (model.heads + 2 * model.kv_heads) * model.head_dim; }
  int attended_width() const { return model.heads * model.head_dim; }

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

  void product(std::atomic<int>& next, const hr_matrix& matrix, const Activations& x, float* out,
               bool accumulate) {
    multiply(next, pool.threads(), matrix, x, out, matrix.rows, accumulate);
    pool.barrier();
  }

  // Queries and keys normed and turned in place; keys and values into the cache.
  void place(const hr_layer& layer, int row, int head) {
    int dim = model.head_dim;
    float* x = buffers.qkv.data() + (int64_t)row * qkv_width() + head * dim;
    bool is_key = head >= model.heads;
    const float* norm = is_key ? layer.k_norm : layer.q_norm;
    if (norm) rms_norm(x, norm, dim, model.eps, x);
    int64_t at = (int64_t)positions[row] * (dim / 2);
    rotate(x, model.cos + at, model.sin + at, dim);
    if (is_key) {
      const float* value = x + model.kv_heads * dim;
      write_kv_row(layer.kv, attention.plan.slot[row], head - model.heads, x, value);
    }
  }

  void layer(int number, std::atomic<int>* next, int thread) {
    const hr_layer& l = model.layer[number];
    const int inner = model.inner;
    Form& form = buffers.form;
    float* stream = buffers.stream.data();
    float* piece = buffers.row(thread);
    reshape(number, thread);
    pack(*next++, form.qkv, [&](int row, int from, int count) {
      return normed(row, l.attention_norm, from, count, piece);
    });
    product(*next++, l.qkv, form.qkv, buffers.qkv.data(), false);
    int turned = model.heads + model.kv_heads;
    share(*next++, rows() * turned, [&](int i) { place(l, i / turned, i % turned); });
    float* attended = buffers.attended.data();
    AttendCall call{l.kv, spans, attention.plan, model.heads, model.attention_scale, l.window,
                    buffers.qkv.data(), qkv_width(), attended, attended_width()};
    attend(call, *next++, *attention.workspaces[thread]);
    pool.barrier();
    pack(*next++, form.out, [&](int row, int from, int) {
      return attended + (int64_t)row * attended_width() + from;
    });
    product(*next++, l.out, form.out, stream, true);
    pack(*next++, form.gate_up, [&](int row, int from, int count) {
      return normed(row, l.feed_forward_norm, from, count, piece);
    });
    float* gate_up = buffers.gate_up.data();
    product(*next++, l.gate_up, form.gate_up, gate_up, false);
    pack(*next++, form.down, [&](int row, int from, int count) {
      const float* gate = gate_up + (int64_t)row * 2 * inner + from;
      silu_multiply(gate, gate + inner, count, piece);
      return piece;
    });
    product(*next++, l.down, form.down, stream, true);
  }

  // values(row, from, count), computed for some columns of a row, become what a product reads.
  template <class Values>
  void pack(std::atomic<int>& next, Activations& x, const Values& values) {
    share(next, x.parts(), [&](int number) {
      Activations::Part part = x.part(number);
      for (int row = part.first_row; row < part.last_row; row++) {
        x.put(row, part.from, part.count, values(row, part.from, part.count));
      }
    });
  }

  // Some columns of a row of the stream, normed: the factor is computed again for each such piece,
  // which costs less than the threads waiting for one of them.
  const float* normed(int row, const float* norm, int from, int count, float* out) const {
    const float* x = buffers.stream.data() + (int64_t)row * model.width;
    scale_row(x + from, rms_factor(x, model.width, model.eps), norm + from, count, out);
    return out;
  }

  // Activations have the form their matrix reads. It is given at the first layer, and again where a
  // layer keeps another format than the one before; all threads decide alike.
  void reshape(int number, int thread) {
    const hr_layer& l = model.layer[number];
    const hr_layer* before = number ? &model.layer[number - 1] : nullptr;
    auto same = [&](hr_matrix hr_layer::*m) {
      return before && (before->*m).format == (l.*m).format && (before->*m).group == (l.*m).group;
    };
    bool kept = same(&hr_layer::qkv) && same(&hr_layer::out) && same(&hr_layer::gate_up) &&
                same(&hr_layer::down);
    if (kept) return;
    if (thread == 0) {
      buffers.form.qkv.shape(rows(), l.qkv);
      buffers.form.out.shape(rows(), l.out);
      buffers.form.gate_up.shape(rows(), l.gate_up);
      buffers.form.down.shape(rows(), l.down);
    }
    pool.barrier();
  }

  void run(int thread) {
    std::atomic<int>* next = buffers.counters.data();
    const int width = model.width;
    float* stream = buffers.stream.data();
    share(*next++, rows(), [&](int row) {
      gather_row(model.embedding, ids[row], stream + (int64_t)row * width);
    });
    for (int i = 0; i < model.layers; i++) {
      layer(i, next, thread);
      next += kStages;
    }
    share(*next++, rows(), [&](int row) {
      int64_t at = (int64_t)row * width;
      rms_norm(stream + at, model.final_norm, width, model.eps, hidden + at);
    });
  }
};

}  // namespace

void DecoderScratch::prepare(const hr_decoder& model, int rows, int threads) {
  auto grow = [](auto& buffer, size_t size) {
    if (buffer.size() < size) buffer.resize(size);
  };
  size_t count = rows;
  grow(stream, count * model.width);
  grow(qkv, count * (model.heads + 2 * model.kv_heads) * model.head_dim);
  grow(attended, count * model.heads * model.head_dim);
  grow(gate_up, count * 2 * model.inner);
  row_floats_ = (std::max(model.width, model.inner) + 31) & ~15;  // threads on their own cache lines
  grow(rows_, (size_t)row_floats_ * threads);
  size_t wanted = (size_t)model.layers * kStages + 2;
  if (counters.size() < wanted) counters = std::vector<std::atomic<int>>(wanted);
  for (auto& counter : counters) counter.store(0, std::memory_order_relaxed);
}

}  // namespace hr

extern "C" int hr_hidden(hr_pool* pool, hr_scratch* scratch, const hr_decoder* decoder,
                         const hr_spans* spans, const int32_t* ids, const int32_t* positions,
                         float* hidden) {
  hr::Pool& threads = pool->threads;
  int status = scratch->attention.prepare(decoder->layer[0].kv, *spans, decoder->heads,
                                          threads.threads());
  if (status != HR_OK) return status;
  scratch->decoder.prepare(*decoder, spans->rows, threads.threads());
  hr::Work work{*decoder, *spans,  ids,          positions,
                hidden,   threads, scratch->attention, scratch->decoder};
  threads.run([&](int thread) { work.run(thread); });
  return HR_OK;
}

extern "C" int hr_logits(hr_pool* pool, hr_scratch* scratch, const hr_decoder* decoder, int m,
                         const float* hidden, float* logits) {
  return hr_linear(pool, scratch, &decoder->head, m, hidden, decoder->width, logits, decoder->vocab,
                   0);
}
