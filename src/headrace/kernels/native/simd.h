// Sixteen lanes on every instruction set: with amx.h the only file that knows intrinsics.
//
// Weights are stored in tiles of 16 output rows, so one vector type of 16 lanes (F: float, I: int32)
// serves all kernels; where registers are narrower it is two or four of them. Each instruction set
// is one build of the same sources with explicit flags (see setup.py), never -march=native.
//
// Invariant: every operation here rounds as IEEE says, except dot_bf16 on AVX-512, which flushes
// denormals and fuses as the instruction does; so results are equal run to run on one build.
#pragma once
#include <cstdint>
#include <cstring>

#define HR_INLINE static inline __attribute__((always_inline))
#define HR_UNROLL _Pragma("GCC unroll 64")

namespace hr {

typedef uint16_t bf16;  // the bits
typedef uint16_t f16;

HR_INLINE float widen(bf16 x) {
  uint32_t bits = (uint32_t)x << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

// Round to nearest even; NaN stays NaN.
HR_INLINE bf16 narrow(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (bf16)((bits >> 16) | 0x40);
  return (bf16)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

}  // namespace hr

#if defined(__AVX512VNNI__) && defined(__AVX512BF16__)
#include "simd_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "simd_avx2.h"
#elif defined(__ARM_FEATURE_MATMUL_INT8) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include "simd_neon.h"
#else
#include "simd_portable.h"
#endif
