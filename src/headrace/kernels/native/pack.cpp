// Matrices into tiles and back: packing, round-to-nearest quantization, unpacking, rows for embedding.
//
// Runs once a load over all of a model, so what is in every byte's way is made for speed; threads take
// tiles from a counter.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "headrace.h"
#include "linear.h"
#include "scratch.h"
#include "simd.h"
#include "tiles.h"

namespace hr {
namespace {

template <class Each>
void share(hr_pool* pool, int count, const Each& each) {
  std::atomic<int> next{0};
  pool->threads.run([&](int) {
    for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) each(i);
  });
}

float from_f16(f16 bits) {
  f16 lanes[16] = {bits};
  float out[16];
  store(out, load_f16(lanes));
  return out[0];
}

f16 to_f16(float value) {
  f16 lanes[16];
  store_f16(lanes, set1(value));
  return lanes[0];
}

// Four bytes of each of 16 rows beside each other: out[i][lane] = rows[lane][i].
void interleave(const uint8_t* const* rows, int64_t units, uint8_t* out) {
  for (int64_t i = 0; i < units; i++) {
    HR_UNROLL for (int lane = 0; lane < kOutputs; lane++) {
      memcpy(out + (i * kOutputs + lane) * 4, rows[lane] + i * 4, 4);
    }
  }
}

// The rows of a tile of a row-major matrix; those beyond its end are `zeros`.
struct TileRows {
  const uint8_t* at[kOutputs];

