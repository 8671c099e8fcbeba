// AVX-512 with VNNI and BF16 (Zen 4, Sapphire Rapids and later).
#pragma once
#include <immintrin.h>

namespace hr {

#if defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__)
constexpr bool kAmx = true;  // amx.h
constexpr const char* kIsa = "amx";
#else
constexpr bool kAmx = false;
constexpr const char* kIsa = "avx512";
#endif
constexpr int kRegisters = 32;  // of 16 lanes
constexpr bool kNativeBf16Dot = true;

typedef __m512 F;     // 16 floats
typedef __m512i I;    // 16 int32
typedef __m512i W;    // 64 bytes of weights: 16 lanes of 4 x 8 bits or 2 x bf16

HR_INLINE F zero() { return _mm512_setzero_ps(); }
HR_INLINE F set1(float x) { return _mm512_set1_ps(x); }
HR_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
HR_INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x); }
HR_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
HR_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
HR_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
HR_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
HR_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }  // max, min: b where one is NaN
HR_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
HR_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }    // a * b + c
HR_INLINE F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a * b
HR_INLINE F abs(F a) { return _mm512_abs_ps(a); }
HR_INLINE float sum(F a) { return _mm512_reduce_add_ps(a); }
HR_INLINE float largest(F a) { return _mm512_reduce_max_ps(a); }
HR_INLINE F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
HR_INLINE F scale2(F a, F n) { return _mm512_scalef_ps(a, n); }  // a * 2^n, n whole
// Lanes before `count` from a, the others from b.
HR_INLINE F first(int count, F a, F b) {
  __mmask16 m = count <= 0 ? 0 : count >= 16 ? 0xffff : (__mmask16)((1u << count) - 1);
  return _mm512_mask_blend_ps(m, b, a);
}

// The first `count` floats (0 to 16) of p, the other lanes 0; nothing beyond them is touched.
HR_INLINE F load_some(const float* p, int count) {
  return _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p);
}
HR_INLINE void store_some(float* p, F x, int count) {
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), x);
}

HR_INLINE I izero() { return _mm512_setzero_si512(); }
HR_INLINE I iset1(int32_t x) { return _mm512_set1_epi32(x); }
HR_INLINE I iload(const int32_t* p) { return _mm512_loadu_si512(p); }
HR_INLINE void istore(int32_t* p, I x) { _mm512_storeu_si512(p, x); }
HR_INLINE I isub(I a, I b) { return _mm512_sub_epi32(a, b); }
HR_INLINE I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
template <int bits>
HR_INLINE I shift_left(I a) {
  return _mm512_slli_epi32(a, bits);
}
template <int bits>
HR_INLINE I shift_right(I a) {  // the sign is kept
  return _mm512_srai_epi32(a, bits);
}
template <int bits>
HR_INLINE I low_bits(I a) {
  return _mm512_and_si512(a, _mm512_set1_epi32((1 << bits) - 1));
}
HR_INLINE int32_t isum(I a) { return _mm512_reduce_add_epi32(a); }
HR_INLINE F to_float(I a) { return _mm512_cvtepi32_ps(a); }
HR_INLINE I to_int(F a) { return _mm512_cvtps_epi32(a); }  // nearest even
HR_INLINE void store_s8(int8_t* p, I a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8(a)); }
HR_INLINE I load_s16(const int16_t* p) { return _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i*)p)); }
HR_INLINE I load_s8(const int8_t* p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)); }

HR_INLINE F load_bf16(const bf16* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
HR_INLINE void store_bf16(bf16* p, F x) { _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x)); }
HR_INLINE void store_bf16(bf16* p, F x, F y) {  // both at once, 32 in a row
  _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(y, x));
}
HR_INLINE F load_f16(const f16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
HR_INLINE void store_f16(f16* p, F x) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

HR_INLINE void store_w(void* p, W w) { _mm512_storeu_si512(p, w); }
HR_INLINE W less_128(W w) { return _mm512_xor_si512(w, _mm512_set1_epi8(-128)); }  // of each byte
HR_INLINE W less_8(W w) { return _mm512_sub_epi8(w, _mm512_set1_epi8(8)); }
HR_INLINE W load_w(const void* p) { return _mm512_loadu_si512(p); }
HR_INLINE W low_nibbles(W w) { return _mm512_and_si512(w, _mm512_set1_epi8(15)); }
HR_INLINE W high_nibbles(W w) { return _mm512_and_si512(_mm512_srli_epi16(w, 4), _mm512_set1_epi8(15)); }
HR_INLINE void prefetch_far(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T1); }  // to L2
HR_INLINE void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

// acc[i] += sum over 4 of (w[4i + j] - 128 + kDotOffset) * a[j]: what the instruction leaves of the
// stored bytes' offset is taken off elsewhere. `a` is 4 signed bytes, broadcast, none of them -128.
// Inline assembly: gcc 12 does not fold the broadcast into the instruction and copies accumulators.
constexpr int kDotOffset = 128;
HR_INLINE I dot_bytes(I acc, W w, const int32_t* a) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*a));
  return acc;
}

// acc[i] += sum over 4 of w[4i + j] * a[j] for w of at most 15, up to kMostNibbles of them between
// `begin_nibbles(acc)` and `acc = end_nibbles(acc, ...)`: narrower sums, where they are faster.
typedef I Nibbles;
constexpr int kMostNibbles = 64;
HR_INLINE Nibbles begin_nibbles(I acc) { return acc; }
HR_INLINE Nibbles dot_nibbles(Nibbles acc, W w, const int32_t* a) { return dot_bytes(acc, w, a); }
HR_INLINE I end_nibbles(I, Nibbles n) { return n; }

// acc[i] += w[2i] * a[0] + w[2i + 1] * a[1], bf16 operands; `a` is one pair, broadcast.
HR_INLINE F dot_bf16(F acc, W w, const uint32_t* a) {
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*a));
  return acc;
}

// acc[i] += w[i] * a[0], `a` broadcast.
HR_INLINE F dot_f32(F acc, F w, const float* a) {
  asm("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*a));
  return acc;
}

// Unused: bf16 pairs have an instruction of their own.
HR_INLINE F evens(W) { return zero(); }
HR_INLINE F odds(W) { return zero(); }
HR_INLINE void fma_into(F&, F, F) {}

HR_INLINE void pause() { _mm_pause(); }

}  // namespace hr
