// One tile of weights is multiplied with blocks of 16 rows: quantized, a group at a time, whose
// integers go through memory and become floats while the tile unit multiplies the groups behind; bf16,
// two tiles of weights and two blocks at a time, whose four sums stay in registers to the last column.
#include "linear_amx.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "amx.h"
#include "linear_unit.h"
#include "memory.h"
#include "shares.h"
#include "simd.h"
#include "tiles.h"

#if defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__)

namespace hr {
namespace {

constexpr int64_t kSpanBytes = 512 << 10;  // of activations, walked with one tile
constexpr int64_t kLeastBytes = 32 << 10;  // of weights that a thread takes at a time
constexpr int kRegister = 1024;            // bytes
constexpr int kSums = kRowsAmx * kOutputs;

struct Call {
  const hr_matrix& matrix;
  const Activations& x;
  float* out;
  int64_t ldo;
  bool accumulate;
  Tiles t = tiles_of(matrix);
  int spans = (int)std::clamp<int64_t>((x.rows() * x.row_bytes() + kSpanBytes - 1) / kSpanBytes, 1,
                                       x.blocks());

  const uint8_t* tile(int number) const {
    return (const uint8_t*)matrix.data + number * t.tile_bytes();
  }
  Result result(int block, int number) const {
    return {out + x.first_row(block) * ldo + number * kOutputs, ldo,
            matrix.bias ? matrix.bias + number * kOutputs : nullptr,
            std::min(kOutputs, t.rows - number * kOutputs), accumulate};
  }
  Range blocks(int span) const {
    return {(int)((int64_t)x.blocks() * span / spans), (int)((int64_t)x.blocks() * (span + 1) / spans)};
  }
  int widest() const { return std::min(x.rows(), kRowsAmx); }
  Shares shares(int tiles, int threads, std::atomic<int>& next) const {  // a unit: so many tiles
    int64_t walked = tiles * t.tile_bytes() * ((x.blocks() + spans - 1) / spans);
    int least = (int)std::max<int64_t>(1, kLeastBytes / walked);
    return {spans * ((t.count() + tiles - 1) / tiles), least, threads, next};
  }
};

// --- int8 and int4 ------------------------------------------------------------------------------------

// A tile's weights as the tile unit reads them: signed bytes [group / 4][16 outputs][4], and scales as
// floats. Made once for all blocks of a span, during the first of them.
struct Signed {
  int8_t* bytes;
  float* scales;
};

constexpr int kAhead = 8;  // groups that are made before they are read

template <int Format, int Group>
HR_INLINE void make_signed(const uint8_t* tile, const Tiles& t, int g, const Signed& to) {
  const uint8_t* w = tile + t.group_at(g);
  int8_t* out = to.bytes + (int64_t)g * Group * kOutputs;
  store(to.scales + g * kOutputs, load_f16((const f16*)(tile + t.scales_at(g))));
  constexpr int kLines = Format == HR_INT8 ? Group / 4 : Group / 8;
  _Pragma("GCC unroll 4") for (int i = 0; i < kLines; i++, w += 64) {
    W line = load_w(w);
    prefetch_far(w + 8192);
    prefetch(w + 1024);
    if constexpr (Format == HR_INT8) {
      store_w(out + i * 64, less_128(line));
    } else {
      store_w(out + i * 128, less_8(low_nibbles(line)));
      store_w(out + i * 128 + 64, less_8(high_nibbles(line)));
    }
  }
}

// Integers of one group: into `sums`.
template <int Group, int Slot>
HR_INLINE void multiply_group(const uint8_t* x, const int8_t* w, int32_t* sums) {
  constexpr int kStep = std::min(Group, kBytesAmx);
  constexpr int kC = amx::kC + Slot, kA = amx::kA + Slot % 2, kB = amx::kB + Slot % 2;
  amx::clear<kC>();
  HR_UNROLL for (int k = 0; k < Group; k += kStep) {
    amx::load<kA>(x + k * kRowsAmx, kStep);
    amx::load<kB>(w + k * kOutputs, 64);
    amx::dot_bytes<kC, kA, kB>();
  }
  amx::store<kC>(sums, 64);
}

constexpr int kSlots = 4;  // groups under way

template <int B, int Format, int Group>
void multiply_block(const uint8_t* tile, bool first, const Signed& w, const uint8_t* x,
                    const Tiles& t, Fetch fetch, const Result& to) {
  constexpr int64_t kRecord = (Group + 4) * kRowsAmx, kBytes = Group * kOutputs;
  alignas(64) int32_t integers[kSlots][kSums];
  F sums[B];
  HR_UNROLL for (int m = 0; m < B; m++) sums[m] = zero();
  const int groups = t.groups();
  if (first) {
    for (int g = 0; g < std::min(groups, kAhead); g++) make_signed<Format, Group>(tile, t, g, w);
  }
  auto begin = [&]<int Slot>(std::integral_constant<int, Slot>, int g) {
    if (g >= groups) return;
    if (first && g + kAhead < groups) make_signed<Format, Group>(tile, t, g + kAhead, w);
    multiply_group<Group, Slot>(x + g * kRecord + 4 * kRowsAmx, w.bytes + g * kBytes, integers[Slot]);
  };
  auto end = [&]<int Slot>(std::integral_constant<int, Slot>, int g) {
    if (g >= groups) return;
    fetch_some(fetch);
    const float* factors = (const float*)(x + g * kRecord);
    F scale = load(w.scales + g * kOutputs);
    HR_UNROLL for (int m = 0; m < B; m++) {
      F whole = to_float(iload(integers[Slot] + m * kOutputs));
      sums[m] = fma(whole, mul(scale, set1(factors[m])), sums[m]);
    }
  };
  std::integral_constant<int, 0> s0;
  std::integral_constant<int, 1> s1;
  std::integral_constant<int, 2> s2;
  std::integral_constant<int, 3> s3;
  begin(s0, 0), begin(s1, 1), begin(s2, 2);
  for (int g = 0; g < groups; g += kSlots) {
    begin(s3, g + 3), end(s0, g);
    begin(s0, g + 4), end(s1, g + 1);
    begin(s1, g + 5), end(s2, g + 2);
    begin(s2, g + 6), end(s3, g + 3);
  }
  finish(sums, to);
}

typedef void (*MultiplyBlock)(const uint8_t*, bool, const Signed&, const uint8_t*, const Tiles&, Fetch,
                              const Result&);
typedef std::array<MultiplyBlock, kRowsAmx> Widths;  // [width - 1]

template <int Format, int Group, int... B>
constexpr Widths widths(std::integer_sequence<int, B...>) {
  return {multiply_block<B + 1, Format, Group>...};
}

const Widths& widths_of(const Tiles& t) {
  typedef std::make_integer_sequence<int, kRowsAmx> All;
  static constexpr Widths known[2][3] = {
      {widths<HR_INT8, 32>(All()), widths<HR_INT8, 64>(All()), widths<HR_INT8, 128>(All())},
      {widths<HR_INT4, 32>(All()), widths<HR_INT4, 64>(All()), widths<HR_INT4, 128>(All())}};
  return known[t.format == HR_INT4][t.group == 32 ? 0 : t.group == 64 ? 1 : 2];
}

void multiply_quantized(const Call& call, int threads, std::atomic<int>& next) {
  const Tiles& t = call.t;
  const Widths& widths = widths_of(t);
  static thread_local Memory made;
  int64_t bytes = (int64_t)t.groups() * t.group * kOutputs;
  made.reserve(bytes + (int64_t)t.groups() * kOutputs * 4);
  Signed w{(int8_t*)made.data(), (float*)(made.data() + bytes)};
  amx::Session session(call.widest(), std::min(kBytesAmx, t.group));
  walk(call.shares(1, threads, next), [&](int unit, int next_unit) {
    int number = unit % t.count();
    Range blocks = call.blocks(unit / t.count());
    int count = blocks.to - blocks.from;
    Fetch fetch{call.tile(next_unit % t.count()), 0};
    if (count > 1) fetch.lines = (int)((t.group_bytes() / 64 + count) / count);
    for (int b = blocks.from; b < blocks.to; b++) {
      widths[call.x.width(b) - 1](call.tile(number), b == blocks.from, w, call.x.block(b), t, fetch,
                                  call.result(b, number));
      fetch.at += (int64_t)t.groups() * fetch.lines * 64;
    }
  });
}

// --- bf16 ---------------------------------------------------------------------------------------------

// One or two tiles of weights; of the last columns, where they fill no register, a copy with zeros.
struct Weights {
  const uint8_t* tile[2];
  uint8_t (*last)[kRegister];
};

template <int T, bool Alone>
HR_INLINE void load_weights(const uint8_t* w, Fetch& fetch) {
  if constexpr (Alone) {
    HR_UNROLL for (int i = 0; i < kRegister; i += 64) {
      prefetch_far(w + 8192 + i);
      prefetch(w + 2048 + i);
    }
  } else {
    fetch_some(fetch);
  }
  amx::load<amx::kB + T>(w, 64);
}

// B blocks times T tiles; `Alone`: these are all blocks, so that memory is what is waited for.
template <int B, int T, bool Alone>
void multiply_bf16(const Call& call, const Weights& w, int number, int block, Fetch fetch) {
  const Tiles& t = call.t;
  const int whole = t.cols / kColsAmx;
  const uint8_t *x = call.x.block(block), *y = call.x.block(block + B - 1);
  amx::clear<0>(), amx::clear<1>(), amx::clear<2>(), amx::clear<3>();
  auto step = [&](int64_t at, const uint8_t* w0, const uint8_t* w1) {
    amx::load<amx::kA>(x + at, 64);
    load_weights<0, Alone>(w0, fetch);
    amx::dot_bf16<0, amx::kA, amx::kB>();
    if constexpr (B == 2) {
      amx::load<amx::kA + 1>(y + at, 64);
      amx::dot_bf16<2, amx::kA + 1, amx::kB>();
    }
    if constexpr (T == 2) {
      load_weights<1, Alone>(w1, fetch);
      amx::dot_bf16<1, amx::kA, amx::kB + 1>();
      if constexpr (B == 2) amx::dot_bf16<3, amx::kA + 1, amx::kB + 1>();
    }
  };
  for (int64_t at = 0; at < (int64_t)whole * kRegister; at += kRegister) {
    step(at, w.tile[0] + at, w.tile[1] + at);
  }
  if (t.cols % kColsAmx) step((int64_t)whole * kRegister, w.last[0], w.last[1]);
  alignas(64) float sums[4][kSums];
  amx::store<0>(sums[0], 64);
  if constexpr (T == 2) amx::store<1>(sums[1], 64);
  if constexpr (B == 2) amx::store<2>(sums[2], 64);
  if constexpr (B == 2 && T == 2) amx::store<3>(sums[3], 64);
  for (int b = 0; b < B; b++) {
    for (int i = 0; i < T; i++) {
      Result to = call.result(block + b, number + i);
      for (int m = 0; m < call.x.width(block + b); m++, to.out += to.ldo) {
        F sum[1] = {load(sums[b * 2 + i] + m * kOutputs)};
        finish(sum, to);
      }
    }
  }
}

void multiply_bf16(const Call& call, int threads, std::atomic<int>& next) {
  const Tiles& t = call.t;
  const int units = (t.count() + 1) / 2;
  const int64_t whole = t.cols / kColsAmx * (int64_t)kRegister;
  amx::Session session(call.widest(), kBytesAmx);
  alignas(64) uint8_t last[2][kRegister] = {};
  walk(call.shares(2, threads, next), [&](int unit, int next_unit) {
    int number = unit % units * 2, tiles = std::min(2, t.count() - number);
    Range blocks = call.blocks(unit / units);
    Weights w{{call.tile(number), call.tile(number + tiles - 1)}, last};
    if (t.cols % kColsAmx) {
      for (int i = 0; i < tiles; i++) memcpy(last[i], w.tile[i] + whole, t.tile_bytes() - whole);
    }
    bool alone = blocks.to - blocks.from <= 2;
    int passes = (blocks.to - blocks.from + 1) / 2;
    Fetch fetch{call.tile(next_unit % units * 2), (kRegister / 64 + passes - 1) / passes};
    for (int b = blocks.from; b < blocks.to; b += 2) {
      bool two = b + 1 < blocks.to;
      auto multiply = alone ? (two ? (tiles == 2 ? multiply_bf16<2, 2, true> : multiply_bf16<2, 1, true>)
                                   : (tiles == 2 ? multiply_bf16<1, 2, true> : multiply_bf16<1, 1, true>))
                            : (two ? (tiles == 2 ? multiply_bf16<2, 2, false> : multiply_bf16<2, 1, false>)
                                   : (tiles == 2 ? multiply_bf16<1, 2, false> : multiply_bf16<1, 1, false>));
      multiply(call, w, number, b, fetch);
      fetch.at += t.tile_bytes() / kRegister * tiles * fetch.lines * 64;
    }
  });
}

}  // namespace

void multiply_amx(std::atomic<int>& next, int threads, const hr_matrix& matrix, const Activations& x,
                  float* out, int64_t ldo, bool accumulate) {
  Call call{matrix, x, out, ldo, accumulate};
  call.t.quantized() ? multiply_quantized(call, threads, next) : multiply_bf16(call, threads, next);
}

}  // namespace hr

#endif
