// Plain C++ for any processor: right everywhere, fast nowhere. Loops over lanes that compilers turn
// into whatever vectors the platform's baseline has.
#pragma once
#include <cmath>

namespace hr {

constexpr const char* kIsa = "portable";
constexpr bool kAmx = false;
constexpr int kRegisters = 8;
constexpr bool kNativeBf16Dot = false;

struct F {
  float v[16];
};
struct I {
  int32_t v[16];
};
struct W {
  uint8_t v[64];
};

// out.v[i] = value(i).
template <class T, class Value>
HR_INLINE T lanes(const Value& value) {
  T out;
  for (int i = 0; i < 16; i++) out.v[i] = value(i);
  return out;
}

HR_INLINE F set1(float x) {
  return lanes<F>([&](int) { return x; });
}
HR_INLINE F zero() { return set1(0.0f); }
HR_INLINE F load(const float* p) {
  F x;
  memcpy(x.v, p, sizeof x);
  return x;
}
HR_INLINE void store(float* p, F x) { memcpy(p, x.v, sizeof x); }
HR_INLINE F add(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] + y.v[i]; });
}
HR_INLINE F sub(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] - y.v[i]; });
}
HR_INLINE F mul(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] * y.v[i]; });
}
HR_INLINE F div(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] / y.v[i]; });
}
HR_INLINE F max(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] > y.v[i] ? x.v[i] : y.v[i]; });
}
HR_INLINE F min(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] < y.v[i] ? x.v[i] : y.v[i]; });
}
// Rounded twice: std::fma is a library call where the processor has no such instruction.
HR_INLINE F fma(F x, F y, F z) {
  return lanes<F>([&](int i) { return x.v[i] * y.v[i] + z.v[i]; });
}
HR_INLINE F fnma(F x, F y, F z) {
  return lanes<F>([&](int i) { return z.v[i] - x.v[i] * y.v[i]; });
}
HR_INLINE F abs(F x) {
  return lanes<F>([&](int i) { return std::fabs(x.v[i]); });
}
HR_INLINE float sum(F x) {
  for (int half = 8; half; half /= 2) {
    for (int i = 0; i < half; i++) x.v[i] += x.v[i + half];
  }
  return x.v[0];
}
HR_INLINE float largest(F x) {
  for (int half = 8; half; half /= 2) {
    for (int i = 0; i < half; i++) x.v[i] = x.v[i] > x.v[i + half] ? x.v[i] : x.v[i + half];
  }
  return x.v[0];
}
HR_INLINE F round(F x) {
  return lanes<F>([&](int i) { return std::nearbyint(x.v[i]); });
}
// a * 2^n, n whole; n beyond the range of normal powers counts as its end.
HR_INLINE F scale2(F x, F n) {
  return lanes<F>([&](int i) {
    float power = n.v[i] > -126.0f ? (n.v[i] < 127.0f ? n.v[i] : 127.0f) : -126.0f;
    uint32_t bits = (uint32_t)((int32_t)power + 127) << 23;
    float by;
    memcpy(&by, &bits, 4);
    return x.v[i] * by;
  });
}
HR_INLINE F first(int count, F x, F y) {
  return lanes<F>([&](int i) { return i < count ? x.v[i] : y.v[i]; });
}
HR_INLINE F load_some(const float* p, int count) {
  return lanes<F>([&](int i) { return i < count ? p[i] : 0.0f; });
}
HR_INLINE void store_some(float* p, F x, int count) {
  for (int i = 0; i < count; i++) p[i] = x.v[i];
}

HR_INLINE I iset1(int32_t x) {
  return lanes<I>([&](int) { return x; });
}
HR_INLINE I izero() { return iset1(0); }
HR_INLINE I iload(const int32_t* p) {
  I x;
  memcpy(x.v, p, sizeof x);
  return x;
}
HR_INLINE void istore(int32_t* p, I x) { memcpy(p, x.v, sizeof x); }
// Sums wrap as those of the instructions do.
HR_INLINE int32_t wrapping(uint32_t x) { return (int32_t)x; }
HR_INLINE I isub(I x, I y) {
  return lanes<I>([&](int i) { return wrapping((uint32_t)x.v[i] - (uint32_t)y.v[i]); });
}
HR_INLINE I iadd(I x, I y) {
  return lanes<I>([&](int i) { return wrapping((uint32_t)x.v[i] + (uint32_t)y.v[i]); });
}
template <int bits>
HR_INLINE I shift_left(I x) {
  return lanes<I>([&](int i) { return wrapping((uint32_t)x.v[i] << bits); });
}
template <int bits>
HR_INLINE I shift_right(I x) {
  return lanes<I>([&](int i) { return x.v[i] >> bits; });
}
template <int bits>
HR_INLINE I low_bits(I x) {
  return lanes<I>([&](int i) { return x.v[i] & ((1 << bits) - 1); });
}
HR_INLINE int32_t isum(I x) {
  uint32_t total = 0;
  for (int i = 0; i < 16; i++) total += (uint32_t)x.v[i];
  return wrapping(total);
}
HR_INLINE F to_float(I x) {
  return lanes<F>([&](int i) { return (float)x.v[i]; });
}
// To the nearest, even between two; what no int32 holds, NaN too, becomes the least.
HR_INLINE I to_int(F x) {
  return lanes<I>([&](int i) {
    float whole = std::nearbyint(x.v[i]);
    return whole >= -2147483648.0f && whole < 2147483648.0f ? (int32_t)whole : INT32_MIN;
  });
}
HR_INLINE void store_s8(int8_t* p, I x) {
  for (int i = 0; i < 16; i++) p[i] = (int8_t)(x.v[i] < -128 ? -128 : x.v[i] > 127 ? 127 : x.v[i]);
}
HR_INLINE I load_s16(const int16_t* p) {
  return lanes<I>([&](int i) { return (int32_t)p[i]; });
}
HR_INLINE I load_s8(const int8_t* p) {
  return lanes<I>([&](int i) { return (int32_t)p[i]; });
}

