// Attention over paged keys and values: one routine for decode, prefill, chunks of it and drafts.
//
// A step's queries become tiles: up to kItemRows of the rows x heads that read one KV head of one
// sequence. A tile walks its context once, a chunk at a time, and takes its rows through each chunk
// in register blocks: scores, probabilities relative to the running maximum, weighted values (the
// online softmax of Milakov and Gimelshein 2018, tiled as in Dao et al. 2022). What no row of a
// block may see is skipped by sub-blocks of 16 tokens; only at the edges lanes are masked.
//
// The order of additions that makes a row's result its own is stated in attention.h.
#include "attention.h"

#include <algorithm>
#include <new>
#include <utility>

#include "attention_bf16.h"
#include "attention_int8.h"
#include "attention_plan.h"
#include "attention_tile.h"
#include "kv.h"
#include "scratch.h"

namespace hr {

using namespace paged;

struct alignas(64) AttendWorkspace {
  Weights weights;
  F total[kItemRows];
  uint32_t q[kItemRows * kMaxHeadDim / 2];
  float out[kItemRows * kMaxHeadDim];
  float top[kItemRows + 16], query_scale[kItemRows];
  int32_t query_sum[kItemRows];
  int32_t lowest[kItemRows], end[kItemRows];  // positions that a row sees
  uint8_t last_v[kSub * kMaxHeadDim * 2];  // a sub-block of V whose unwritten tokens are zeros
};

void FreeWorkspace::operator()(AttendWorkspace* workspace) const { delete workspace; }

namespace {

// --- one tile ----------------------------------------------------------------------------------------

struct Tile {
  const AttendCall& call;
  AttendItem item;
  AttendWorkspace& work;
  int group, context;
  int past;  // position of the span's first row

