// Work memory that grows and is reused: 64-byte aligned, in huge pages where it is large.
//
// Products walk many rows at once; in 4 KiB pages each would cost a miss of the address cache.
#pragma once
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

namespace hr {

class Memory {
 public:
  Memory() = default;
  ~Memory() { std::free(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  uint8_t* data() { return data_; }
  const uint8_t* data() const { return data_; }

  // At least so many bytes; what was there is lost where that means new memory.
  void reserve(int64_t bytes) {
    if (bytes <= size_) return;
    std::free(data_);
    size_t alignment = bytes >= kHugePage ? kHugePage : 64;
    size_ = (bytes + (int64_t)alignment - 1) / (int64_t)alignment * (int64_t)alignment;
    data_ = static_cast<uint8_t*>(std::aligned_alloc(alignment, (size_t)size_));
    if (!data_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (bytes >= kHugePage) madvise(data_, (size_t)size_, MADV_HUGEPAGE);
#endif
  }

 private:
  static constexpr int64_t kHugePage = 2 << 20;

  uint8_t* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace hr