HR_INLINE F load_bf16(const bf16* p) {
  return lanes<F>([&](int i) { return widen(p[i]); });
}
HR_INLINE void store_bf16(bf16* p, F x) {
  for (int i = 0; i < 16; i++) p[i] = narrow(x.v[i]);
}
HR_INLINE void store_bf16(bf16* p, F x, F y) {  // 32 in a row
  store_bf16(p, x);
  store_bf16(p + 16, y);
}

// IEEE half precision, by arithmetic on the bits (subnormals by one exact multiplication).
HR_INLINE float from_half(f16 h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
  uint32_t bits = rest >= 0x7c00 ? rest << 13 | 0x7f800000 : (rest << 13) + (112u << 23);
  if (rest < 0x0400) {
    float small = (float)rest * 0x1p-24f;
    memcpy(&bits, &small, 4);
  }
  bits |= sign;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
HR_INLINE f16 to_half(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  uint32_t sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return (f16)(sign | 0x7e00 | (rest >> 13 & 0x3ff));
  if (rest >= 0x477ff000) return (f16)(sign | 0x7c00);  // rounds beyond 65504
  if (rest < 0x38800000) return (f16)(sign | (uint32_t)std::nearbyint(std::fabs(f) * 0x1p24f));
  uint32_t up = rest + 0xfff + (rest >> 13 & 1) - (112u << 23);
  return (f16)(sign | up >> 13);
}
HR_INLINE F load_f16(const f16* p) {
  return lanes<F>([&](int i) { return from_half(p[i]); });
}
HR_INLINE void store_f16(f16* p, F x) {
  for (int i = 0; i < 16; i++) p[i] = to_half(x.v[i]);
}

HR_INLINE W load_w(const void* p) {
  W w;
  memcpy(w.v, p, sizeof w);
  return w;
}
HR_INLINE W low_nibbles(W w) {
  for (uint8_t& byte : w.v) byte &= 15;
  return w;
}
HR_INLINE W high_nibbles(W w) {
  for (uint8_t& byte : w.v) byte >>= 4;
  return w;
}
HR_INLINE void prefetch_far(const void* p) { __builtin_prefetch(p, 0, 2); }
HR_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

constexpr int kDotOffset = 128;
HR_INLINE I dot_bytes(I acc, W w, const int32_t* a) {
  int8_t x[4];
  memcpy(x, a, 4);
  for (int i = 0; i < 16; i++) {
    for (int j = 0; j < 4; j++) acc.v[i] += w.v[4 * i + j] * x[j];
  }
  return acc;
}
typedef I Nibbles;
constexpr int kMostNibbles = 64;
HR_INLINE Nibbles begin_nibbles(I acc) { return acc; }
HR_INLINE Nibbles dot_nibbles(Nibbles acc, W w, const int32_t* a) { return dot_bytes(acc, w, a); }
HR_INLINE I end_nibbles(I, Nibbles n) { return n; }

HR_INLINE F dot_bf16(F acc, W w, const uint32_t* a) {
  bf16 x[2], pairs[32];
  memcpy(x, a, 4);
  memcpy(pairs, w.v, sizeof pairs);
  for (int i = 0; i < 16; i++) {
    acc.v[i] += widen(pairs[2 * i]) * widen(x[0]);
    acc.v[i] += widen(pairs[2 * i + 1]) * widen(x[1]);
  }
  return acc;
}

HR_INLINE F evens(W w) {
  return lanes<F>([&](int i) { return widen((bf16)(w.v[4 * i] | w.v[4 * i + 1] << 8)); });
}
HR_INLINE F odds(W w) {
  return lanes<F>([&](int i) { return widen((bf16)(w.v[4 * i + 2] | w.v[4 * i + 3] << 8)); });
}
HR_INLINE void fma_into(F& sum, F x, F y) { sum = fma(x, y, sum); }

HR_INLINE void pause() {}

// acc[i] += w[i] * a[0].
HR_INLINE F dot_f32(F acc, F w, const float* a) { return fma(w, set1(*a), acc); }

}  // namespace hr