  TileRows(const Tiles& t, int tile, const void* w, int64_t row_bytes, const void* zeros) {
    for (int lane = 0; lane < kOutputs; lane++) {
      int64_t row = (int64_t)tile * kOutputs + lane;
      at[lane] = row < t.rows ? (const uint8_t*)w + row * row_bytes : (const uint8_t*)zeros;
    }
  }
};

void pack_bf16_tile(const Tiles& t, int tile, const uint16_t* w, int64_t ld, const void* zeros,
                    uint16_t* out) {
  TileRows rows(t, tile, w, ld * 2, zeros);
  interleave(rows.at, t.cols / 2, (uint8_t*)out);
  if (t.cols % 2 == 0) return;
  out += (int64_t)(t.cols / 2) * 2 * kOutputs;
  for (int lane = 0; lane < kOutputs; lane++) {
    out[lane * 2] = ((const uint16_t*)rows.at[lane])[t.cols - 1];
    out[lane * 2 + 1] = 0;
  }
}

void pack_f32_tile(const Tiles& t, int tile, const float* w, int64_t ld, const void* zeros, float* out) {
  TileRows rows(t, tile, w, ld * 4, zeros);
  interleave(rows.at, t.cols, (uint8_t*)out);
}

// A whole group of int8: the same bytes plus 128.
void pack_whole_int8(const TileRows& rows, const Tiles& t, int g, uint8_t* out) {
  const uint8_t* from[kOutputs];
  for (int lane = 0; lane < kOutputs; lane++) from[lane] = rows.at[lane] + (int64_t)g * t.group;
  interleave(from, t.group / 4, out);
  for (int64_t i = 0; i < t.group_bytes(); i++) out[i] ^= 0x80;
}

// A whole group of int4: of each eight columns the first four are low nibbles, the others high ones.
void pack_whole_int4(const TileRows& rows, const Tiles& t, int g, uint8_t* out) {
  for (int64_t i = 0; i < t.group / 8; i++) {
    for (int lane = 0; lane < kOutputs; lane++) {
      uint32_t low, high;
      memcpy(&low, rows.at[lane] + (int64_t)g * t.group + i * 8, 4);
      memcpy(&high, rows.at[lane] + (int64_t)g * t.group + i * 8 + 4, 4);
      uint32_t codes = ((low & 0x0f0f0f0fu) | (high & 0x0f0f0f0fu) << 4) ^ 0x88888888u;
      memcpy(out + (i * kOutputs + lane) * 4, &codes, 4);
    }
  }
}

void pack_group(const Tiles& t, int tile, int g, const int8_t* q, uint8_t* out) {
  for (int four = 0; four < t.group / 4; four++) {
    for (int lane = 0; lane < kOutputs; lane++) {
      Place place = place_of(t, four, lane);
      int row = tile * kOutputs + lane;
      for (int i = 0; i < 4; i++) {
        int k = g * t.group + four * 4 + i;
        int value = row < t.rows && k < t.cols ? q[(int64_t)row * t.cols + k] : 0;
        uint8_t& byte = out[place.at + i];
        uint8_t code = (uint8_t)(value + t.offset());
        byte = place.high ? (uint8_t)(byte | code << 4) : code;
      }
    }
  }
}

void pack_quantized_tile(const Tiles& t, int tile, const int8_t* q, const f16* scales,
                         const void* zeros, uint8_t* out) {
  TileRows rows(t, tile, q, t.cols, zeros);
  for (int g = 0; g < t.groups(); g++) {
    f16* packed = (f16*)(out + t.scales_at(g));
    if (g % 2 == 0) memset(packed, 0, kScaleLine);
    for (int lane = 0; lane < kOutputs; lane++) {
      int64_t row = (int64_t)tile * kOutputs + lane;
      packed[lane] = row < t.rows ? scales[row * t.groups() + g] : 0;
    }
    if ((g + 1) * t.group > t.cols) {
      pack_group(t, tile, g, q, out + t.group_at(g));
    } else if (t.format == HR_INT8) {
      pack_whole_int8(rows, t, g, out + t.group_at(g));
    } else {
      pack_whole_int4(rows, t, g, out + t.group_at(g));
    }
  }
}

// int8: scale = max |w| / 127. int4: the value of largest magnitude, the first of them, becomes -8, so
// that all sixteen codes are in use; the scale has its sign. `count` values, then zeros to a whole 16.
float scale_of(const Tiles& t, const float* w, int count) {
  F most = zero();
  for (int k = 0; k < count; k += 16) most = max(abs(load(w + k)), most);
  float largest = hr::largest(most);
  if (t.format == HR_INT8) return largest / 127;
  for (int k = 0; k < count; k++) {
    if (std::fabs(w[k]) == largest) return w[k] / -8;
  }
  return 0;
}

void quantize_group(const Tiles& t, const float* w, int count, int8_t* q, f16* scale) {
  *scale = to_f16(scale_of(t, w, count));
  float step = from_f16(*scale);
  F inverse = set1(step == 0 ? 0 : 1 / step);
  F low = set1(t.format == HR_INT8 ? -127 : -8), high = set1(t.format == HR_INT8 ? 127 : 7);
  for (int k = 0; k < count; k += 16) {
    int8_t codes[16];
    store_s8(codes, to_int(min(high, max(low, mul(load(w + k), inverse)))));
    memcpy(q + k, codes, std::min(16, count - k));
  }
}

void quantize_row(const Tiles& t, const uint16_t* w, int8_t* q, f16* scales) {
  float values[128] = {};
  for (int g = 0; g < t.groups(); g++) {
    int from = g * t.group, count = std::min(t.group, t.cols - from);
    for (int k = 0; k < count; k++) values[k] = widen(w[from + k]);
    std::fill(values + count, values + ((count + 15) & ~15), 0.0f);
    quantize_group(t, values, count, q + from, scales + g);
  }
}

int value_at(const Tiles& t, const uint8_t* group, int lane, int k) {
  Place place = place_of(t, k / 4, lane);
  int byte = group[place.at + k % 4];
  if (t.format == HR_INT4) byte = place.high ? byte >> 4 : byte & 15;
  return byte - t.offset();
}

}  // namespace

