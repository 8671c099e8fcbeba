// The small operations around the products, one row at a time: norms, rotation, gate, exponential.
//
// Sizes need not be multiples of 16. Invariant: a row's result depends on that row only, summed in
// one order: 16 partial sums along the row, then across the lanes.
#pragma once
#include <cmath>

#include "simd.h"

namespace hr {

// 2^x: relative error <= 2.5e-7 for x in -126..127; 2^-126 below; NaN stays NaN.
// The nearest whole power times a minimax polynomial (Remez, degree 5) on -1/2..1/2.
HR_INLINE F power2(F x) {
  x = max(set1(-126.0f), x);  // max returns its second operand where one is NaN
  F whole = round(x), r = sub(x, whole);
  F p = fma(set1(0.00132765f), r, set1(0.00967554f));
  p = fma(p, r, set1(0.05550713f));
  p = fma(p, r, set1(0.2402212f));
  p = fma(p, r, set1(0.69314697f));
  p = fma(p, r, set1(1.0f));
  return scale2(p, whole);
}

// 1 / sqrt(mean(x^2) + eps), in every lane.
HR_INLINE F rms_factor(const float* x, int n, float eps) {
  int whole = n & ~15, rest = n - whole;
  F squares = zero();
  for (int i = 0; i < whole; i += 16) squares = fma(load(x + i), load(x + i), squares);
  if (rest) {
    F tail = load_some(x + whole, rest);
    squares = fma(tail, tail, squares);
  }
  return set1(1.0f / std::sqrt(sum(squares) / (float)n + eps));
}

// y = x * by * weight; y may be x.
HR_INLINE void scale_row(const float* x, F by, const float* weight, int n, float* y) {
  int whole = n & ~15, rest = n - whole;
  for (int i = 0; i < whole; i += 16) store(y + i, mul(mul(load(x + i), by), load(weight + i)));
  if (rest) {
    F tail = mul(load_some(x + whole, rest), by);
    store_some(y + whole, mul(tail, load_some(weight + whole, rest)), rest);
  }
}

// y = x / sqrt(mean(x^2) + eps) * weight; y may be x. Also a head's q or k norm, n = head_dim.
HR_INLINE void rms_norm(const float* x, const float* weight, int n, float eps, float* y) {
  scale_row(x, rms_factor(x, n, eps), weight, n, y);
}

// Turns each pair (x[i], x[i + head_dim / 2]) of one head by its position's angle, in place;
// cos and sin are that position's, [head_dim / 2].
HR_INLINE void rotate(float* x, const float* cos, const float* sin, int head_dim) {
  int half = head_dim / 2;
  for (int i = 0; i < half; i += 16) {
    int count = half - i < 16 ? half - i : 16;
    F a = load_some(x + i, count), b = load_some(x + half + i, count);
    F c = load_some(cos + i, count), s = load_some(sin + i, count);
    store_some(x + i, fnma(b, s, mul(a, c)), count);
    store_some(x + half + i, fma(a, s, mul(b, c)), count);
  }
}

// x / (1 + e^-x); 0 far below zero.
HR_INLINE F silu(F x) {
  F power = min(mul(x, set1(-1.44269504f)), set1(126.0f));
  return div(x, add(set1(1.0f), power2(power)));
}

// y = silu(gate) * up; y may be gate or up.
HR_INLINE void silu_multiply(const float* gate, const float* up, int n, float* y) {
  int whole = n & ~15, rest = n - whole;
  for (int i = 0; i < whole; i += 16) store(y + i, mul(silu(load(gate + i)), load(up + i)));
  if (rest) {
    F tail = mul(silu(load_some(gate + whole, rest)), load_some(up + whole, rest));
    store_some(y + whole, tail, rest);
  }
}

// x * (1 + erf(x / sqrt 2)) / 2. erf as Abramowitz and Stegun 7.1.26: off by at most 1.5e-7.
HR_INLINE F gelu(F x) {
  F size = abs(x), z = mul(size, set1(0.70710678f));
  F t = div(set1(1.0f), fma(set1(0.3275911f), z, set1(1.0f)));
  F p = fma(set1(1.061405429f), t, set1(-1.453152027f));
  p = fma(p, t, set1(1.421413741f));
  p = fma(p, t, set1(-0.284496736f));
  p = fma(p, t, set1(0.254829592f));
  F tail = mul(mul(p, t), power2(mul(mul(z, z), set1(-1.44269504f))));
  return mul(set1(0.5f), fnma(size, tail, add(x, size)));
}

// y = gelu(x).
HR_INLINE void gelu_row(const float* x, int n, float* y) {
  int whole = n & ~15, rest = n - whole;
  for (int i = 0; i < whole; i += 16) store(y + i, gelu(load(x + i)));
  if (rest) store_some(y + whole, gelu(load_some(x + whole, rest)), rest);
}

// y = (x - mean) / sqrt(variance + eps) * weight + shift; y may be x.
HR_INLINE void layer_norm(const float* x, const float* weight, const float* shift, int n, float eps,
                          float* y) {
  int whole = n & ~15, rest = n - whole;
  F total = rest ? load_some(x + whole, rest) : zero();
  for (int i = 0; i < whole; i += 16) total = add(total, load(x + i));
  F mean = set1(sum(total) / (float)n), squares = zero();
  for (int i = 0; i < whole; i += 16) {
    F off = sub(load(x + i), mean);
    squares = fma(off, off, squares);
  }
  if (rest) {
    F off = first(rest, sub(load_some(x + whole, rest), mean), zero());
    squares = fma(off, off, squares);
  }
  F by = set1(1.0f / std::sqrt(sum(squares) / (float)n + eps));
  for (int i = 0; i < whole; i += 16) {
    F value = mul(sub(load(x + i), mean), by);
    store(y + i, fma(value, load(weight + i), load(shift + i)));
  }
  if (rest) {
    F value = mul(sub(load_some(x + whole, rest), mean), by);
    value = fma(value, load_some(weight + whole, rest), load_some(shift + whole, rest));
    store_some(y + whole, value, rest);
  }
}

}  // namespace hr
