// Every entry point of the native library against plain loops, on exactly sized memory: built with
// sanitizers, or for another processor and run under an emulator. Prints how many checks held; ends
// with status 1 at the first that does not.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "headrace.h"
#include "probe.h"
#include "simd.h"

namespace {

typedef std::vector<float> Floats;
typedef std::vector<int32_t> Ints;
std::mt19937 draws(7);
int held = 0;

void check(bool good, const char* what, double value = 0) {
  if (!good) {
    printf("%s: %s failed (%g)\n", hr_isa(), what, value);
    exit(1);
  }
  held++;
}

struct Free {
  void operator()(void* p) const { free(p); }
};
struct Bytes {  // aligned, and not a byte longer than asked
  std::unique_ptr<uint8_t, Free> data;
  explicit Bytes(int64_t size) {
    void* p = nullptr;
    if (size < 0 || posix_memalign(&p, 64, (size_t)size)) abort();
    data.reset((uint8_t*)p);
    memset(p, 0xff, (size_t)size);
  }
};
struct Pool {
  hr_pool* handle;
  explicit Pool(int threads) : handle(hr_pool_new(threads)) {}
  ~Pool() { hr_pool_free(handle); }
};
struct Scratch {
  hr_scratch* handle = hr_scratch_new();
  ~Scratch() { hr_scratch_free(handle); }
};

Floats normal(size_t count, float spread = 1) {
  std::normal_distribution<float> one;
  Floats x(count);
  for (float& value : x) value = spread * one(draws);
  return x;
}
std::vector<uint16_t> rounded(const Floats& x) {
  std::vector<uint16_t> out;
  for (float value : x) out.push_back(hr::narrow(value));
  return out;
}
double relative(const Floats& found, const std::vector<double>& expected) {
  double off = 0, size = 1e-30;
  for (size_t i = 0; i < found.size(); i++) {
    off += (found[i] - expected[i]) * (found[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return std::sqrt(off / size);
}

// --- matrices ---------------------------------------------------------------------------------------

struct Packed {
  Bytes data;
  Floats bias;
  hr_matrix matrix;
  Packed(hr_pool* pool, int format, int rows, int cols, int group, const Floats& w, bool biased)
      : data(hr_packed_bytes(format, rows, cols, group)), bias(biased ? normal(rows) : Floats()) {
    matrix = {format, rows, cols, group, data.data.get(), biased ? bias.data() : nullptr};
    std::vector<uint16_t> bf16 = rounded(w);
    if (format == HR_BF16) {
      check(!hr_pack_bf16(pool, rows, cols, bf16.data(), cols, data.data.get()), "pack_bf16");
      return;
    }
    if (format == HR_F32) {
      check(!hr_pack_f32(pool, rows, cols, w.data(), cols, data.data.get()), "pack_f32");
      return;
    }
    std::vector<int8_t> q(bf16.size());
    std::vector<uint16_t> scales((size_t)rows * ((cols + group - 1) / group));
    check(!hr_quantize(pool, format, rows, cols, group, bf16.data(), cols, q.data(), scales.data()),
          "quantize");
    check(!hr_pack_quantized(pool, format, rows, cols, group, q.data(), scales.data(),
                             data.data.get()),
          "pack_quantized");
  }
  Floats unpacked() const {
    Floats out((size_t)matrix.rows * matrix.cols);
    check(!hr_unpack(&matrix, out.data()), "unpack");
    return out;
  }
};

Floats product(hr_pool* pool, const Packed& packed, int m, const float* x, int accumulate) {
  Scratch scratch;
  const hr_matrix& matrix = packed.matrix;
  Floats out((size_t)m * matrix.rows, 1.0f);
  check(!hr_linear(pool, scratch.handle, &matrix, m, x, matrix.cols, out.data(), matrix.rows,
                   accumulate),
        "linear");
  return out;
}

void linear(int format, int group, int rows, int cols, int m, int threads) {
  Pool pool(threads), one(1);
  Floats w = normal((size_t)rows * cols), x = normal((size_t)m * cols);
  Packed packed(pool.handle, format, rows, cols, group, w, m % 2);
  Floats seen = packed.unpacked();
  double bound = format == HR_F32 ? 1e-12 : format == HR_BF16 ? 4e-3 : format == HR_INT8 ? 1e-2 : 0.2;
  check(relative(seen, {w.begin(), w.end()}) < bound, "rounding of weights");
  std::vector<double> expected;
  for (int i = 0; i < m; i++) {
    for (int r = 0; r < rows; r++) {
      double sum = 1 + (packed.bias.empty() ? 0 : packed.bias[r]);
      for (int k = 0; k < cols; k++) sum += (double)x[(size_t)i * cols + k] * seen[(size_t)r * cols + k];
      expected.push_back(sum);
    }
  }
  Floats out = product(pool.handle, packed, m, x.data(), 1);
  check(relative(out, expected) < 1e-2, "linear against loops", relative(out, expected));
  int row = m / 2;
  Floats alone = product(one.handle, packed, 1, &x[(size_t)row * cols], 1);
  check(!memcmp(alone.data(), &out[(size_t)row * rows], alone.size() * 4), "a row alone");
  Ints wanted = {rows - 1, 0};
  Floats gathered((size_t)2 * cols);
  check(!hr_gather(&packed.matrix, 2, wanted.data(), gathered.data()), "gather");
  check(!memcmp(gathered.data(), &seen[(size_t)(rows - 1) * cols], cols * 4), "rows gathered");
}

// --- attention --------------------------------------------------------------------------------------

struct Cache {
  Bytes k, v;
  hr_kv kv;
  Cache(int format, int blocks, int block_tokens, int kv_heads, int head_dim)
      : k(hr_kv_bytes(format, blocks, block_tokens, kv_heads, head_dim)),
        v(hr_kv_bytes(format, blocks, block_tokens, kv_heads, head_dim)),
        kv{format, blocks, block_tokens, kv_heads, head_dim, k.data.get(), v.data.get()} {}
};

// One sequence of `tokens` tokens whose last `rows` are this step's; its blocks lie backwards in the
// cache.
struct OneSpan {
  Ints row_start, context, blocks;
  hr_spans spans;
  OneSpan(int rows, int tokens, const hr_kv& kv) : row_start{0, rows}, context{tokens} {
    for (int t = 0; t < tokens; t += kv.block_tokens) blocks.push_back(kv.blocks - 1 - t / kv.block_tokens);
    spans = {rows, 1, (int)blocks.size(), row_start.data(), context.data(), blocks.data()};
  }
};

void attention(int format, int heads, int kv_heads, int head_dim, int tokens, int window) {
  const int block_tokens = 32, blocks = (tokens + block_tokens - 1) / block_tokens;
  Pool pool(2);
  Scratch scratch;
  Cache cache(format, blocks, block_tokens, kv_heads, head_dim);
  int kv_width = kv_heads * head_dim, width = heads * head_dim;
  Floats k = normal((size_t)tokens * kv_width), v = normal((size_t)tokens * kv_width);
  Floats q = normal((size_t)tokens * width), out((size_t)tokens * width, NAN);
  float scale = 1 / std::sqrt((float)head_dim);
  for (int from = 0; from < tokens;) {
    int rows = std::min(tokens - from, from % 3 ? 1 : 40);
    OneSpan step(rows, from + rows, cache.kv);
    size_t at = (size_t)from;
    check(!hr_kv_write(pool.handle, &cache.kv, &step.spans, &k[at * kv_width], kv_width,
                       &v[at * kv_width], kv_width),
          "kv_write");
    check(!hr_attend(pool.handle, scratch.handle, &cache.kv, &step.spans, heads, scale, window,
                     &q[at * width], width, &out[at * width], width),
          "attend");
    from += rows;
  }
  std::vector<double> expected;
  for (int t = 0; t < tokens; t++) {
    for (int h = 0; h < heads; h++) {
      int of = h / (heads / kv_heads) * head_dim, first = window ? std::max(0, t - window + 1) : 0;
      std::vector<double> row(head_dim), weights;
      double total = 0;
      for (int u = first; u <= t; u++) {
        double score = 0;
        for (int d = 0; d < head_dim; d++) {
          score += (double)q[(size_t)t * width + h * head_dim + d] * k[(size_t)u * kv_width + of + d];
        }
        weights.push_back(std::exp(score * scale));
        total += weights.back();
      }
      for (int u = first; u <= t; u++) {
        for (int d = 0; d < head_dim; d++) {
          row[d] += weights[u - first] / total * v[(size_t)u * kv_width + of + d];
        }
      }
      expected.insert(expected.end(), row.begin(), row.end());
    }
  }
  double off = relative(out, expected);
  check(off < (format == HR_BF16 ? 1e-2 : 4e-2), "attention against loops", off);
}

// --- the decoder ------------------------------------------------------------------------------------

struct Model {
  static constexpr int kWidth = 96, kHeads = 4, kKvHeads = 2, kHeadDim = 32, kInner = 160;
  static constexpr int kVocab = 131, kTokens = 70, kLayers = 2;
  Pool pool{2};
  std::vector<std::unique_ptr<Packed>> packed;
  std::vector<std::unique_ptr<Cache>> caches;
  Floats norm = Floats(kInner, 1.0f), cos, sin;
  std::vector<hr_layer> layers;
  hr_decoder decoder;

  const hr_matrix& matrix(int format, int rows, int cols) {
    Floats w = normal((size_t)rows * cols, 1 / std::sqrt((float)cols));
    int group = format == HR_BF16 ? 0 : 32;
    packed.push_back(std::make_unique<Packed>(pool.handle, format, rows, cols, group, w, false));
    return packed.back()->matrix;
  }

  Model(int format, int kv_format) {
    draws.seed(11);  // the same model each time
    for (int i = 0; i < kTokens * kHeadDim / 2; i++) {
      float angle = (float)(i / (kHeadDim / 2)) * std::pow(1e-4f, (float)(i % (kHeadDim / 2)) / 16);
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
    int attended = kHeads * kHeadDim, qkv = attended + 2 * kKvHeads * kHeadDim;
    for (int l = 0; l < kLayers; l++) {
      caches.push_back(std::make_unique<Cache>(kv_format, 5, 16, kKvHeads, kHeadDim));
      layers.push_back({matrix(format, qkv, kWidth), matrix(format, kWidth, attended),
                        matrix(format, 2 * kInner, kWidth), matrix(format, kWidth, kInner),
                        norm.data(), norm.data(), l ? norm.data() : nullptr,
                        l ? norm.data() : nullptr, caches.back()->kv, l ? 9 : 0});
    }
    const hr_matrix& table = matrix(format, kVocab, kWidth);
    decoder = {kLayers, kWidth, kHeads, kKvHeads, kHeadDim, kInner, kVocab, 1e-6f, 0.17f,
               layers.data(), table, table, norm.data(), cos.data(), sin.data()};
  }

  // Hidden states of a prompt that comes in these steps.
  Floats hidden(const Ints& steps) {
    Scratch scratch;
    Floats out((size_t)kTokens * kWidth, NAN);
    int from = 0;
    for (int rows : steps) {
      Ints ids, positions;
      for (int t = from; t < from + rows; t++) ids.push_back(t * 7 % kVocab), positions.push_back(t);
      OneSpan step(rows, from + rows, caches[0]->kv);
      check(!hr_hidden(pool.handle, scratch.handle, &decoder, &step.spans, ids.data(),
                       positions.data(), &out[(size_t)from * kWidth]),
            "hidden");
      from += rows;
    }
    return out;
  }
};

void decoder(int format, int kv_format) {
  Floats whole = Model(format, kv_format).hidden({Model::kTokens});
  Floats parts = Model(format, kv_format).hidden({1, 30, 1, 1, 17, 20});
  check(!memcmp(whole.data(), parts.data(), whole.size() * 4), "a prompt in parts");
  Model model(format, kv_format);
  Scratch scratch;
  Floats logits((size_t)3 * Model::kVocab, NAN);
  check(!hr_logits(model.pool.handle, scratch.handle, &model.decoder, 3, whole.data(), logits.data()),
        "logits");
  for (float logit : logits) check(std::isfinite(logit), "finite logits");
}

void probes() {
  Pool pool(2);
  Bytes data(4 << 20);
  check(hr_probe_read(pool.handle, data.data.get(), 4 << 20) > 0, "probe_read");
  check(hr_probe_dot(pool.handle, HR_INT8) > 0, "probe_dot int8");
  check(hr_probe_dot(pool.handle, HR_BF16) > 0, "probe_dot bf16");
}

// --- the encoder ------------------------------------------------------------------------------------

typedef std::vector<double> Doubles;

void normalize(double* x, const float* weight, const float* shift, int n, double eps) {
  double mean = 0, variance = 0;
  for (int i = 0; i < n; i++) mean += x[i] / n;
  for (int i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean) / n;
  for (int i = 0; i < n; i++) x[i] = (x[i] - mean) / std::sqrt(variance + eps) * weight[i] + shift[i];
}

Doubles times(const Packed& packed, const Doubles& x) {
  Floats w = packed.unpacked();
  int rows = packed.matrix.rows, cols = packed.matrix.cols, count = (int)(x.size() / cols);
  Doubles out;
  for (int i = 0; i < count; i++) {
    for (int r = 0; r < rows; r++) {
      double sum = packed.bias[r];
      for (int k = 0; k < cols; k++) sum += x[(size_t)i * cols + k] * w[(size_t)r * cols + k];
      out.push_back(sum);
    }
  }
  return out;
}

// One head of one document, in place of hr_encode's attention.
void attend_head(const Doubles& qkv, int from, int to, int width, int at, int dim, Doubles& out) {
  for (int i = from; i < to; i++) {
    Doubles p;
    double total = 0;
    for (int j = from; j < to; j++) {
      double dot = 0;
      for (int d = 0; d < dim; d++) dot += qkv[(size_t)i * 3 * width + at + d] * qkv[(size_t)j * 3 * width + width + at + d];
      p.push_back(std::exp(dot / std::sqrt(dim)));
      total += p.back();
    }
    for (int d = 0; d < dim; d++) {
      double sum = 0;
      for (int j = from; j < to; j++) sum += p[j - from] / total * qkv[(size_t)j * 3 * width + 2 * width + at + d];
      out[(size_t)i * width + at + d] = sum;
    }
  }
}

void encoder(int format, int width, int heads, int inner, const Ints& start) {
  const int vocab = 7, positions = 40, layers = 2, documents = (int)start.size() - 1, rows = start.back();
  const float eps = 1e-6f, spread = 0.3f;
  Pool pool(2), one(1);
  Scratch scratch;
  Floats words = normal(vocab * width), places = normal(positions * width), kind = normal(width);
  Floats norm = normal(width), shift = normal(width);
  std::vector<std::unique_ptr<Packed>> packed;
  std::vector<Floats> vectors;
  auto matrix = [&](int out, int in) {
    packed.emplace_back(new Packed(pool.handle, format, out, in, 0, normal((size_t)out * in, spread), true));
    return packed.back()->matrix;
  };
  auto vector = [&] {
    vectors.push_back(normal(width));
    return vectors.back().data();
  };
  std::vector<hr_encoder_layer> list;
  for (int l = 0; l < layers; l++) {
    list.push_back({matrix(3 * width, width), matrix(width, width), matrix(inner, width),
                    matrix(width, inner), vector(), vector(), vector(), vector()});
  }
  hr_encoder model = {layers, width, heads, width / heads, inner, vocab, positions, eps, list.data(),
                      words.data(), places.data(), kind.data(), norm.data(), shift.data()};
  Ints ids;
  for (int i = 0; i < rows; i++) ids.push_back((int)(draws() % vocab));
  Floats hidden((size_t)rows * width);
  check(!hr_encode(pool.handle, scratch.handle, &model, documents, start.data(), ids.data(), hidden.data()),
        "encode");
  Doubles x;
  for (int d = 0; d < documents; d++) {
    for (int i = start[d]; i < start[d + 1]; i++) {
      for (int k = 0; k < width; k++) x.push_back(words[ids[i] * width + k] + kind[k] + places[(i - start[d]) * width + k]);
      normalize(&x[(size_t)i * width], norm.data(), shift.data(), width, eps);
    }
  }
  for (int l = 0; l < layers; l++) {
    Doubles qkv = times(*packed[4 * l], x), attended(x.size());
    for (int d = 0; d < documents; d++) {
      for (int h = 0; h < heads; h++) attend_head(qkv, start[d], start[d + 1], width, h * (width / heads), width / heads, attended);
    }
    Doubles out = times(*packed[4 * l + 1], attended);
    for (size_t i = 0; i < x.size(); i++) x[i] += out[i];
    for (int i = 0; i < rows; i++) normalize(&x[(size_t)i * width], list[l].attention_norm, list[l].attention_shift, width, eps);
    Doubles up = times(*packed[4 * l + 2], x);
    for (double& value : up) value = value * (1 + std::erf(value / std::sqrt(2.0))) / 2;
    out = times(*packed[4 * l + 3], up);
    for (size_t i = 0; i < x.size(); i++) x[i] += out[i];
    for (int i = 0; i < rows; i++) normalize(&x[(size_t)i * width], list[l].norm, list[l].shift, width, eps);
  }
  double bound = format == HR_F32 ? 1e-5 : 3e-2;
  check(relative(hidden, x) < bound, "encode against loops", relative(hidden, x));
  int d = documents / 2, length = start[d + 1] - start[d];
  Ints alone = {0, length};
  Floats rows_alone((size_t)length * width);
  check(!hr_encode(one.handle, scratch.handle, &model, 1, alone.data(), &ids[start[d]], rows_alone.data()),
        "encode one");
  check(!memcmp(rows_alone.data(), &hidden[(size_t)start[d] * width], rows_alone.size() * 4), "a document alone");
  ids[0] = vocab;
  check(hr_encode(pool.handle, scratch.handle, &model, documents, start.data(), ids.data(), hidden.data()) ==
            HR_ESHAPE, "an id beyond the vocabulary");
}

}  // namespace

int main() {
  check(hr_abi() == HR_ABI, "abi");
  check(hr_permitted(), "permitted");
  const int shapes[][3] = {{1, 1, 1}, {16, 128, 2}, {33, 70, 13}, {40, 257, 25}, {17, 96, 60}};
  for (auto [rows, cols, m] : shapes) {
    linear(HR_BF16, 0, rows, cols, m, 2);
    linear(HR_F32, 0, rows, cols, m, 2);
    for (int group : {32, 64, 128}) {
      linear(HR_INT8, group, rows, cols, m, 1 + m % 3);
      linear(HR_INT4, group, rows, cols, m, 1 + m % 3);
    }
  }
  linear(HR_INT8, 32, 20, 1024, 450, 2);  // activations beyond one span
  for (int format : {HR_BF16, HR_INT8}) {
    attention(format, 4, 2, 32, 150, 0);
    attention(format, 3, 1, 80, 50, 7);
    decoder(HR_BF16, format);
    decoder(HR_INT8, format);
  }
  decoder(HR_INT4, HR_BF16);
  for (int format : {HR_F32, HR_BF16}) {
    encoder(format, 32, 2, 24, {0, 1, 4, 20, 37});
    encoder(format, 80, 1, 33, {0, 40, 43});
  }
  probes();
  printf("%s: %d checks held\n", hr_isa(), held);
}
