// Geometry of packed matrices (see linear.h): how many bytes, and where a tile, a scale or a group is.
#pragma once
#include <cstdint>

#include "headrace.h"

namespace hr {

constexpr int kOutputs = 16;
constexpr int kScaleLine = 64;  // float16 scales of two groups of one tile

struct Tiles {
  int format, rows, cols, group;

  bool quantized() const { return format == HR_INT8 || format == HR_INT4; }
  int bits() const { return format == HR_INT4 ? 4 : 8; }
  int offset() const { return format == HR_INT4 ? 8 : 128; }  // what packed values have on top
  int count() const { return (int)(((int64_t)rows + kOutputs - 1) / kOutputs); }
  int pairs() const { return (int)(((int64_t)cols + 1) / 2); }  // of columns, bf16
  int groups() const { return (int)(((int64_t)cols + group - 1) / group); }
  int64_t group_bytes() const { return (int64_t)group * bits() * kOutputs / 8; }
  int64_t scales_at(int g) const { return g / 2 * (kScaleLine + 2 * group_bytes()) + g % 2 * 32; }
  int64_t group_at(int g) const {
    return (g / 2 + 1) * (int64_t)kScaleLine + g * group_bytes();
  }
  int64_t tile_bytes() const {
    if (format == HR_F32) return (int64_t)cols * 64;
    if (!quantized()) return (int64_t)pairs() * 64;
    return (groups() + 1) / 2 * (int64_t)kScaleLine + groups() * group_bytes();
  }
  int64_t bytes() const { return count() * tile_bytes(); }

  int check() const {
    if (rows < 1 || cols < 1) return HR_ESHAPE;
    if (format < HR_BF16 || format > HR_F32) return HR_EFORMAT;
    bool good = quantized() ? group == 32 || group == 64 || group == 128 : group == 0;
    return good ? HR_OK : HR_EGROUP;
  }
};

inline Tiles tiles_of(const hr_matrix& m) { return {m.format, m.rows, m.cols, m.group}; }

// Where the four bytes of columns 4 * four .. of output `lane` begin in a group, and whether they
// are high nibbles.
struct Place {
  int64_t at;
  bool high;
};
inline Place place_of(const Tiles& t, int four, int lane) {
  if (t.format == HR_INT8) return {(int64_t)four * 64 + lane * 4, false};
  return {(int64_t)(four / 2) * 64 + lane * 4, four % 2 == 1};
}

}  // namespace hr
