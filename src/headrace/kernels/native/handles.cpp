// The ABI's handles: pools, scratches, and what this build is.
#include "amx.h"
#include "headrace.h"
#include "scratch.h"
#include "simd.h"

int hr_abi(void) { return HR_ABI; }
const char* hr_isa(void) { return hr::kIsa; }
int hr_permitted(void) {
#ifdef __AMX_TILE__
  return hr::amx::permitted();
#else
  return 1;
#endif
}
hr_pool* hr_pool_new(int threads) { return new hr_pool{hr::Pool(threads)}; }
void hr_pool_free(hr_pool* pool) { delete pool; }
hr_scratch* hr_scratch_new(void) { return new hr_scratch(); }
void hr_scratch_free(hr_scratch* scratch) { delete scratch; }
