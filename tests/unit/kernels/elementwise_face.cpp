// elementwise.h as a C library, for test_native_elementwise.py.
#include "elementwise.h"

#pragma GCC visibility push(default)
extern "C" {
void face_power2(int n, const float* x, float* y) {
  for (int i = 0; i < n; i += 16) hr::store(y + i, hr::power2(hr::load(x + i)));
}
void face_rms_norm(const float* x, const float* weight, int n, float eps, float* y) {
  hr::rms_norm(x, weight, n, eps, y);
}
void face_rotate(float* x, const float* cos, const float* sin, int head_dim) {
  hr::rotate(x, cos, sin, head_dim);
}
void face_silu_multiply(const float* gate, const float* up, int n, float* y) {
  hr::silu_multiply(gate, up, n, y);
}
}
#pragma GCC visibility pop
