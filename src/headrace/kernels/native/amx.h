// The tile unit of processors with AMX (Sapphire Rapids and later): tmm0..7, up to 16 rows of 64
// bytes each, whose product takes what some 250 dot products of AVX-512 do.
//
// A process must be let use it by its kernel, once; a thread says what shapes its registers have
// before it uses them, and should give them up afterwards, or each switch to another thread saves 8
// KiB more. `Session` is the span between the two.
//
// Products go C[row][output] += sum over k of A[row][k] * B[k][output]: A by rows, B in the order of
// packed weights, [k / 4][output][4] bytes or [k / 2][output][2] bf16, C as int32 or float.
#pragma once
#if defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#include "simd.h"

namespace hr::amx {

// What the eight registers hold here.
constexpr int kC = 0, kA = 4, kB = 6;  // four, two and two of them

// Asks the kernel; false: it knows no tiles, or lets this process have none. Threads started before
// and processes forked later have what their process has.
inline bool permitted() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// From here to the end of the scope this thread's registers are: A `rows` rows of `bytes` bytes, B
// bytes / 4 rows of 16 outputs, C `rows` rows of 16 outputs.
class Session {
 public:
  Session(int rows, int bytes) {
    Shapes shapes{};
    shapes.palette = 1;
    for (int i = kC; i < kA; i++) shapes.rows[i] = (uint8_t)rows, shapes.bytes[i] = 64;
    for (int i = kA; i < kB; i++) shapes.rows[i] = (uint8_t)rows, shapes.bytes[i] = (uint16_t)bytes;
    for (int i = kB; i < 8; i++) shapes.rows[i] = (uint8_t)(bytes / 4), shapes.bytes[i] = 64;
    asm volatile("ldtilecfg %0" ::"m"(shapes));
  }
  ~Session() { asm volatile("tilerelease"); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

 private:
  struct Shapes {  // as the instruction reads it
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  };
  static_assert(sizeof(Shapes) == 64);
};

// Rows lie `stride` bytes apart.
template <int Register>
HR_INLINE void load(const void* p, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(Register) : "memory");
}
template <int Register>
HR_INLINE void store(void* p, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(Register) : "memory");
}
template <int Register>
HR_INLINE void clear() {
  asm volatile("tilezero %%tmm%c0" ::"i"(Register));
}
// C += A * B: signed bytes into int32, exactly.
template <int C, int A, int B>
HR_INLINE void dot_bytes() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}
// C += A * B: bf16 into float, a pair of columns after the other.
template <int C, int A, int B>
HR_INLINE void dot_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

}  // namespace hr::amx
#endif
