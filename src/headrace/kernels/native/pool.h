// A few threads that run one function together: fork, join, barrier, shared counters.
//
// Waiting spins for a bounded time, yielding its core to whoever is queued for it, then sleeps in
// the kernel: between steps the cores belong to the other processes of the service, and a thread
// that lost its core does not burn its neighbour's.
// Work is handed out in chunks by an atomic counter, so a core that somebody else takes for a while
// does less instead of making everybody wait.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "simd.h"

namespace hr {

class Pool {
 public:
  explicit Pool(int threads) : threads_(threads < 1 ? 1 : threads) {
    for (int t = 1; t < threads_; t++) others_.emplace_back([this, t] { serve(t); });
  }
  ~Pool() {
    stop_ = true;
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    for (auto& other : others_) other.join();
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // work(thread) on every thread, the caller being thread 0; returns when all have.
  template <class Work>
  void run(const Work& work) {
    if (threads_ == 1) return work(0);
    call_ = [](const void* w, int t) { (*static_cast<const Work*>(w))(t); };
    work_ = &work;
    busy_.store(threads_ - 1, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    work(0);
    wait_while(busy_, [](int busy) { return busy != 0; });
  }

  // Inside run: nobody passes before all have come.
  void barrier() {
    if (threads_ == 1) return;
    uint32_t round = rounds_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      rounds_.fetch_add(1, std::memory_order_release);
      rounds_.notify_all();
    } else {
      wait_while(rounds_, [round](uint32_t now) { return now == round; });
    }
  }

 private:
  static constexpr int kSpins = 4000;  // about 100 microseconds
  static constexpr int kYieldFrom = 500, kYieldEvery = 50;  // a yield costs microseconds itself

  template <class T, class Waits>
  static void wait_while(std::atomic<T>& value, Waits waits) {
    for (int spins = 0;; spins++) {
      T now = value.load(std::memory_order_acquire);
      if (!waits(now)) return;
      if (spins < kSpins) {
        // Whoever is waited for may be queued behind this very thread, where another process has
        // the other core: without the yield each barrier costs a whole spin.
        if (spins >= kYieldFrom && spins % kYieldEvery == 0) {
          std::this_thread::yield();
        } else {
          pause();
        }
      } else {
        value.wait(now, std::memory_order_acquire);
      }
    }
  }

  void serve(int thread) {
    uint32_t seen = 0;
    for (;;) {
      wait_while(generation_, [seen](uint32_t now) { return now == seen; });
      seen++;
      if (stop_) return;
      call_(work_, thread);
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_all();
    }
  }

  const int threads_;
  std::vector<std::thread> others_;
  std::atomic<uint32_t> generation_{0};
  std::atomic<int> busy_{0};
  std::atomic<uint32_t> rounds_{0};
  std::atomic<int> arrived_{0};
  std::atomic<bool> stop_{false};
  void (*call_)(const void*, int) = nullptr;
  const void* work_ = nullptr;
};

}  // namespace hr
