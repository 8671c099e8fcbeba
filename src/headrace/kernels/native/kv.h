// Where a token's key and value lie in a layer's pool: the arithmetic of the layouts in attention.h.
#pragma once
#include "headrace.h"
#include "simd.h"

namespace hr::paged {

constexpr int kSub = 16;           // tokens of a sub-block: one vector of scores
constexpr int kMaxHeadDim = 256;
constexpr int kByteOffset = 128;   // int8 is stored unsigned, as the dot instructions want it
constexpr int kExponentSteps = 64;  // int8 values' scales are 2^(whole / kExponentSteps)

inline int64_t sub_bytes(const hr_kv& kv) {
  return (int64_t)kSub * kv.head_dim * (kv.format == HR_BF16 ? 2 : 1);
}
inline int64_t scale_bytes(const hr_kv& kv) {
  return kv.format == HR_BF16 ? 0 : ((int64_t)kv.block_tokens * 2 + 63) / 64 * 64;
}
inline int64_t page_bytes(const hr_kv& kv) {
  return scale_bytes(kv) + kv.block_tokens / kSub * sub_bytes(kv);
}
inline int64_t page_offset(const hr_kv& kv, int64_t block, int kv_head) {
  return (block * kv.kv_heads + kv_head) * page_bytes(kv);
}

// HR_OK, or why no kernel can run on it.
inline int check(const hr_kv& kv) {
  if (kv.format != HR_BF16 && kv.format != HR_INT8) return HR_EFORMAT;
  bool fits = kv.head_dim >= 16 && kv.head_dim <= kMaxHeadDim && kv.head_dim % 16 == 0 &&
              kv.block_tokens >= kSub && kv.block_tokens % kSub == 0 && kv.kv_heads >= 1 &&
              kv.blocks >= 0;
  return fits ? HR_OK : HR_ESHAPE;
}

}  // namespace hr::paged
