// Paged keys and values, and attention over them: what decoder.cpp calls inside one pool.run.
//
//     scratch.attention.prepare(kv, spans, heads, pool.threads());       // once a step, one thread
//     ...
//     for my rows, for each KV head:                                     // each layer, all threads
//       write_kv_row(layer.kv, plan.slot[row], head, k, v);
//     pool.barrier();
//     attend(call, counter, *scratch.attention.workspaces[thread]);      // all threads; counter at 0
//     pool.barrier();
//
// Invariant (batch invariance): a row's output is a function of its own position and of the keys and
// values it may see. Its context is cut into chunks of kChunk tokens counted from position 0; scores
// add over head_dim in order, probabilities over the tokens of a chunk in order, chunks in order;
// how many rows share a register block, a tile or a step changes nothing of that.
//
// Invariant (isolation): what a row may not see contributes exactly nothing to it, were it NaN. So
// values in a cache are finite always: a row whose value is not finite is stored as zeros, with a
// key of NaN, and whoever may see it becomes NaN. Tokens never written may hold any bits.
//
// Layouts, a page = block_tokens tokens of one KV head, in sub-blocks of 16 tokens:
//   bf16  K [head_dim / 2][16 tokens][2]    V [8 pairs of tokens][head_dim][2]
//   int8  page = the tokens' scales, 16 bits each, padded to 64 bytes, then sub-blocks of bytes
//         q + 128: K [head_dim / 4][16 tokens][4]    V [4 fours of tokens][head_dim][4]
//         A scale of K is a bf16; one of V is 2^(an int16 / 64).
// so that both products are dot products against a broadcast, and no lane is ever summed across.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "headrace.h"
#include "simd.h"

namespace hr {

// One unit of work: for `kv_heads` KV heads of one span from `kv_head` on, `count` of the rows x heads
// that read each of them, counted from `first`; number n is query row n / group, head n % group.
struct AttendItem {
  int32_t span, kv_head, kv_heads, first, count;
};

// A step's work, the same for all layers (they share block_tokens, kv_heads and heads).
struct AttendPlan {
  std::vector<int64_t> slot;      // [rows] block * block_tokens + offset in the block
  std::vector<AttendItem> items;  // in the order to take them: what takes long comes first
};

struct AttendWorkspace;  // one thread's queries, scores and sums; some 200 KiB
struct FreeWorkspace {
  void operator()(AttendWorkspace*) const;
};

struct AttendScratch {
  AttendPlan plan;
  std::vector<std::unique_ptr<AttendWorkspace, FreeWorkspace>> workspaces;  // one a thread

  // Plans the step and makes the workspaces that are missing. HR_OK, HR_ESHAPE or HR_EFORMAT.
  int prepare(const hr_kv&, const hr_spans&, int heads, int threads);
};

struct AttendCall {
  const hr_kv& kv;  // the layer's
  const hr_spans& spans;
  const AttendPlan& plan;
  int heads;
  float scale;
  int window;  // a row sees itself and window - 1 before; 0 = all before
  const float* q;  // [rows, ldq], heads * head_dim used
  int64_t ldq;
  float* out;  // [rows, ldo]
  int64_t ldo;
};

// Takes items until none is left. The step's keys and values are in the cache already.
void attend(const AttendCall&, std::atomic<int>& next, AttendWorkspace&);

// Stores one row's key and value of one KV head, [head_dim] each.
void write_kv_row(const hr_kv&, int64_t slot, int kv_head, const float* k, const float* v);

}  // namespace hr
