// The C ABI of sampling: what kernels/sampling.py calls through ctypes. See headrace.h for the house
// rules; a null pool means the calling thread alone.
//
// Invariant: a row's token is a function of its own logits and hr_sample_row, bit for bit, whatever
// else is in the call and however many threads run.
#pragma once
#include "headrace.h"

enum { HR_NOT_FINITE = -1, HR_NOTHING_LEFT = -2 };  // in place of a token

typedef struct {
  const int64_t* edit_ids;  // [edits], distinct: entries whose score is not their logit
  const float* edit_scores;  // [edits]; minus infinity forbids a token
  int64_t edits;
  double temperature;   // 0 = argmax, and nothing below counts
  double top_p, min_p;  // 1 and 0 = off
  uint64_t seed, choice, position;  // name the draw
  int64_t top_k;                    // 0 = off
} hr_sample_row;

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

// tokens[r]: drawn from row r of logits [rows, vocab], whose rows are ld floats apart. A row's edits
// are written into it and taken back before this returns.
int hr_sample(hr_pool*, int rows, int vocab, float* logits, int64_t ld, const hr_sample_row* row,
              int32_t* tokens);

// Log-softmax of each row at targets[r], and of its tops[r] <= width best entries, best first, equal
// ones by lowest id. NaN in own[r] where the row is not finite; its best are then not written.
int hr_sample_logprobs(hr_pool*, int rows, int vocab, const float* logits, int64_t ld,
                       const int32_t* targets, const int32_t* tops, int width, double* own,
                       int32_t* best_ids, double* best);  // best: [rows, width]

double hr_sample_uniform(uint64_t seed, uint64_t choice, uint64_t position);  // in [0, 1)

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
