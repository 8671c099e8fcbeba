// The C ABI of headrace's native kernels: what kernels/native.py calls through ctypes.
//
// Plain C types and structs, no torch, no Python. Every pointer is the caller's; nothing is kept
// after a call but what a Pool or a Scratch holds. Functions return 0, or an HR_E* code.
//
// Invariant (batch invariance): what is computed for one row is a function of that row, its
// sequence and the weights alone, bit for bit, whatever else is in the batch, however the prompt is
// cut into steps, wherever its blocks lie and however many threads run. So every sum over K, over
// head_dim and over positions is taken in one fixed order per row.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define HR_ABI 3

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

enum { HR_OK = 0, HR_ESHAPE = 1, HR_EFORMAT = 2, HR_EGROUP = 3 };
enum { HR_BF16 = 0, HR_INT8 = 1, HR_INT4 = 2, HR_F32 = 3 };  // of matrices; HR_BF16 and HR_INT8 of KV

typedef struct hr_pool hr_pool;
typedef struct hr_scratch hr_scratch;

int hr_abi(void);
const char* hr_isa(void);
int hr_permitted(void);  // asks the operating system where it must: 0 = this build may not run here
hr_pool* hr_pool_new(int threads);
void hr_pool_free(hr_pool* pool);
hr_scratch* hr_scratch_new(void);  // work memory that grows and is reused; one a thread of callers
void hr_scratch_free(hr_scratch* scratch);

// --- matrices: [rows = outputs, cols = inputs], packed in tiles of 16 rows -------------------------
// Quantized: value = scale[row, group] * q; q in -127..127 (int8) or -8..7 (int4), symmetric, scale
// in float16. Activations are quantized per row and group of the same size at run time.
typedef struct {
  int32_t format, rows, cols, group;  // group: 32, 64 or 128 columns a scale; else 0
  const void* data;                   // hr_packed_bytes of it, 64-byte aligned
  const float* bias;                  // [rows] or null
} hr_matrix;

int64_t hr_packed_bytes(int format, int rows, int cols, int group);
int hr_pack_bf16(hr_pool*, int rows, int cols, const uint16_t* w, int64_t ld, void* out);
int hr_pack_f32(hr_pool*, int rows, int cols, const float* w, int64_t ld, void* out);
int hr_pack_quantized(hr_pool*, int format, int rows, int cols, int group, const int8_t* q,
                      const uint16_t* scales, void* out);  // q [rows, cols], scales [rows, cols/group]
int hr_quantize(hr_pool*, int format, int rows, int cols, int group, const uint16_t* w, int64_t ld,
                int8_t* q, uint16_t* scales);  // round to nearest
int hr_unpack(const hr_matrix*, float* out);   // [rows, cols], what the kernels compute with
int hr_gather(const hr_matrix*, int count, const int32_t* rows, float* out);  // embedding look-up
// out[m, rows] (+)= x[m, cols] @ matrix^T + bias
int hr_linear(hr_pool*, hr_scratch*, const hr_matrix*, int m, const float* x, int64_t ldx, float* out,
              int64_t ldo, int accumulate);

// --- paged keys and values ---------------------------------------------------------------------------
// One layer's pool is [blocks][kv_heads] pages of block_tokens (a multiple of 16) tokens.
typedef struct {
  int32_t format, blocks, block_tokens, kv_heads, head_dim;  // head_dim: a multiple of 16 up to 256
  void* k;  // hr_kv_bytes each, 64-byte aligned
  void* v;
} hr_kv;

int64_t hr_kv_bytes(int format, int blocks, int block_tokens, int kv_heads, int head_dim);

// The sequences of one step. Row r of span s is the sequence's position
// context[s] - (row_start[s+1] - row_start[s]) + r; its block is blocks[s * max_blocks + position /
// block_tokens].
typedef struct {
  int32_t rows, spans, max_blocks;
  const int32_t* row_start;  // [spans + 1]
  const int32_t* context;    // [spans], this step's rows included
  const int32_t* blocks;     // [spans, max_blocks]
} hr_spans;

int hr_kv_write(hr_pool*, const hr_kv*, const hr_spans*, const float* k, int64_t ldk, const float* v,
                int64_t ldv);  // rows of [kv_heads * head_dim]
int hr_attend(hr_pool*, hr_scratch*, const hr_kv*, const hr_spans*, int heads, float scale, int window,
              const float* q, int64_t ldq, float* out, int64_t ldo);  // window 0 = none

// --- the whole decoder, a step at a time ---------------------------------------------------------------
typedef struct {
  hr_matrix qkv, out, gate_up, down;  // qkv: q, k, v rows in turn; gate_up: gate rows, then up rows
  const float *attention_norm, *feed_forward_norm;
  const float *q_norm, *k_norm;  // [head_dim] or null
  hr_kv kv;
  int32_t window;
} hr_layer;