  Tile(const AttendCall& c, const AttendItem& i, AttendWorkspace& w) : call(c), item(i), work(w) {
    int start = c.spans.row_start[i.span], end = c.spans.row_start[i.span + 1];
    group = c.heads / c.kv.kv_heads;
    context = c.spans.context[i.span];
    past = context - (end - start);
  }
  int position(int n) const { return past + (item.first + n) / group; }
  int lowest(int n) const {
    return call.window > 0 ? std::max(0, position(n) - call.window + 1) : 0;
  }
  int start() const { return lowest(0) / kChunk * kChunk; }  // of the first chunk read
  int end() const { return position(item.count - 1) + 1; }   // of what is read
  // Where the head of row n of KV head `head` begins in a row of queries or outputs.
  int64_t at(int head, int n, int64_t ld) const {
    int64_t row = call.spans.row_start[item.span] + (item.first + n) / group;
    return row * ld + (int64_t)(head * group + (item.first + n) % group) * call.kv.head_dim;
  }
};

RowBlock row_block(AttendWorkspace& work, int first, int head_dim) {
  RowBlock block;
  block.q = work.q + (int64_t)first * head_dim / 2;
  block.out = work.out + (int64_t)first * head_dim;
  block.total = work.total + first;
  block.top = work.top + first;
  block.query_scale = work.query_scale + first;
  block.query_sum = work.query_sum + first;
  return block;
}

// One KV head's chunk from `start` on, of what is read up to `end`. Beyond it the last sub-block is
// repeated: it may be fetched, and is never used.
void find_chunk(const Tile& tile, int head, int start, int end, Chunk& chunk) {
  const hr_kv& kv = tile.call.kv;
  const int32_t* table = tile.call.spans.blocks + (int64_t)tile.item.span * tile.call.spans.max_blocks;
  const int64_t size = sub_bytes(kv), scales = scale_bytes(kv);
  int block = start / kv.block_tokens, token = start % kv.block_tokens;
  chunk.head_dim = kv.head_dim;
  chunk.subs = std::min(kChunkSubs, (end - start + kSub - 1) / kSub);
  for (int sub = 0; sub < chunk.subs; sub++) {
    int64_t page = page_offset(kv, table[block], head);
    const uint8_t *k = (const uint8_t*)kv.k + page, *v = (const uint8_t*)kv.v + page;
    chunk.k_scale[sub] = (const bf16*)k + token;
    chunk.v_exponent[sub] = (const int16_t*)v + token;
    chunk.k[sub] = k + scales + token / kSub * size;
    chunk.v[sub] = v + scales + token / kSub * size;
    token += kSub;
    if (token == kv.block_tokens) block++, token = 0;
  }
  for (int sub = chunk.subs; sub < kChunkSubs; sub++) {
    chunk.k[sub] = chunk.k[sub - 1];
    chunk.v[sub] = chunk.v[sub - 1];
  }
}

// A probability of zero times a value never written may be NaN: reads the context's last sub-block
// of V from a copy where those are zeros. (Bytes of int8 are always finite.)
void patch_last(const Tile& tile, int start, int end, Chunk& chunk) {
  int written = tile.context % kSub, sub = (tile.context - start) / kSub;
  bool read = start + sub * kSub < std::min(end, start + kChunk);
  if (tile.call.kv.format != HR_BF16 || written == 0 || !read) return;
  bf16* copy = (bf16*)tile.work.last_v;
  int width = chunk.head_dim * 2;
  memcpy(copy, chunk.v[sub], (int64_t)(written + 1) / 2 * width * 2);
  memset(copy + (int64_t)(written + 1) / 2 * width, 0, (int64_t)(kSub - written) / 2 * width * 2);
  if (written % 2) {
    bf16* half = copy + (int64_t)written / 2 * width;
    for (int d = 1; d < width; d += 2) half[d] = 0;
  }
  chunk.v[sub] = tile.work.last_v;
}

// What the block's rows see of the chunk. False: nothing.
template <int R>
bool find_seen(const AttendWorkspace& work, int first, int start, RowBlock& block) {
  int from = kChunk, to = 0, all_from = 0, all_to = kChunk;
  for (int r = 0; r < R; r++) {
    int row_from = std::max(0, work.lowest[first + r] - start);
    int row_to = std::min(kChunk, work.end[first + r] - start);
    block.seen_from[r] = row_from;
    block.seen_to[r] = row_to;
    all_from = std::max(all_from, row_from);
    all_to = std::min(all_to, row_to);
    from = std::min(from, row_from < row_to ? row_from : kChunk);
    to = std::max(to, row_from < row_to ? row_to : 0);
  }
  block.from_sub = from / kSub;
  block.to_sub = (to + kSub - 1) / kSub;
  block.whole = all_from <= block.from_sub * kSub && all_to >= block.to_sub * kSub;
  return from < to;
}

// The widest power of two of columns beside R rows.
constexpr int columns(int rows, int most) {
  int n = 1;
  while (n * 2 <= most && rows * n * 2 <= kSums) n *= 2;
  return n;
}

template <class Kernels, int R, int J>
void score(const RowBlock& block, const Chunk& chunk, const Chunk& ahead, int sub, Weights& weights) {
  for (; sub + J <= block.to_sub; sub += J) {
    Kernels::template score<R, J>(block, chunk, ahead, sub, weights);
  }
  if constexpr (J > 1) score<Kernels, R, J / 2>(block, chunk, ahead, sub, weights);
}

template <class Kernels, int R, int N>
void add_values(const RowBlock& block, const Chunk& chunk, const Chunk& ahead, int d,
                const Weights& weights) {
  for (; d + 16 * N <= chunk.head_dim; d += 16 * N) {
    Kernels::template add_values<R, N>(block, chunk, ahead, d, weights);
  }
  if constexpr (N > 1) add_values<Kernels, R, N / 2>(block, chunk, ahead, d, weights);
}

// `ahead` is what will be read next; it is fetched meanwhile.
template <class Kernels, int R>
void attend_block(AttendWorkspace& work, int first, int start, const Chunk& chunk,
                  const Chunk& ahead) {
  RowBlock block = row_block(work, first, chunk.head_dim);
  if (!find_seen<R>(work, first, start, block)) return;
  for (int r = 0; r < R; r++) work.weights.most[r] = set1(kLowest);
  score<Kernels, R, columns(R, kChunkSubs)>(block, chunk, ahead, block.from_sub, work.weights);
  Kernels::template weigh<R>(block, work.weights);
  add_values<Kernels, R, columns(R, 8)>(block, chunk, ahead, 0, work.weights);
}

typedef void (*AttendBlock)(AttendWorkspace&, int first, int start, const Chunk&, const Chunk& ahead);

template <class Kernels, int... R>
AttendBlock attend_block_of(int rows, std::integer_sequence<int, R...>) {
  static constexpr AttendBlock table[] = {attend_block<Kernels, R + 1>...};
  return table[rows - 1];
}

// The tile's rows for its KV head number `number` are rows `number * count` on in the workspace.
template <class Kernels>
void begin(const Tile& tile, int number) {
  const AttendCall& call = tile.call;
  AttendWorkspace& work = tile.work;
  const float log2e = 1.44269504f;
  const int count = tile.item.count, base = number * count;
  for (int n = 0; n < count; n++) {
    int first = n / kBlockRows * kBlockRows, rows = std::min(kBlockRows, count - first);
    RowBlock block = row_block(work, base + first, call.kv.head_dim);
    const float* q = call.q + tile.at(tile.item.kv_head + number, n, call.ldq);
    Kernels::pack_query(q, call.scale * log2e, n - first, rows, call.kv.head_dim, block);
    work.total[base + n] = zero();
    work.lowest[base + n] = tile.lowest(n);
    work.end[base + n] = tile.position(n) + 1;
  }
  std::fill_n(work.out + (int64_t)base * call.kv.head_dim, count * call.kv.head_dim, 0.0f);
}

void finish(const Tile& tile, int number) {
  const AttendCall& call = tile.call;
  const int head_dim = call.kv.head_dim, base = number * tile.item.count;
  for (int n = 0; n < tile.item.count; n++) {
    F by = set1(1.0f / sum(tile.work.total[base + n]));
    const float* from = tile.work.out + (int64_t)(base + n) * head_dim;
    float* to = call.out + tile.at(tile.item.kv_head + number, n, call.ldo);
    for (int d = 0; d < head_dim; d += 16) {
      // + 0: products of masked tokens turned a -0 to 0 in some tiles and not in others.
      store(to + d, add(mul(load(from + d), by), zero()));
    }
  }
}

// What comes after the chunk at `start` of the tile's KV head number `number`: the next head's, the
// next chunk, or the tile that is next on the list, which is ours unless another thread is faster.
void find_ahead(const Tile& tile, int number, int start, const std::atomic<int>& next, Chunk& ahead) {
  const int head = tile.item.kv_head, end = tile.end();
  if (number + 1 < tile.item.kv_heads) return find_chunk(tile, head + number + 1, start, end, ahead);
  if (start + kChunk < end) return find_chunk(tile, head, start + kChunk, end, ahead);
  size_t i = (size_t)next.load(std::memory_order_relaxed);
  const auto& items = tile.call.plan.items;
  Tile after(tile.call, i < items.size() ? items[i] : tile.item, tile.work);
  find_chunk(after, after.item.kv_head, after.start(), after.end(), ahead);
}

template <class Kernels>
void attend_chunk(const Tile& tile, int number, int start, const Chunk& chunk, const Chunk& ahead) {
  const int count = tile.item.count, base = number * count;
  Kernels::begin_chunk(chunk, ahead, tile.work.weights);
  for (int first = 0; first < count; first += kBlockRows) {
    int rows = std::min(kBlockRows, count - first);
    auto attend_rows = attend_block_of<Kernels>(rows, std::make_integer_sequence<int, kBlockRows>());
    attend_rows(tile.work, base + first, start, chunk, ahead);
  }
}

template <class Kernels>
void attend_tile(const Tile& tile, const std::atomic<int>& next) {
  std::fill_n(tile.work.top, kItemRows + 16, kLowest);
  for (int number = 0; number < tile.item.kv_heads; number++) begin<Kernels>(tile, number);
  const int end = tile.end();
  Chunk chunk, ahead;
  find_chunk(tile, tile.item.kv_head, tile.start(), end, ahead);
  for (int start = tile.start(); start < end; start += kChunk) {
    for (int number = 0; number < tile.item.kv_heads; number++) {
      chunk = ahead;
      find_ahead(tile, number, start, next, ahead);
      patch_last(tile, start, end, chunk);
      attend_chunk<Kernels>(tile, number, start, chunk, ahead);
    }
  }
  for (int number = 0; number < tile.item.kv_heads; number++) finish(tile, number);
}

}  // namespace

int AttendScratch::prepare(const hr_kv& kv, const hr_spans& spans, int heads, int threads) {
  if (int wrong = check(kv)) return wrong;
  if (heads < 1 || heads % kv.kv_heads) return HR_ESHAPE;
  if (int wrong = check_spans(kv, spans)) return wrong;
  plan_slots(kv, spans, plan.slot);
  plan_items(kv, spans, heads, threads, plan.items);
  while ((int)workspaces.size() < threads) workspaces.emplace_back(new AttendWorkspace);
  return HR_OK;
}

void attend(const AttendCall& call, std::atomic<int>& next, AttendWorkspace& work) {
  const std::vector<AttendItem>& items = call.plan.items;
  for (;;) {
    size_t i = (size_t)next.fetch_add(1, std::memory_order_relaxed);
    if (i >= items.size()) return;
    Tile tile(call, items[i], work);
    if (call.kv.format == HR_BF16) {
      attend_tile<Bf16Kernels>(tile, next);
    } else {
      attend_tile<Int8Kernels>(tile, next);
    }
  }
}

}  // namespace hr

int hr_attend(hr_pool* pool, hr_scratch* scratch, const hr_kv* kv, const hr_spans* spans, int heads,
              float scale, int window, const float* q, int64_t ldq, float* out, int64_t ldo) {
  hr::AttendScratch& mine = scratch->attention;
  if (int wrong = mine.prepare(*kv, *spans, heads, pool->threads.threads())) return wrong;
  hr::AttendCall call = {*kv, *spans, mine.plan, heads, scale, window, q, ldq, out, ldo};
  std::atomic<int> next{0};
  pool->threads.run([&](int thread) { hr::attend(call, next, *mine.workspaces[thread]); });
  return HR_OK;
}
