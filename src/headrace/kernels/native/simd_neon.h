// NEON with dot products, 8-bit matrix products and BF16 (Graviton 3, Grace, Apple M2 and later):
// sixteen lanes are four registers.
#pragma once
#include <arm_neon.h>

namespace hr {

constexpr const char* kIsa = "neon";
constexpr bool kAmx = false;
constexpr int kRegisters = 8;  // of 16 lanes
constexpr bool kNativeBf16Dot = true;

struct F {
  float32x4_t v[4];
};
struct I {
  int32x4_t v[4];
};
struct W {
  uint8x16_t v[4];
};

// out.v[n] = value(n): the four registers of sixteen lanes.
template <class T, class Value>
HR_INLINE T quads(const Value& value) {
  return {{value(0), value(1), value(2), value(3)}};
}

HR_INLINE F set1(float x) {
  return quads<F>([&](int) { return vdupq_n_f32(x); });
}
HR_INLINE F zero() { return set1(0.0f); }
HR_INLINE F load(const float* p) {
  return quads<F>([&](int n) { return vld1q_f32(p + 4 * n); });
}
HR_INLINE void store(float* p, F x) {
  for (int n = 0; n < 4; n++) vst1q_f32(p + 4 * n, x.v[n]);
}
HR_INLINE F add(F x, F y) {
  return quads<F>([&](int n) { return vaddq_f32(x.v[n], y.v[n]); });
}
HR_INLINE F sub(F x, F y) {
  return quads<F>([&](int n) { return vsubq_f32(x.v[n], y.v[n]); });
}
HR_INLINE F mul(F x, F y) {
  return quads<F>([&](int n) { return vmulq_f32(x.v[n], y.v[n]); });
}
HR_INLINE F div(F x, F y) {
  return quads<F>([&](int n) { return vdivq_f32(x.v[n], y.v[n]); });
}
// By comparison, as x86 has it: y where one is NaN, which vmaxq is not.
HR_INLINE float32x4_t max(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
HR_INLINE float32x4_t min(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
HR_INLINE F max(F x, F y) {
  return quads<F>([&](int n) { return max(x.v[n], y.v[n]); });
}
HR_INLINE F min(F x, F y) {
  return quads<F>([&](int n) { return min(x.v[n], y.v[n]); });
}
HR_INLINE F fma(F x, F y, F z) {
  return quads<F>([&](int n) { return vfmaq_f32(z.v[n], x.v[n], y.v[n]); });
}
HR_INLINE F fnma(F x, F y, F z) {
  return quads<F>([&](int n) { return vfmsq_f32(z.v[n], x.v[n], y.v[n]); });
}
HR_INLINE F abs(F x) {
  return quads<F>([&](int n) { return vabsq_f32(x.v[n]); });
}
HR_INLINE float sum(F x) {
  return vaddvq_f32(vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3])));
}
HR_INLINE float largest(F x) {
  float32x4_t four = max(max(x.v[0], x.v[2]), max(x.v[1], x.v[3]));
  float lanes[4];
  vst1q_f32(lanes, four);
  float a = lanes[0] > lanes[2] ? lanes[0] : lanes[2], b = lanes[1] > lanes[3] ? lanes[1] : lanes[3];
  return a > b ? a : b;
}
HR_INLINE F round(F x) {
  return quads<F>([&](int n) { return vrndnq_f32(x.v[n]); });
}
// a * 2^n, n whole; n beyond the range of normal powers counts as its end.
HR_INLINE F scale2(F x, F n) {
  F power = min(max(n, set1(-126.0f)), set1(127.0f));
  return quads<F>([&](int i) {
    int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(power.v[i]), vdupq_n_s32(127));
    return vmulq_f32(x.v[i], vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
  });
}
HR_INLINE F first(int count, F x, F y) {
  const int32_t four[4] = {0, 1, 2, 3};
  return quads<F>([&](int n) {
    uint32x4_t before = vcltq_s32(vld1q_s32(four), vdupq_n_s32(count - 4 * n));
    return vbslq_f32(before, x.v[n], y.v[n]);
  });
}
HR_INLINE F load_some(const float* p, int count) {
  float lanes[16] = {};
  memcpy(lanes, p, (size_t)count * 4);
  return load(lanes);
}
HR_INLINE void store_some(float* p, F x, int count) {
  float lanes[16];
  store(lanes, x);
  memcpy(p, lanes, (size_t)count * 4);
}

