// All entries of a row in order, best first, without sorting them: by bins of nearly equal score.
#pragma once
#include <cfloat>

#include "sampler_weights.h"

namespace hr::sampling {

constexpr int kBins = 2048;     // of the histogram, equally wide in score
constexpr double kDeep = 40.0;  // e^-40 of the best is beyond float64's sight: one bin for all below

// Work memory of one thread's row; kept, because it is megabytes and comes again each step.
struct Work {
  Scan seen;
  std::vector<float> kept;
  std::vector<float> bounds, scores;
  std::vector<double> weights;
  Keys keys;
  std::vector<double> mass;    // [kSegments][kBins]
  std::vector<int32_t> count;  // [kSegments][kBins]
};

inline void weigh_keys(const Weigher& by, Work& work) {
  work.scores.clear();
  for (uint64_t key : work.keys) work.scores.push_back(score_of(key));
  weigh_all(by, work.scores, work.weights);
}

// All entries of a row in order, best first, without sorting them: by bins of nearly equal score, of
// which single ones are opened.
class Ranking {
 public:
  // The first entries, and the sum of their weights.
  struct Prefix {
    int64_t size;
    double mass;
  };

  Ranking(Pool* pool, const Row& row, const Scan& seen, const Weigher& by, double min_p, Work& work)
      : row_(row), seen_(seen), by_(by), work_(work) {
    double range = std::min((double)seen.extent.max - seen.extent.min, kDeep * by.temperature);
    scale_ = std::max((float)((kBins - 1) / std::max(range, 1e-30)), FLT_MIN);
    work.mass.assign(kSegments * kBins, 0.0);
    work.count.assign(kSegments * kBins, 0);
    int64_t strong[kSegments];
    each(pool, kSegments, [&](int s) { strong[s] = fill(s, min_p); });
    for (int s = 1; s < kSegments; s++) {
      for (int b = 0; b < kBins; b++) {
        work.mass[b] += work.mass[s * kBins + b];
        work.count[b] += work.count[s * kBins + b];
      }
    }
    for (int64_t part : strong) strong_ += part;
    for (int b = 0; b < kBins; b++) mass_ += work.mass[b];
  }

  Prefix all() const { return {row_.size, mass_}; }
  int64_t strong() const { return strong_; }  // entries with a weight of at least min_p

  Prefix first(int64_t size) {
    Prefix before{0, 0.0};
    int bin = 0;
    while (bin < kBins && before.size + work_.count[bin] <= size) add(before, bin++);
    if (before.size == size) return before;
    open(bin);
    for (int i = 0; before.size < size; i++) add_entry(before, i);
    return before;
  }

  // The fewest, but at least one, whose weights reach the limit.
  Prefix reaching(double limit) {
    Prefix before{0, 0.0};
    int bin = 0;
    while (bin < kBins && (before.mass + work_.mass[bin] < limit || !work_.count[bin]))
      add(before, bin++);
    if (bin == kBins) return before;
    open(bin);
    for (int i = 0; i < work_.count[bin] && (!before.size || before.mass < limit); i++)
      add_entry(before, i);
    return before;
  }

  // The entry of a prefix at which the running sum exceeds the goal; rounding aside there is one,
  // else it is the last with any weight.
  int32_t at(double goal, const Prefix& kept) {
    Prefix before{0, 0.0}, running{0, 0.0};
    int bin = 0;
    for (int b = 0; b < kBins && before.size < kept.size; add(before, b++)) {
      if (work_.mass[b] > 0.0) {
        bin = b;
        running = before;
      }
      if (before.mass + work_.mass[b] > goal) break;
    }
    open(bin);
    int i = 0;
    for (add_entry(running, 0); running.mass <= goal && running.size < kept.size;) {
      if (i + 1 == work_.count[bin] || work_.weights[i + 1] == 0.0) break;
      add_entry(running, ++i);
    }
    return id_of(work_.keys[i]);
  }

 private:
  void bins_of(const float* x, int32_t* bins) const {
    F max_x = set1(seen_.extent.max), scale = set1(scale_), last = set1(kBins - 1);
    HR_UNROLL
    for (int i = 0; i < kTile; i += 16)
      istore(bins + i, to_int(min(mul(sub(max_x, load(x + i)), scale), last)));
  }

  int64_t fill(int segment, double min_p) {
    double* mass = work_.mass.data() + segment * kBins;
    int32_t* count = work_.count.data() + segment * kBins;
    float buffer[kTile];
    double w[kTile];
    int32_t bins[kTile];
    int64_t strong = 0;
    for (int t = row_.first_tile(segment); t < row_.first_tile(segment + 1); t++) {
      const float* x = row_.tile(t, -kInfinity, buffer);
      bins_of(x, bins);
      weigh(by_, x, w);
      int entries = row_.entries(t);
      for (int i = 0; i < entries; i++) {
        mass[bins[i]] += w[i];
        count[bins[i]]++;
        strong += w[i] >= min_p;
      }
    }
    return strong;
  }

  void add(Prefix& prefix, int bin) const {
    prefix.size += work_.count[bin];
    prefix.mass += work_.mass[bin];
  }

  void add_entry(Prefix& prefix, int i) const {
    prefix.size++;
    prefix.mass += work_.weights[i];
  }

  // Sort and weigh one bin's entries into work.keys and work.weights.
  void open(int bin) {
    if (bin == open_) return;
    open_ = bin;
    work_.keys.clear();
    float buffer[kTile], tops[kTile];
    int32_t bins[kTile], best[kTile];
    for (int t = 0; t < row_.tiles(); t++) {
      if (t % kTile == 0) {  // the best bin of each of the next tiles
        Row next{seen_.tops.data() + t, std::min(kTile, row_.tiles() - t)};
        bins_of(next.tile(0, -kInfinity, tops), best);
      }
      if (best[t % kTile] > bin) continue;
      const float* x = row_.tile(t, -kInfinity, buffer);
      bins_of(x, bins);
      int entries = row_.entries(t);
      for (int i = 0; i < entries; i++)
        if (bins[i] == bin) work_.keys.push_back(key_of(x[i], t * kTile + i));
    }
    std::sort(work_.keys.begin(), work_.keys.end(), std::greater<uint64_t>());
    weigh_keys(by_, work_);
  }

  const Row& row_;
  const Scan& seen_;
  const Weigher& by_;
  Work& work_;
  float scale_;
  double mass_ = 0.0;
  int64_t strong_ = 0;
  int open_ = -1;
};

}  // namespace hr::sampling
