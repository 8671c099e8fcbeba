// Work memory of hr_encode: grown to the largest batch seen, then reused.
#pragma once
#include <atomic>
#include <vector>

#include "headrace.h"
#include "linear.h"
#include "memory.h"

namespace hr {

struct EncoderScratch {
  std::vector<float> stream;    // [T, width]
  std::vector<float> qkv;       // [T, 3 * width]
  std::vector<float> attended;  // [T, width]
  std::vector<float> inner;     // [T, inner]
  Activations qkv_form, out_form, up_form, down_form;
  std::vector<std::atomic<int>> counters;  // one a stage

  void prepare(const hr_encoder& model, int rows, int longest, int threads);

  // A thread's own: a row as wide as the widest, and what attention over one head of one document
  // needs: keys turned, a few rows of queries and of probabilities.
  float* row(int thread) { return own(thread); }
  float* keys(int thread) { return own(thread) + row_floats_; }
  float* queries(int thread) { return keys(thread) + key_floats_; }
  float* weights(int thread) { return queries(thread) + query_floats_; }

 private:
  float* own(int thread) { return (float*)memory_.data() + (int64_t)thread * thread_floats_; }

  Memory memory_;
  int64_t row_floats_ = 0, key_floats_ = 0, query_floats_ = 0, thread_floats_ = 0;
};

}  // namespace hr
