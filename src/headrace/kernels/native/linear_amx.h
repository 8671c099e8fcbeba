// Products on the tile unit of processors with AMX, where linear.cpp hands them over.
//
// Layout of activations (instead of linear.h's), blocks of 16 rows, room for 16 in the last too:
//   quantized  for each group [16] float scales, then [group / step][16 rows][step] int8,
//              step = the group, at most 64
//   bf16       [cols / 32][16 rows][32] bf16, zeros beyond the last column
// where [16 rows][up to 64 bytes] is what one register takes. What lies in rows that are not there is
// multiplied too, and used by nobody.
//
// Invariant: quantized products are bit for bit those of linear.cpp (integers are exact, and groups
// are added by the same fused multiply-adds in the same order), so few rows may go the other way. bf16
// ones are not (the instruction adds in another order), so all rows go this way.
#pragma once
#include "linear.h"

namespace hr {

constexpr int kBytesAmx = 64;  // of a row that a register takes, at most
constexpr int kColsAmx = 32;   // of bf16

// Rows from which quantized products go this way.
constexpr int kLeastQuantizedAmx = 8;

// linear.h's `multiply`.
void multiply_amx(std::atomic<int>& next, int threads, const hr_matrix& matrix, const Activations& x,
                  float* out, int64_t ldo, bool accumulate);

}  // namespace hr
