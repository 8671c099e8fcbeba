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
#include "attention_tile.h"
#include "kv.h"
#include "pool.h"
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
  uint8_t last_v[kSub * kMaxHeadDim * 2];  // a sub-block of V whose unwritten tokens are zeros
};

void FreeWorkspace::operator()(AttendWorkspace* workspace) const { delete workspace; }

namespace {

// --- the plan --------------------------------------------------------------------------------------

int check_spans(const hr_kv& kv, const hr_spans& spans) {
  int row = 0;
  for (int s = 0; s < spans.spans; s++) {
    int rows = spans.row_start[s + 1] - spans.row_start[s], context = spans.context[s];
    if (spans.row_start[s] != row || rows < 1 || context < rows) return HR_ESHAPE;
    row += rows;
    int blocks = (context - 1) / kv.block_tokens + 1;
    if (blocks > spans.max_blocks) return HR_ESHAPE;
    const int32_t* table = spans.blocks + (int64_t)s * spans.max_blocks;
    for (int b = 0; b < blocks; b++) {
      if (table[b] < 0 || table[b] >= kv.blocks) return HR_ESHAPE;
    }
  }
  return row == spans.rows ? HR_OK : HR_ESHAPE;
}

void plan_slots(const hr_kv& kv, const hr_spans& spans, std::vector<int64_t>& slot) {
  slot.resize(spans.rows);
  for (int s = 0; s < spans.spans; s++) {
    const int32_t* table = spans.blocks + (int64_t)s * spans.max_blocks;
    int end = spans.row_start[s + 1], past = spans.context[s] - end;
    for (int row = spans.row_start[s]; row < end; row++) {
      int position = past + row;
      slot[row] = (int64_t)table[position / kv.block_tokens] * kv.block_tokens +
                  position % kv.block_tokens;
    }
  }
}

// Tokens that an item reads; with its rows, what it costs.
int64_t reach(const AttendItem& item, const hr_spans& spans, int group) {
  int end = spans.row_start[item.span + 1] - spans.row_start[item.span];
  return spans.context[item.span] - end + (item.first + item.count - 1) / group + 1;
}

void plan_items(const hr_kv& kv, const hr_spans& spans, int heads, std::vector<AttendItem>& items) {
  int group = heads / kv.kv_heads;
  std::vector<std::pair<int64_t, AttendItem>> costs;
  for (int s = 0; s < spans.spans; s++) {
    int count = (spans.row_start[s + 1] - spans.row_start[s]) * group;
    int tiles = (count + kItemRows - 1) / kItemRows;
    for (int tile = tiles - 1; tile >= 0; tile--) {
      for (int head = 0; head < kv.kv_heads; head++) {
        int first = tile * kItemRows;
        AttendItem item = {s, head, first, std::min(kItemRows, count - first)};
        costs.emplace_back(reach(item, spans, group) * (item.count + kBlockRows), item);
      }
    }
  }
  std::stable_sort(costs.begin(), costs.end(), [](auto& a, auto& b) { return a.first > b.first; });
  items.clear();
  for (auto& cost : costs) items.push_back(cost.second);
}

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
  int start() const { return lowest(0) / kChunk * kChunk; }      // of the first chunk read
  int end() const { return position(item.count - 1) + 1; }  // of what is read
  // Where row n's head begins in a row of queries or outputs.
  int64_t at(int n, int64_t ld) const {
    int64_t row = call.spans.row_start[item.span] + (item.first + n) / group;
    return row * ld + (int64_t)(item.kv_head * group + (item.first + n) % group) * call.kv.head_dim;
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

// Where a sub-block of the tile's context begins: offset of its page, its token there.
struct Place {
  int64_t page, sub;
  int token;
};

Place place(const Tile& tile, int position) {
  const hr_kv& kv = tile.call.kv;
  const int32_t* table = tile.call.spans.blocks + (int64_t)tile.item.span * tile.call.spans.max_blocks;
  int token = position % kv.block_tokens;
  int64_t page = page_offset(kv, table[position / kv.block_tokens], tile.item.kv_head);
  return {page, page + scale_bytes(kv) + token / kSub * sub_bytes(kv), token};
}

// Sub-blocks of the chunk from `start` on, up to `end`.
void find_chunk(const Tile& tile, int start, int end, Chunk& chunk) {
  const hr_kv& kv = tile.call.kv;
  const uint8_t *k = (const uint8_t*)kv.k, *v = (const uint8_t*)kv.v;
  chunk.head_dim = kv.head_dim;
  for (int sub = 0; sub < kChunkSubs && start + sub * kSub < end; sub++) {
    Place at = place(tile, start + sub * kSub);
    chunk.k_scale[sub] = (const bf16*)(k + at.page) + at.token;
    chunk.v_exponent[sub] = (const int16_t*)(v + at.page) + at.token;
    chunk.k[sub] = k + at.sub;
    chunk.v[sub] = v + at.sub;
  }
}

// What to fetch while the chunk is worked on: the tile's chunk from `start` on, up to `end`.
void find_next(const Tile& tile, int start, int end, Chunk& chunk) {
  const hr_kv& kv = tile.call.kv;
  for (int sub = 0; sub < kChunkSubs; sub++) {
    int position = start + sub * kSub;
    if (position < end || sub == 0) {
      Place at = place(tile, std::min(position, end - 1));
      chunk.next_k[sub] = (const uint8_t*)kv.k + at.sub;
      chunk.next_v[sub] = (const uint8_t*)kv.v + at.sub;
    } else {
      chunk.next_k[sub] = chunk.next_k[sub - 1];
      chunk.next_v[sub] = chunk.next_v[sub - 1];
    }
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
bool find_seen(const Tile& tile, int first, int start, RowBlock& block) {
  int from = kChunk, to = 0, all_from = 0, all_to = kChunk;
  for (int r = 0; r < R; r++) {
    block.seen_from[r] = std::max(0, tile.lowest(first + r) - start);
    block.seen_to[r] = std::min(kChunk, tile.position(first + r) + 1 - start);
    all_from = std::max(all_from, block.seen_from[r]);
    all_to = std::min(all_to, block.seen_to[r]);
    if (block.seen_from[r] >= block.seen_to[r]) continue;
    from = std::min(from, block.seen_from[r]);
    to = std::max(to, block.seen_to[r]);
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
void score(const RowBlock& block, const Chunk& chunk, int sub, Weights& weights) {
  for (; sub + J <= block.to_sub; sub += J) Kernels::template score<R, J>(block, chunk, sub, weights);
  if constexpr (J > 1) score<Kernels, R, J / 2>(block, chunk, sub, weights);
}

template <class Kernels, int R, int N>
void add_values(const RowBlock& block, const Chunk& chunk, int d, const Weights& weights) {
  for (; d + 16 * N <= chunk.head_dim; d += 16 * N) {
    Kernels::template add_values<R, N>(block, chunk, d, weights);
  }
  if constexpr (N > 1) add_values<Kernels, R, N / 2>(block, chunk, d, weights);
}

template <class Kernels, int R>
void attend_block(const Tile& tile, int first, int start, const Chunk& chunk) {
  RowBlock block = row_block(tile.work, first, chunk.head_dim);
  if (!find_seen<R>(tile, first, start, block)) return;
  Weights& weights = tile.work.weights;
  score<Kernels, R, columns(R, kChunkSubs)>(block, chunk, block.from_sub, weights);
  Kernels::template weigh<R>(block, weights);
  add_values<Kernels, R, columns(R, 8)>(block, chunk, 0, weights);
}

typedef void (*AttendBlock)(const Tile&, int first, int start, const Chunk&);

template <class Kernels, int... R>
AttendBlock attend_block_of(int rows, std::integer_sequence<int, R...>) {
  static constexpr AttendBlock table[] = {attend_block<Kernels, R + 1>...};
  return table[rows - 1];
}

template <class Kernels>
void begin(const Tile& tile) {
  const AttendCall& call = tile.call;
  const float log2e = 1.44269504f;
  for (int n = 0; n < tile.item.count; n++) {
    int first = n / kBlockRows * kBlockRows, rows = std::min(kBlockRows, tile.item.count - first);
    RowBlock block = row_block(tile.work, first, call.kv.head_dim);
    Kernels::pack_query(call.q + tile.at(n, call.ldq), call.scale * log2e, n - first, rows,
                        call.kv.head_dim, block);
    tile.work.total[n] = zero();
  }
  std::fill_n(tile.work.out, tile.item.count * call.kv.head_dim, 0.0f);
  std::fill_n(tile.work.top, kItemRows + 16, kLowest);
}

void finish(const Tile& tile) {
  const AttendCall& call = tile.call;
  for (int n = 0; n < tile.item.count; n++) {
    F by = set1(1.0f / sum(tile.work.total[n]));
    const float* from = tile.work.out + (int64_t)n * call.kv.head_dim;
    float* to = call.out + tile.at(n, call.ldo);
    for (int d = 0; d < call.kv.head_dim; d += 16) {
      // + 0: products of masked tokens turned a -0 to 0 in some tiles and not in others.
      store(to + d, add(mul(load(from + d), by), zero()));
    }
  }
}

template <class Kernels>
void attend_tile(const Tile& tile, const std::atomic<int>& next) {
  begin<Kernels>(tile);
  const int end = tile.end();
  for (int start = tile.start(); start < end; start += kChunk) {
    Chunk chunk;
    find_chunk(tile, start, end, chunk);
    if (start + kChunk < end) {
      find_next(tile, start + kChunk, end, chunk);
    } else {  // the tile that is next on the list is ours, unless another thread is faster
      size_t i = (size_t)next.load(std::memory_order_relaxed);
      const auto& items = tile.call.plan.items;
      Tile after(tile.call, i < items.size() ? items[i] : tile.item, tile.work);
      find_next(after, after.start(), after.end(), chunk);
    }
    patch_last(tile, start, end, chunk);
    int subs = std::min(kChunkSubs, (end - start + kSub - 1) / kSub);
    Kernels::begin_chunk(chunk, subs, tile.work.weights);
    for (int first = 0; first < tile.item.count; first += kBlockRows) {
      int rows = std::min(kBlockRows, tile.item.count - first);
      attend_block_of<Kernels>(rows, std::make_integer_sequence<int, kBlockRows>())(tile, first, start,
                                                                                    chunk);
    }
  }
  finish(tile);
}

}  // namespace

int AttendScratch::prepare(const hr_kv& kv, const hr_spans& spans, int heads, int threads) {
  if (int wrong = check(kv)) return wrong;
  if (heads < 1 || heads % kv.kv_heads) return HR_ESHAPE;
  if (int wrong = check_spans(kv, spans)) return wrong;
  plan_slots(kv, spans, plan.slot);
  plan_items(kv, spans, heads, plan.items);
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

int hr_kv_write(hr_pool* pool, const hr_kv* kv, const hr_spans* spans, const float* k, int64_t ldk,
                const float* v, int64_t ldv) {
  if (int wrong = hr::paged::check(*kv)) return wrong;
  if (int wrong = hr::check_spans(*kv, *spans)) return wrong;
  std::vector<int64_t> slot;
  hr::plan_slots(*kv, *spans, slot);
  std::atomic<int> next{0};
  pool->threads.run([&](int) {
    for (int row; (row = next.fetch_add(1, std::memory_order_relaxed)) < spans->rows;) {
      for (int head = 0; head < kv->kv_heads; head++) {
        int64_t at = (int64_t)head * kv->head_dim;
        hr::write_kv_row(*kv, slot[row], head, k + row * ldk + at, v + row * ldv + at);
      }
    }
  });
  return HR_OK;
}

int hr_attend(hr_pool* pool, hr_scratch* scratch, const hr_kv* kv, const hr_spans* spans, int heads,
              float scale, int window, const float* q, int64_t ldq, float* out, int64_t ldo) {
  hr::AttendScratch& mine = scratch->attention;
  if (int wrong = mine.prepare(*kv, *spans, heads, pool->threads.threads())) return wrong;
  hr::AttendCall call = {*kv, *spans, mine.plan, heads, scale, window, q, ldq, out, ldo};
  std::atomic<int> next{0};
  pool->threads.run([&](int thread) { hr::attend(call, next, *mine.workspaces[thread]); });
  return HR_OK;
}