HR_INLINE I iset1(int32_t x) {
  return quads<I>([&](int) { return vdupq_n_s32(x); });
}
HR_INLINE I izero() { return iset1(0); }
HR_INLINE I iload(const int32_t* p) {
  return quads<I>([&](int n) { return vld1q_s32(p + 4 * n); });
}
HR_INLINE void istore(int32_t* p, I x) {
  for (int n = 0; n < 4; n++) vst1q_s32(p + 4 * n, x.v[n]);
}
HR_INLINE I isub(I x, I y) {
  return quads<I>([&](int n) { return vsubq_s32(x.v[n], y.v[n]); });
}
HR_INLINE I iadd(I x, I y) {
  return quads<I>([&](int n) { return vaddq_s32(x.v[n], y.v[n]); });
}
template <int bits>
HR_INLINE I shift_left(I x) {
  return quads<I>([&](int n) { return vshlq_n_s32(x.v[n], bits); });
}
template <int bits>
HR_INLINE I shift_right(I x) {
  return quads<I>([&](int n) { return vshrq_n_s32(x.v[n], bits); });
}
template <int bits>
HR_INLINE I low_bits(I x) {
  return quads<I>([&](int n) { return vandq_s32(x.v[n], vdupq_n_s32((1 << bits) - 1)); });
}
HR_INLINE int32_t isum(I x) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[2]), vaddq_s32(x.v[1], x.v[3])));
}
HR_INLINE F to_float(I x) {
  return quads<F>([&](int n) { return vcvtq_f32_s32(x.v[n]); });
}
HR_INLINE I to_int(F x) {
  return quads<I>([&](int n) { return vcvtnq_s32_f32(x.v[n]); });
}
HR_INLINE void store_s8(int8_t* p, I x) {
  int16x8_t low = vcombine_s16(vqmovn_s32(x.v[0]), vqmovn_s32(x.v[1]));
  int16x8_t high = vcombine_s16(vqmovn_s32(x.v[2]), vqmovn_s32(x.v[3]));
  vst1q_s8(p, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
}
HR_INLINE I load_s16(const int16_t* p) {
  return quads<I>([&](int n) { return vmovl_s16(vld1_s16(p + 4 * n)); });
}
HR_INLINE I load_s8(const int8_t* p) {
  int16x8_t low = vmovl_s8(vld1_s8(p)), high = vmovl_s8(vld1_s8(p + 8));
  return {{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)),
           vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))}};
}

HR_INLINE F load_bf16(const bf16* p) {
  return quads<F>([&](int n) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * n), 16)); });
}
HR_INLINE void store_bf16(bf16* p, F x) {
  for (int n = 0; n < 4; n++) vst1_bf16((bfloat16_t*)p + 4 * n, vcvt_bf16_f32(x.v[n]));
}
HR_INLINE void store_bf16(bf16* p, F x, F y) {  // 32 in a row
  store_bf16(p, x);
  store_bf16(p + 16, y);
}
HR_INLINE F load_f16(const f16* p) {
  return quads<F>([&](int n) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * n))); });
}
HR_INLINE void store_f16(f16* p, F x) {
  for (int n = 0; n < 4; n++) vst1_u16(p + 4 * n, vreinterpret_u16_f16(vcvt_f16_f32(x.v[n])));
}

HR_INLINE W load_w(const void* p) {
  return quads<W>([&](int n) { return vld1q_u8((const uint8_t*)p + 16 * n); });
}
HR_INLINE W low_nibbles(W w) {
  return quads<W>([&](int n) { return vandq_u8(w.v[n], vdupq_n_u8(15)); });
}
HR_INLINE W high_nibbles(W w) {
  return quads<W>([&](int n) { return vshrq_n_u8(w.v[n], 4); });
}
HR_INLINE void prefetch_far(const void* p) { __builtin_prefetch(p, 0, 2); }
HR_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

constexpr int kDotOffset = 128;
HR_INLINE I dot_bytes(I acc, W w, const int32_t* a) {
  int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(*a));
  return quads<I>([&](int n) { return vusdotq_s32(acc.v[n], w.v[n], x); });
}
typedef I Nibbles;
constexpr int kMostNibbles = 64;
HR_INLINE Nibbles begin_nibbles(I acc) { return acc; }
HR_INLINE Nibbles dot_nibbles(Nibbles acc, W w, const int32_t* a) { return dot_bytes(acc, w, a); }
HR_INLINE I end_nibbles(I, Nibbles n) { return n; }

HR_INLINE F dot_bf16(F acc, W w, const uint32_t* a) {
  bfloat16x8_t x = vreinterpretq_bf16_u32(vdupq_n_u32(*a));
  return quads<F>([&](int n) { return vbfdotq_f32(acc.v[n], vreinterpretq_bf16_u8(w.v[n]), x); });
}

// Unused: bf16 pairs have an instruction of their own.
HR_INLINE F evens(W) { return zero(); }
HR_INLINE F odds(W) { return zero(); }
HR_INLINE void fma_into(F&, F, F) {}

HR_INLINE void pause() { asm volatile("isb"); }

// acc[i] += w[i] * a[0].
HR_INLINE F dot_f32(F acc, F w, const float* a) { return fma(w, set1(*a), acc); }

}  // namespace hr
