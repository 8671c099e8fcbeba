// Scores to weights e^((x - max) / temperature), in float64: the same bits wherever an entry is asked for.
#pragma once
#include <bit>

#include "sampler_scores.h"

namespace hr::sampling {

// a * b + c, rounded once where that is one instruction.
HR_INLINE double fused(double a, double b, double c) {
#ifdef __FP_FAST_FMA
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// e^x for x <= 0: exactly 1 at 0, exactly 0 below -708, elsewhere within about an ulp. Cody-Waite
// reduction by ln 2 in two parts (fdlibm's), Taylor's series to r^13 on |r| < 0.35. No branches, so
// that a loop over it becomes vector code.
HR_INLINE double exponential(double x) {
  const double magic = 0x1.8p52;  // adding it rounds to whole numbers, in the lowest bits
  double shifted = fused(x, 1.44269504088896338700, magic);
  double n = shifted - magic;
  double r = fused(n, -6.93147180369123816490e-01, x);
  r = fused(n, -1.90821492927058770002e-10, r);
  double p = 1.0 / 6227020800;
  p = fused(p, r, 1.0 / 479001600);
  p = fused(p, r, 1.0 / 39916800);
  p = fused(p, r, 1.0 / 3628800);
  p = fused(p, r, 1.0 / 362880);
  p = fused(p, r, 1.0 / 40320);
  p = fused(p, r, 1.0 / 5040);
  p = fused(p, r, 1.0 / 720);
  p = fused(p, r, 1.0 / 120);
  p = fused(p, r, 1.0 / 24);
  p = fused(p, r, 1.0 / 6);
  p = fused(p, r, 0.5);
  p = fused(p, r, 1.0);
  p = fused(p, r, 1.0);
  uint64_t power = std::bit_cast<uint64_t>(shifted) << 52;  // n in the place of an exponent
  double result = std::bit_cast<double>(std::bit_cast<uint64_t>(p) + power);
  return x < -708.0 ? 0.0 : result;
}

struct Weigher {
  double max, temperature;
  double least = 0.0;  // below it a weight counts as 0: min_p where no order is needed
};

// Weights of 64 scores. One copy of the code, so that an entry's weight is the same bits wherever it
// is asked for.
__attribute__((noinline)) inline void weigh(const Weigher& by, const float* x, double* w) {
  const double max = by.max, temperature = by.temperature, least = by.least;
  for (int i = 0; i < kTile; i++) {
    double weight = exponential(((double)x[i] - max) / temperature);
    w[i] = weight < least ? 0.0 : weight;
  }
}

inline double total(const double* w) {
  double lanes[8] = {};
  for (int i = 0; i < kTile; i += 8)
    for (int lane = 0; lane < 8; lane++) lanes[lane] += w[i + lane];
  double sum = 0.0;
  for (double lane : lanes) sum += lane;
  return sum;
}

// Weights of any number of scores that lie one after the other.
inline void weigh_all(const Weigher& by, const std::vector<float>& x, std::vector<double>& w) {
  float last[kTile];
  w.resize((x.size() + kTile - 1) / kTile * kTile);
  for (size_t i = 0; i < x.size(); i += kTile) {
    Row rest{x.data() + i, (int)std::min<size_t>(kTile, x.size() - i)};
    weigh(by, rest.tile(0, -kInfinity, last), w.data() + i);
  }
  w.resize(x.size());
}

// Weights of all entries of each segment, summed.
inline void weigh_segments(Pool* pool, const Row& row, const Weigher& by, double* masses) {
  each(pool, kSegments, [&](int s) {
    float buffer[kTile];
    double w[kTile], mass = 0.0;
    for (int t = row.first_tile(s); t < row.first_tile(s + 1); t++) {
      weigh(by, row.tile(t, -kInfinity, buffer), w);
      mass += total(w);
    }
    masses[s] = mass;
  });
}

inline double sum_of(const std::vector<double>& w) {
  double sum = 0.0;
  for (double weight : w) sum += weight;
  return sum;
}

}  // namespace hr::sampling
