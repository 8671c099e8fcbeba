// The C ABI of the machine's walls: what kernels/probe.py calls through ctypes.
#pragma once
#include "headrace.h"

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

// Bytes a second of one pass over the data, each thread streaming its own part.
double hr_probe_read(hr_pool*, const void* data, int64_t bytes);

// Operations a second (a multiply-add is two) of this build's dot product on all threads, operands
// in registers: HR_INT8 or HR_BF16. Some milliseconds.
double hr_probe_dot(hr_pool*, int format);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
