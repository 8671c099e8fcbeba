// What the kernels of linear.cpp and linear_amx.cpp have in common: where results go, and the fetching
// of weights ahead.
#pragma once
#include "linear.h"
#include "simd.h"
#include "tiles.h"

namespace hr {

// What to fetch while a tile is multiplied.
struct Fetch {
  const uint8_t* at;
  int lines;  // each group, or 16 lines of others; 0 = what lies behind the weights just read
};

HR_INLINE void fetch_some(Fetch& fetch) {
  for (int i = 0; i < fetch.lines; i++) prefetch_far(fetch.at + 64 * i);
  fetch.at += 64 * fetch.lines;
}

// Where a tile's outputs of one block of rows go.
struct Result {
  float* out;  // of the block's first row, the tile's first output
  int64_t ldo;
  const float* bias;
  int outputs;  // 16, fewer in the last tile
  bool accumulate;
};

template <int B>
HR_INLINE void finish(const F (&sums)[B], const Result& to) {
  F bias = to.bias ? load_some(to.bias, to.outputs) : zero();
  HR_UNROLL for (int m = 0; m < B; m++) {
    float* out = to.out + m * to.ldo;
    F value = to.bias ? add(sums[m], bias) : sums[m];
    if (to.outputs == kOutputs) {
      store(out, to.accumulate ? add(load(out), value) : value);
    } else {
      F before = to.accumulate ? load_some(out, to.outputs) : zero();
      store_some(out, to.accumulate ? add(before, value) : value, to.outputs);
    }
  }
}

}  // namespace hr
