// How threads share the units of a product: each takes some from a counter until none is left.
#pragma once
#include <algorithm>
#include <atomic>

namespace hr {

struct Range {
  int from, to;
};

// Units in shares that shrink as the work comes to its end: long, so that memory is read in long
// streams, and at last short, so that threads end together though one had its core taken for a while.
class Shares {
 public:
  // `least`: units that a thread takes at a time, at least.
  Shares(int units, int least, int threads, std::atomic<int>& next)
      : units_(units), least_(least), threads_(threads), next_(next) {}

  Range take() {
    for (int wanted = next_.fetch_add(1, std::memory_order_relaxed); seen_ <= wanted; seen_++) {
      last_ = {last_.to, last_.to + std::max(least_, (units_ - last_.to) / (4 * threads_))};
    }
    return {std::min(last_.from, units_), std::min(last_.to, units_)};
  }

 private:
  int units_, least_, threads_;
  std::atomic<int>& next_;
  int seen_ = 0;  // shares that last_ has come past
  Range last_{0, 0};
};

// run(unit, next) for all units of this thread: `next` is the one to fetch meanwhile.
template <class Run>
void walk(Shares shares, const Run& run) {
  for (Range now = shares.take(); now.from < now.to;) {
    for (int unit = now.from; unit < now.to - 1; unit++) run(unit, unit + 1);
    Range then = shares.take();  // early, to fetch its first lines
    run(now.to - 1, then.from < then.to ? then.from : now.to - 1);
    now = then;
  }
}

}  // namespace hr
