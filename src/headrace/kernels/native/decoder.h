// Work memory of hr_hidden: grown to the largest step seen, then reused.
#pragma once
#include <atomic>
#include <vector>

#include "headrace.h"
#include "linear.h"

namespace hr {

// What each linear of a layer reads, packed as its matrix wants it.
struct Form {
  Activations qkv, out, gate_up, down;
};

struct DecoderScratch {
  std::vector<float> stream;    // [T, width], the residual stream
  std::vector<float> qkv;       // [T, (heads + 2 kv_heads) * head_dim]
  std::vector<float> attended;  // [T, heads * head_dim]
  std::vector<float> gate_up;   // [T, 2 * inner]
  Form form;
  std::vector<std::atomic<int>> counters;  // one a stage

  void prepare(const hr_decoder& model, int rows, int threads);
  float* row(int thread) { return rows_.data() + (int64_t)thread * row_floats_; }

 private:
  std::vector<float> rows_;  // one row a thread, as wide as the widest
  int64_t row_floats_ = 0;
};

}  // namespace hr
