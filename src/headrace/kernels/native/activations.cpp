// Rows of floats into the form that tiles are multiplied with (see linear.h).
//
// Quantization rounds to nearest even against the largest magnitude of the group. A group whose
// values are all below 1e-30 is zeros; one with a value that is not finite has scale NaN, so that
// its row's outputs are NaN, and nobody else's.
#include <algorithm>

#include "linear.h"
#include "linear_amx.h"
#include "simd.h"

namespace hr {
namespace {

constexpr int kPiece = 512;      // columns of a part, where blocks alone are too few to share out
constexpr int kManyBlocks = 16;

struct Block {
  uint8_t* data;
  int width, row;  // row: which of the block's
};

void put_bf16(const Block& block, int from, int count, const float* x) {
  if constexpr (!kNativeBf16Dot) {
    float* out = (float*)block.data + (int64_t)from * block.width + block.row;
    for (int k = 0; k < count; k++) *out = widen(narrow(x[k])), out += block.width;
    if (count % 2) *out = 0;  // the last pair's second column
    return;
  }
  uint32_t* out = (uint32_t*)block.data + (int64_t)from / 2 * block.width + block.row;
  for (int k = 0; k < count; k += 16) {
    int some = std::min(16, count - k);
    alignas(64) uint32_t pairs[8];
    store_bf16((bf16*)pairs, some == 16 ? load(x + k) : load_some(x + k, some));
    for (int i = 0; 2 * i < some; i++) *out = pairs[i], out += block.width;
  }
}

void put_f32(const Block& block, int from, int count, const float* x) {
  float* out = (float*)block.data + (int64_t)from * block.width + block.row;
  for (int k = 0; k < count; k++) *out = x[k], out += block.width;
}

struct Range {
  float largest;
  float broken;  // 0, or NaN where a value is not finite
};

Range range_of(const float* x, int count) {
  F most = zero(), broken = zero();
  for (int k = 0; k < count; k += 16) {
    F v = count - k >= 16 ? load(x + k) : load_some(x + k, count - k);
    most = max(most, abs(v));
    broken = fma(v, zero(), broken);
  }
  return {largest(most), sum(broken)};
}

// A group's values as value = scale * q, sixteen q at a time: each(k, codes).
template <class Each>
float quantize(const float* x, int count, int group, const Each& each) {
  Range range = range_of(x, count);
  float by = range.largest > 1e-30f ? 127.0f / range.largest : 0.0f;
  for (int k = 0; k < group; k += 16) {
    int some = std::max(0, std::min(16, count - k));
    each(k, to_int(mul(some == 16 ? load(x + k) : load_some(x + k, some), set1(by))));
  }
  return (by == 0 ? 0.0f : range.largest / 127.0f) + range.broken;
}

void put_group(const Block& block, const Tiles& form, int g, const float* x, int count) {
  uint8_t* record = block.data + (int64_t)g * (form.group + 8) * block.width;
  int32_t* codes = (int32_t*)record + 2 * block.width + block.row;
  I total = izero();
  float scale = quantize(x, count, form.group, [&](int, I q) {
    total = iadd(total, q);
    alignas(64) int32_t fours[4];
    store_s8((int8_t*)fours, q);
    for (int i = 0; i < 4; i++) *codes = fours[i], codes += block.width;
  });
  ((float*)record)[block.row] = scale;
  ((int32_t*)record)[block.width + block.row] = -(form.format == HR_INT8 ? kDotOffset : form.offset()) * isum(total);
}

void put_group_amx(const Block& block, const Tiles& form, int g, const float* x, int count) {
  uint8_t* record = block.data + (int64_t)g * (form.group + 4) * kRowsAmx;
  int step = std::min(kBytesAmx, form.group);
  int8_t* codes = (int8_t*)record + 4 * kRowsAmx + block.row * step;
  ((float*)record)[block.row] = quantize(x, count, form.group, [&](int k, I q) {
    store_s8(codes + k / step * step * kRowsAmx + k % step, q);
  });
}

void put_bf16_amx(const Block& block, int from, int count, const float* x) {
  bf16* out = (bf16*)block.data + (int64_t)from * kRowsAmx + block.row * kColsAmx;
  for (int k = 0; k < count; k += kColsAmx, out += kColsAmx * kRowsAmx) {
    for (int i = 0; i < kColsAmx; i += 16) {
      int some = std::max(0, std::min(16, count - k - i));
      store_bf16(out + i, some == 16 ? load(x + k + i) : load_some(x + k + i, some));
    }
  }
}

}  // namespace

void Activations::shape(int rows, const hr_matrix& matrix) {
  form_ = tiles_of(matrix);
  rows_ = rows;
  for_amx_ = kAmx && (form_.quantized() ? rows >= kLeastQuantizedAmx : form_.format == HR_BF16);
  int width = for_amx_ ? kRowsAmx : form_.quantized() ? kWidthQuantized : kWidthBf16;
  blocks_ = std::max(1, (rows + width - 1) / width);
  pieces_ = blocks_ >= kManyBlocks ? 1 : (form_.cols + kPiece - 1) / kPiece;
  row_bytes_ = form_.quantized() ? (int64_t)form_.groups() * (form_.group + (for_amx_ ? 4 : 8))
               : for_amx_ ? (int64_t)(form_.cols + kColsAmx - 1) / kColsAmx * kColsAmx * 2
               : form_.format == HR_F32 ? (int64_t)form_.cols * 4
                                        : (int64_t)form_.pairs() * (kNativeBf16Dot ? 4 : 8);
  memory_.reserve((for_amx_ ? blocks_ * kRowsAmx : rows) * row_bytes_);
}

Activations::Part Activations::part(int number) const {
  int block = number / pieces_, from = number % pieces_ * kPiece;
  int count = pieces_ == 1 ? form_.cols : std::min(kPiece, form_.cols - from);
  return {first_row(block), first_row(block + 1), from, count};
}

void Activations::put(int row, int from, int count, const float* x) {
  int number = for_amx_ ? row / kRowsAmx : (int)(((int64_t)(row + 1) * blocks_ - 1) / rows_);
  Block block{memory_.data() + block_at(number), width(number), row - first_row(number)};
  if (form_.format == HR_F32) return put_f32(block, from, count, x);
  if (!form_.quantized()) return (for_amx_ ? put_bf16_amx : put_bf16)(block, from, count, x);
  auto put = for_amx_ ? put_group_amx : put_group;
  for (int k = 0; k < count; k += form_.group) {
    put(block, form_, (from + k) / form_.group, x + k, std::min(form_.group, count - k));
  }
}

}  // namespace hr