void gather_row(const hr_matrix& matrix, int row, float* out) {
  Tiles t = tiles_of(matrix);
  const uint8_t* tile = (const uint8_t*)matrix.data + row / kOutputs * t.tile_bytes();
  int lane = row % kOutputs;
  if (t.format == HR_F32) {
    for (int k = 0; k < t.cols; k++) out[k] = ((const float*)tile)[k * kOutputs + lane];
    return;
  }
  if (!t.quantized()) {
    const bf16* pairs = (const bf16*)tile;
    for (int k = 0; k < t.cols; k++) out[k] = widen(pairs[k / 2 * 32 + lane * 2 + k % 2]);
    return;
  }
  for (int g = 0; g < t.groups(); g++) {
    float scale = from_f16(((const f16*)(tile + t.scales_at(g)))[lane]);
    const uint8_t* group = tile + t.group_at(g);
    int from = g * t.group, count = std::min(t.group, t.cols - from);
    for (int k = 0; k < count; k++) out[from + k] = scale * (float)value_at(t, group, lane, k);
  }
}

}  // namespace hr

using namespace hr;

int64_t hr_packed_bytes(int format, int rows, int cols, int group) {
  Tiles t{format, rows, cols, group};
  return t.check() ? -1 : t.bytes();
}

int hr_pack_bf16(hr_pool* pool, int rows, int cols, const uint16_t* w, int64_t ld, void* out) {
  Tiles t{HR_BF16, rows, cols, 0};
  if (int wrong = t.check()) return wrong;
  std::vector<uint16_t> zeros(cols);
  share(pool, t.count(), [&](int tile) {
    uint16_t* at = (uint16_t*)((uint8_t*)out + tile * t.tile_bytes());
    pack_bf16_tile(t, tile, w, ld, zeros.data(), at);
  });
  return HR_OK;
}

int hr_pack_f32(hr_pool* pool, int rows, int cols, const float* w, int64_t ld, void* out) {
  Tiles t{HR_F32, rows, cols, 0};
  if (int wrong = t.check()) return wrong;
  std::vector<float> zeros(cols);
  share(pool, t.count(), [&](int tile) {
    float* at = (float*)((uint8_t*)out + tile * t.tile_bytes());
    pack_f32_tile(t, tile, w, ld, zeros.data(), at);
  });
  return HR_OK;
}

int hr_pack_quantized(hr_pool* pool, int format, int rows, int cols, int group, const int8_t* q,
                      const uint16_t* scales, void* out) {
  Tiles t{format, rows, cols, group};
  if (int wrong = t.check()) return wrong;
  if (!t.quantized()) return HR_EFORMAT;
  std::vector<int8_t> zeros(cols);
  share(pool, t.count(), [&](int tile) {
    uint8_t* at = (uint8_t*)out + tile * t.tile_bytes();
    pack_quantized_tile(t, tile, q, scales, zeros.data(), at);
  });
  return HR_OK;
}

int hr_quantize(hr_pool* pool, int format, int rows, int cols, int group, const uint16_t* w,
                int64_t ld, int8_t* q, uint16_t* scales) {
  Tiles t{format, rows, cols, group};
  if (int wrong = t.check()) return wrong;
  if (!t.quantized()) return HR_EFORMAT;
  share(pool, rows, [&](int row) {
    quantize_row(t, w + row * ld, q + (int64_t)row * cols, scales + (int64_t)row * t.groups());
  });
  return HR_OK;
}

int hr_unpack(const hr_matrix* matrix, float* out) {
  if (int wrong = tiles_of(*matrix).check()) return wrong;
  for (int row = 0; row < matrix->rows; row++) {
    gather_row(*matrix, row, out + (int64_t)row * matrix->cols);
  }
  return HR_OK;
}

int hr_gather(const hr_matrix* matrix, int count, const int32_t* rows, float* out) {
  if (int wrong = tiles_of(*matrix).check()) return wrong;
  for (int i = 0; i < count; i++) {
    if (rows[i] < 0 || rows[i] >= matrix->rows) return HR_ESHAPE;
    gather_row(*matrix, rows[i], out + (int64_t)i * matrix->cols);
  }
  return HR_OK;
}