typedef struct {
  int32_t layers, width, heads, kv_heads, head_dim, inner, vocab;
  float eps, attention_scale;
  const hr_layer* layer;
  hr_matrix embedding;  // [vocab, width]; may be the head's own
  hr_matrix head;
  const float* final_norm;
  const float *cos, *sin;  // [positions, head_dim / 2]
} hr_decoder;

int hr_hidden(hr_pool*, hr_scratch*, const hr_decoder*, const hr_spans*, const int32_t* ids,
              const int32_t* positions, float* hidden);  // [rows, width], final norm applied
int hr_logits(hr_pool*, hr_scratch*, const hr_decoder*, int m, const float* hidden, float* logits);

// --- a whole encoder: documents end to end, each seeing all of itself ------------------------------------
// Post-norm: x = norm(x + part(x)), with gelu (erf) between `up` and `down`.
typedef struct {
  hr_matrix qkv, out, up, down;  // all with a bias; qkv: q, k, v rows in turn
  const float *attention_norm, *attention_shift, *norm, *shift;
} hr_encoder_layer;

typedef struct {
  int32_t layers, width, heads, head_dim, inner, vocab, positions;  // head_dim: a multiple of 16 up to 256
  float eps;
  const hr_encoder_layer* layer;
  const float *words, *places, *kind;  // [vocab, width], [positions, width], [width]
  const float *norm, *shift;
} hr_encoder;

// hidden [rows, width]; document d is rows start[d] .. start[d + 1], its positions are 0 and on.
int hr_encode(hr_pool*, hr_scratch*, const hr_encoder*, int documents, const int32_t* start,
              const int32_t* ids, float* hidden);

// --- searching an index ------------------------------------------------------------------------------
// Vectors of length 1 as bytes: value = scale * r. What kernels/scan.py calls; a library without
// these still does all the rest.
typedef struct {
  int32_t dims;
  const int8_t* rows;     // [n, dims], -127..127
  const float* scales;    // [n]
  const int32_t* sums;    // [n], of each row
  const int32_t* places;  // [n], what a row is called, or null = its index
} hr_bytes;

// The k best cosines, best first, of equals the lower place; returns how many, or -HR_E*.
// ranges [count, 2]: first row and end, looked at in order, none begun once `budget` allowed rows
// were seen (below 0 = all). allowed: by place, or null = all.
int hr_scan_ranges(const hr_bytes*, const uint8_t* allowed, int count, const int64_t* ranges,
                   int64_t budget, const int8_t* q, float scale, int k, int32_t* places,
                   float* scores);
// The same of single rows.
int hr_scan_rows(const hr_bytes*, int64_t count, const int64_t* wanted, const int8_t* q, float scale,
                 int k, int32_t* places, float* scores);
// The same arrays ordered by hash, equal ones as they came; words: each hash once, ascending, and in
// `starts` where each begins, with the end after the last. Returns how many words there are. Room:
// for as many words as hashes, and one more start.
int64_t hr_group(int64_t count, const uint64_t* hashes, const uint32_t* positions,
                 const uint8_t* body, const uint8_t* titles, uint64_t* words, int64_t* starts,
                 uint32_t* by_word, uint8_t* body_by_word, uint8_t* titles_by_word);
int64_t hr_count_seen(int64_t count, const uint32_t* positions, const uint8_t* seen);
// scores[p] += gain * times / (times + norms[p]), times = body + title_weight * titles, where p may
// be seen.
int hr_bm25_add(int64_t count, const uint32_t* positions, const uint8_t* body,
                const uint8_t* titles, const uint8_t* seen, const float* norms, float gain,
                float title_weight, float* scores);

// --- counting words ----------------------------------------------------------------------------------
// What kernels/wordcount.py calls. One caller at a time.
typedef struct hr_words hr_words;

hr_words* hr_words_new(void);
void hr_words_free(hr_words*);
int64_t hr_words_bytes(const hr_words*);  // of memory, about
// Word i is text[ends[i - 1], ends[i]), in lower case; what it stands for is stems[i].
void hr_words_learn(hr_words*, int64_t count, const char* text, const int64_t* ends,
                    const uint64_t* stems);
// Chunk i's body ends at ends[2 i], its titles at ends[2 i + 1]. lengths: its words, repeats counted.
// packed: of each chunk its stems in order of their first word, times in the body a byte each, times
// in titles a byte each, 255 at most; it ends at sizes[i]. Returns how many words are not known, first
// byte and end of each in `unknown`: learn them and count again. Room: 10 bytes of `packed` and two
// numbers of `unknown` for each word there can be.
int64_t hr_words_count(hr_words*, int64_t chunks, const char* text, const int64_t* ends,
                       int32_t* lengths, int64_t* sizes, uint8_t* packed, int64_t* unknown);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
