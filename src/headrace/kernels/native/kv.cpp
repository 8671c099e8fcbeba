// Rows of keys and values → the paged pools, in the layouts that attention.h draws.
#include "kv.h"

#include <algorithm>
#include <cmath>

#include "attention.h"
#include "attention_plan.h"
#include "scratch.h"

namespace hr {
namespace {

using namespace paged;

constexpr bf16 kNan = 0x7fc0;
constexpr float kTiny = 1e-28f;  // int8 rows below it are zeros: one over their scale would overflow

bool all_finite(const float* x, int n) {
  F off = zero();
  for (int i = 0; i < n; i += 16) off = add(off, sub(load(x + i), load(x + i)));
  return sum(off) == 0.0f;  // an infinity less itself is NaN
}

float largest_magnitude(const float* x, int n) {
  F top = zero();
  for (int i = 0; i < n; i += 16) top = max(top, abs(load(x + i)));
  return largest(top);
}

// The smallest bf16 >= x, for finite x >= 0.
bf16 narrow_up(float x) {
  bf16 near = narrow(x);
  return widen(near) < x ? near + 1 : near;
}

// What token `at` of a sub-block takes of K: head_dim / width cells of `width` elements, 16 apart.
template <class T, int width>
void put_key(T* sub, int at, const T* x, int head_dim) {
  for (int d = 0; d < head_dim; d += width) {
    memcpy(sub + (int64_t)d * kSub + at * width, x + d, width * sizeof(T));
  }
}

// And of V: one element of each of head_dim cells of `width` tokens.
template <class T, int width>
void put_value(T* sub, int at, const T* x, int head_dim) {
  T* cells = sub + (int64_t)(at / width) * head_dim * width + at % width;
  for (int d = 0; d < head_dim; d++) cells[(int64_t)d * width] = x[d];
}

void write_bf16(const hr_kv& kv, int64_t offset, int at, const float* k, const float* v) {
  bf16 key[kMaxHeadDim], value[kMaxHeadDim];
  bool finite = all_finite(k, kv.head_dim);
  F off = zero();
  for (int d = 0; d < kv.head_dim; d += 16) {
    store_bf16(key + d, load(k + d));
    store_bf16(value + d, load(v + d));
    F rounded = load_bf16(value + d);  // rounding may have made it infinite
    off = add(off, sub(rounded, rounded));
  }
  if (!finite || sum(off) != 0.0f) {
    for (int d = 0; d < kv.head_dim; d++) key[d] = kNan, value[d] = 0;
  }
  put_key<bf16, 2>((bf16*)((uint8_t*)kv.k + offset), at, key, kv.head_dim);
  put_value<bf16, 2>((bf16*)((uint8_t*)kv.v + offset), at, value, kv.head_dim);
}

void quantize_row(const float* x, int n, float inverse, uint8_t* bytes) {
  F by = set1(inverse);
  int32_t q[16];
  for (int i = 0; i < n; i += 16) {
    istore(q, iadd(to_int(mul(load(x + i), by)), iset1(kByteOffset)));
    for (int j = 0; j < 16; j++) bytes[i + j] = (uint8_t)q[j];
  }
}

// Scales are rounded up, so that no byte overflows.
bf16 quantize_key(const float* x, int n, uint8_t* bytes) {
  bf16 scale = narrow_up(std::max(kTiny, largest_magnitude(x, n)) / 127.0f);
  quantize_row(x, n, 1.0f / widen(scale), bytes);
  return scale;
}
int16_t quantize_value(const float* x, int n, uint8_t* bytes) {
  float scale = std::max(kTiny, largest_magnitude(x, n)) / 127.0f;
  int16_t exponent = (int16_t)std::ceil(std::log2(scale) * kExponentSteps);
  quantize_row(x, n, std::exp2((float)-exponent / kExponentSteps), bytes);
  return exponent;
}

void write_int8(const hr_kv& kv, int64_t page, int token, const float* k, const float* v) {
  uint8_t key[kMaxHeadDim], value[kMaxHeadDim];
  bf16 key_scale = kNan;
  int16_t value_exponent = 0;
  if (all_finite(k, kv.head_dim) && all_finite(v, kv.head_dim)) {
    key_scale = quantize_key(k, kv.head_dim, key);
    value_exponent = quantize_value(v, kv.head_dim, value);
  } else {
    memset(key, kByteOffset, sizeof key);
    memset(value, kByteOffset, sizeof value);
  }
  uint8_t *k_page = (uint8_t*)kv.k + page, *v_page = (uint8_t*)kv.v + page;
  ((bf16*)k_page)[token] = key_scale;
  ((int16_t*)v_page)[token] = value_exponent;
  int64_t sub = scale_bytes(kv) + token / kSub * sub_bytes(kv);
  put_key<uint8_t, 4>(k_page + sub, token % kSub, key, kv.head_dim);
  put_value<uint8_t, 4>(v_page + sub, token % kSub, value, kv.head_dim);
}

}  // namespace

void write_kv_row(const hr_kv& kv, int64_t slot, int kv_head, const float* k, const float* v) {
  int64_t page = page_offset(kv, slot / kv.block_tokens, kv_head);
  int token = (int)(slot % kv.block_tokens);
  if (kv.format == HR_BF16) {
    write_bf16(kv, page + token / kSub * sub_bytes(kv), token % kSub, k, v);
  } else {
    write_int8(kv, page, token, k, v);
  }
}

}  // namespace hr

int64_t hr_kv_bytes(int format, int blocks, int block_tokens, int kv_heads, int head_dim) {
  hr_kv kv = {format, blocks, block_tokens, kv_heads, head_dim, nullptr, nullptr};
  return hr::paged::check(kv) ? -1 : (int64_t)blocks * kv_heads * hr::paged::page_bytes(kv);
}

int hr_kv_write(hr_pool* pool, const hr_kv* kv, const hr_spans* spans, const float* k, int64_t ldk,
                const float* v, int64_t ldv) {
  if (int wrong = hr::paged::check(*kv)) return wrong;
  if (int wrong = hr::paged::check_spans(*kv, *spans)) return wrong;
  std::vector<int64_t> slot;
  hr::paged::plan_slots(*kv, *spans, slot);
  std::atomic<int> next{0};
  pool->threads.run([&](int) {
    for (int row; (row = next.fetch_add(1, std::memory_order_relaxed)) < spans->rows;) {
      for (int head = 0; head < kv->kv_heads; head++) {
        int64_t at = (int64_t)head * kv->head_dim;
        hr::write_kv_row(*kv, slot[row], head, k + row * ldk + at, v + row * ldv + at);
      }
    }
  });
  return HR_OK;
}
