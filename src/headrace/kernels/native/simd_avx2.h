// AVX2 with FMA and F16C (Haswell, Zen and later): sixteen lanes are two registers.
#pragma once
#include <immintrin.h>

#include <cmath>

namespace hr {

constexpr const char* kIsa = "avx2";
constexpr bool kAmx = false;
constexpr int kRegisters = 8;  // of 16 lanes
constexpr bool kNativeBf16Dot = false;

struct F {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};
struct W {
  __m256i a, b;
};

HR_INLINE F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
HR_INLINE F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
HR_INLINE F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
HR_INLINE void store(float* p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
HR_INLINE F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
HR_INLINE F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
HR_INLINE F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
HR_INLINE F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
HR_INLINE F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
HR_INLINE F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
HR_INLINE F fma(F x, F y, F z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
HR_INLINE F fnma(F x, F y, F z) {
  return {_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)};
}
HR_INLINE F abs(F x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
HR_INLINE float sum(F x) {
  __m256 eight = _mm256_add_ps(x.a, x.b);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
HR_INLINE float largest(F x) {
  __m256 eight = _mm256_max_ps(x.a, x.b);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
HR_INLINE F round(F x) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, kNearest), _mm256_round_ps(x.b, kNearest)};
}
// a * 2^n, n whole; n beyond the range of normal powers counts as its end.
HR_INLINE __m256 scale2(__m256 a, __m256 n) {
  n = _mm256_min_ps(_mm256_max_ps(n, _mm256_set1_ps(-126.0f)), _mm256_set1_ps(127.0f));
  __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
HR_INLINE F scale2(F x, F n) { return {scale2(x.a, n.a), scale2(x.b, n.b)}; }

// All ones in the lanes before `count`, for lanes 0..7 and 8..15.
HR_INLINE I before(int count) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane),
          _mm256_cmpgt_epi32(_mm256_set1_epi32(count - 8), lane)};
}
HR_INLINE F first(int count, F x, F y) {
  I m = before(count);
  return {_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(m.a)),
          _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(m.b))};
}
HR_INLINE F load_some(const float* p, int count) {
  I m = before(count);
  return {_mm256_maskload_ps(p, m.a), _mm256_maskload_ps(p + 8, m.b)};
}
HR_INLINE void store_some(float* p, F x, int count) {
  I m = before(count);
  _mm256_maskstore_ps(p, m.a, x.a);
  _mm256_maskstore_ps(p + 8, m.b, x.b);
}

HR_INLINE I izero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
HR_INLINE I iset1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
HR_INLINE I iload(const int32_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 8))};
}
HR_INLINE void istore(int32_t* p, I x) {
  _mm256_storeu_si256((__m256i*)p, x.a);
  _mm256_storeu_si256((__m256i*)(p + 8), x.b);
}
HR_INLINE I isub(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
HR_INLINE I iadd(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
template <int bits>
HR_INLINE I shift_left(I x) {
  return {_mm256_slli_epi32(x.a, bits), _mm256_slli_epi32(x.b, bits)};
}
template <int bits>
HR_INLINE I shift_right(I x) {
  return {_mm256_srai_epi32(x.a, bits), _mm256_srai_epi32(x.b, bits)};
}
template <int bits>
HR_INLINE I low_bits(I x) {
  const __m256i mask = _mm256_set1_epi32((1 << bits) - 1);
  return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
HR_INLINE int32_t isum(I x) {
  __m256i eight = _mm256_add_epi32(x.a, x.b);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
HR_INLINE F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
HR_INLINE I to_int(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
HR_INLINE void store_s8(int8_t* p, I x) {
  // Packing works within halves of a register: 0-3 8-11 4-7 12-15, put in order afterwards.
  __m256i words = _mm256_packs_epi32(x.a, x.b);
  __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128((__m128i*)p, _mm_shuffle_epi32(bytes, 0xd8));
}
HR_INLINE I load_s16(const int16_t* p) {
  return {_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
HR_INLINE I load_s8(const int8_t* p) {
  return {_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)),
          _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
}

HR_INLINE __m256 widen8(const bf16* p) {
  __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}
HR_INLINE F load_bf16(const bf16* p) { return {widen8(p), widen8(p + 8)}; }
// The upper halves of eight floats, rounded to nearest even, in the lower halves; NaN stays NaN.
HR_INLINE __m256i narrow8(__m256 x) {
  __m256i bits = _mm256_castps_si256(x), upper = _mm256_srli_epi32(bits, 16);
  __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  __m256i nan = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  __m256 broken = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  return _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), nan, _mm256_castps_si256(broken));
}
HR_INLINE void store_bf16(bf16* p, F x) {
  __m256i words = _mm256_packus_epi32(narrow8(x.a), narrow8(x.b));
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(words, 0xd8));
}
HR_INLINE void store_bf16(bf16* p, F x, F y) {  // 32 in a row
  store_bf16(p, x);
  store_bf16(p + 16, y);
}
HR_INLINE F load_f16(const f16* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
HR_INLINE void store_f16(f16* p, F x) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}

HR_INLINE W load_w(const void* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
HR_INLINE W low_nibbles(W w) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(w.a, mask), _mm256_and_si256(w.b, mask)};
}
HR_INLINE W high_nibbles(W w) {
  return low_nibbles({_mm256_srli_epi16(w.a, 4), _mm256_srli_epi16(w.b, 4)});
}
HR_INLINE void prefetch_far(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T1); }
HR_INLINE void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

// Between one term of a sum and the next: left alone, the compiler makes all products of a group before
// it adds any, and with sixteen registers most of them go through memory (a third of the speed).
HR_INLINE I in_order(I x) {
  asm("" : "+x"(x.a), "+x"(x.b));
  return x;
}
HR_INLINE F in_order(F x) {
  asm("" : "+x"(x.a), "+x"(x.b));
  return x;
}
// sum = fma(x, y, sum), in the registers it is in: gcc 12 moves sums about until one is in memory.
HR_INLINE void fma_into(F& sum, F x, F y) {
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum.a) : "x"(x.a), "x"(y.a));
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum.b) : "x"(x.b), "x"(y.b));
}

