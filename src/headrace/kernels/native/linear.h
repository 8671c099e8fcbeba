// Products with packed matrices, in the parts that a decoder calls inside one pool.run.
//
//     x.shape(rows, matrix);                              // one thread; x: Activations
//     pool.barrier();
//     for my i below x.parts(), for rows of x.part(i): x.put(row, from, count, values);
//     pool.barrier();
//     multiply(next, threads, matrix, x, out, ldo, accumulate);  // all threads; next at 0
//     pool.barrier();
//
// Layout of a matrix: tiles of 16 outputs, one after the other, each streamed from its first to its
// last column.
//   bf16  [cols / 2][16 outputs][2]
//   f32   [cols][16 outputs]
//   int8  for each two groups: float16 scales [2][16], then the groups: [group / 4][16 outputs][4]
//         bytes q + 128
//   int4  the same with [group / 8][16 outputs][4] bytes: low nibbles columns 0..3 of eight, high
//         ones 4..7, each q + 8
// Outputs beyond `rows` and columns beyond `cols` are zeros; the two scales' place is there also
// where the last group has no second one.
//
// Layout of activations: blocks of up to kWidth... rows, a row's values 4 bytes at a time beside those
// of its block's other rows, so that one pass over a tile serves them all. Quantized: for each group
// of columns [rows] float scales, [rows] int32 starts of the sums (what cancels the weights' +128 or
// +8), [group / 4][rows] of four int8; value = scale * q, scale = max |x| / 127. For bf16 weights on
// processors without a dot product of bf16 pairs: values rounded to bf16, one as a float. For f32
// weights: floats. Where linear_amx.h multiplies them they have its layout.
//
// Invariant (batch invariance): an output adds the products of a group as integers, exactly, and the
// groups in order; bf16 adds pairs of columns in order, f32 columns. Neither blocks nor threads change that.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>

#include "headrace.h"
#include "memory.h"
#include "simd.h"
#include "tiles.h"

namespace hr {

// Rows of a block: as many as their sums have registers.
constexpr int kWidthBf16 = kRegisters >= 32 ? 24 : 6;
constexpr int kWidthQuantized = kRegisters >= 32 ? 12 : 4;
constexpr int kMaxWidth = 24;
constexpr int kRowsAmx = 16;

class Activations {
 public:
  // The form of `rows` rows that are to be multiplied with this matrix, or with any other of its
  // format, group and cols. Nothing of what was put before is kept.
  void shape(int rows, const hr_matrix& matrix);

  // The work of putting all rows, in parts that different threads may do at once: some columns of one
  // block's rows. Rows of a block lie side by side, so threads that took a row each would fight for
  // the same cache lines.
  struct Part {
    int first_row, last_row;  // to but without the last
    int from, count;          // columns
  };
  int parts() const { return blocks_ * pieces_; }
  Part part(int number) const;

  // Columns from .. from + count of a row, x being the first of them: `from` a multiple of 128, and so
  // is `count`, but where it reaches the end.
  void put(int row, int from, int count, const float* x);

  int rows() const { return rows_; }
  int blocks() const { return blocks_; }
  int first_row(int block) const {
    if (for_amx_) return std::min(rows_, block * kRowsAmx);
    return (int)((int64_t)rows_ * block / blocks_);
  }
  int width(int block) const { return first_row(block + 1) - first_row(block); }
  int64_t row_bytes() const { return row_bytes_; }
  const uint8_t* block(int block) const { return memory_.data() + block_at(block); }
  bool for_amx() const { return for_amx_; }

 private:
  int64_t block_at(int block) const {
    return (for_amx_ ? block * kRowsAmx : first_row(block)) * row_bytes_;
  }

  Memory memory_;
  Tiles form_{};
  int rows_ = 0, blocks_ = 1, pieces_ = 1;
  int64_t row_bytes_ = 0;
  bool for_amx_ = false;
};

// out[m, rows of the matrix] (+)= x @ matrix^T + bias, shared by all who call it with this counter.
void multiply(std::atomic<int>& next, int threads, const hr_matrix& matrix, const Activations& x,
              float* out, int64_t ldo, bool accumulate);

// One row of the matrix, as the products see it: cols floats.
void gather_row(const hr_matrix& matrix, int row, float* out);

}  // namespace hr