// vpmaddubsw wants one side unsigned and saturates at 2^15: signs go from the weights to the other
// side, and 2 * 128 * 127 fits.
constexpr int kDotOffset = 0;
HR_INLINE I dot_bytes(I acc, W w, const int32_t* a) {
  const __m256i one = _mm256_set1_epi16(1), top = _mm256_set1_epi8(-128), x = _mm256_set1_epi32(*a);
  auto four = [&](__m256i acc, __m256i w) {
    w = _mm256_xor_si256(w, top);
    __m256i two = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(two, one));
  };
  return in_order(I{four(acc.a, w.a), four(acc.b, w.b)});
}

// Eight products of nibbles fit 16 bits: 8 * 2 * 15 * 128 < 2^15.
constexpr int kMostNibbles = 8;
struct Nibbles {
  __m256i a, b;
};
HR_INLINE Nibbles begin_nibbles(I) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
HR_INLINE Nibbles dot_nibbles(Nibbles acc, W w, const int32_t* a) {
  const __m256i x = _mm256_set1_epi32(*a);
  acc.a = _mm256_add_epi16(acc.a, _mm256_maddubs_epi16(w.a, x));
  acc.b = _mm256_add_epi16(acc.b, _mm256_maddubs_epi16(w.b, x));
  asm("" : "+x"(acc.a), "+x"(acc.b));
  return acc;
}
HR_INLINE I end_nibbles(I acc, Nibbles n) {
  const __m256i one = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(acc.a, _mm256_madd_epi16(n.a, one)),
          _mm256_add_epi32(acc.b, _mm256_madd_epi16(n.b, one))};
}

// The even and the odd columns of pairs, as floats.
HR_INLINE F evens(W w) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(w.a, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(w.b, 16))};
}
HR_INLINE F odds(W w) {
  const __m256i upper = _mm256_set1_epi32((int32_t)0xffff0000);
  return {_mm256_castsi256_ps(_mm256_and_si256(w.a, upper)),
          _mm256_castsi256_ps(_mm256_and_si256(w.b, upper))};
}
HR_INLINE F dot_bf16(F acc, W w, const uint32_t* a) {
  const __m256i upper = _mm256_set1_epi32((int32_t)0xffff0000);
  const __m256i x = _mm256_set1_epi32((int32_t)*a);
  const __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
  const __m256 odd = _mm256_castsi256_ps(_mm256_and_si256(x, upper));
  auto two = [&](__m256 acc, __m256i w) {
    acc = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(w, 16)), even, acc);
    return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(w, upper)), odd, acc);
  };
  return in_order(F{two(acc.a, w.a), two(acc.b, w.b)});
}

HR_INLINE void pause() { _mm_pause(); }

// acc[i] += w[i] * a[0].
HR_INLINE F dot_f32(F acc, F w, const float* a) { return fma(w, set1(*a), acc); }

}  // namespace hr
