// Logits become tokens and log-probabilities: the rules of engine/sampling/reference.py, natively.
//
// Every row is read once for the maximum of each tile. Greedy and small top_k need nothing more: the
// k best lie in the few tiles whose maximum reaches the k-th largest one. Otherwise the row is read
// again for its weights e^((x - max) / temperature), in float64 as the reference has them: without
// an order between tokens their sum and a walk are the draw; with one (top_p, large top_k) a
// histogram over the score finds the two bins in which candidates end and the draw falls, and only
// their entries are sorted.
//
// Invariant: sums are taken in one order, by tile, segment and bin, whatever the threads do. The
// reference adds one entry after the other: so tokens differ only where u lies within rounding
// (about 1e-13 of the total) of a boundary between two of them.
//
// Legend: x scores, w weights, d distance from the best, u the uniform draw, a key = score and id.
#include "sampler.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>
#include <vector>

#include "scratch.h"
#include "simd.h"

namespace {
using namespace hr;

constexpr int kTile = 64;       // entries that share one maximum
constexpr int kSegments = 4;    // of a row, for threads to share
constexpr int kBins = 2048;     // of the histogram, equally wide in score
constexpr int kFew = 512;       // candidates that are simply sorted
constexpr double kDeep = 40.0;  // e^-40 of the best is beyond float64's sight: one bin for all below
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Row {
  const float* x;
  int size;

  int tiles() const { return (size + kTile - 1) / kTile; }
  int first_tile(int segment) const { return (int)((int64_t)tiles() * segment / kSegments); }
  int entries(int tile) const { return std::min(kTile, size - tile * kTile); }
  // 64 entries; the last tile is filled up with `pad` in `buffer`.
  const float* tile(int tile, float pad, float* buffer) const {
    int count = entries(tile);
    const float* from = x + (int64_t)tile * kTile;
    if (count == kTile) return from;
    std::fill(std::copy(from, from + count, buffer), buffer + kTile, pad);
    return buffer;
  }
};

// work(i) for i < n, in any order; on all threads where there is a pool.
template <class Work>
void each(Pool* pool, int n, const Work& work) {
  if (!pool || n == 1) {
    for (int i = 0; i < n; i++) work(i);
    return;
  }
  std::atomic<int> next{0};
  pool->run([&](int) {
    for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) work(i);
  });
}

// --- the first reading ---------------------------------------------------------------------------

struct Extent {
  float max, min;
  bool finite;  // all entries
};

struct Scan {
  Extent extent;
  std::vector<float> tops;  // of each tile
};

Extent scan_segment(const Row& row, int segment, float* tops) {
  F high = set1(-kInfinity), low = set1(kInfinity), poison = zero();
  float buffer[kTile];
  for (int t = row.first_tile(segment); t < row.first_tile(segment + 1); t++) {
    const float* x = row.tile(t, row.x[row.size - 1], buffer);
    F top = load(x);
    HR_UNROLL
    for (int i = 0; i < kTile; i += 16) {
      F v = load(x + i);
      top = max(top, v);
      low = min(low, v);
      poison = fma(v, zero(), poison);  // NaN after an infinity or a NaN
    }
    tops[t] = largest(top);
    high = max(high, top);
  }
  return {largest(high), -largest(sub(zero(), low)), sum(poison) == 0.0f};
}

void scan(Pool* pool, const Row& row, Scan& out) {
  out.tops.resize(row.tiles());
  Extent parts[kSegments];
  each(pool, kSegments, [&](int s) { parts[s] = scan_segment(row, s, out.tops.data()); });
  out.extent = {-kInfinity, kInfinity, true};
  for (const Extent& part : parts) {
    out.extent.max = std::max(out.extent.max, part.max);
    out.extent.min = std::min(out.extent.min, part.min);
    out.extent.finite &= part.finite;
  }
}

// A row's edits, in its logits while this lives; `seen` follows them.
class Edited {
 public:
  Edited(const hr_sample_row& rule, float* x, std::vector<float>& kept) : rule_(rule), x_(x), kept_(kept) {
    kept_.resize(rule.edits);
    for (int64_t e = 0; e < rule.edits; e++) {
      kept_[e] = x[rule.edit_ids[e]];
      x[rule.edit_ids[e]] = rule.edit_scores[e];
    }
  }
  ~Edited() {
    for (int64_t e = 0; e < rule_.edits; e++) x_[rule_.edit_ids[e]] = kept_[e];
  }
  Edited(const Edited&) = delete;
  Edited& operator=(const Edited&) = delete;

  // False where an edit is NaN.
  bool update(const Row& row, Scan& seen) const {
    for (int64_t e = 0; e < rule_.edits; e++) {
      float score = rule_.edit_scores[e];
      if (score != score) return false;
      int tile = (int)(rule_.edit_ids[e] / kTile);
      const float* from = row.x + (int64_t)tile * kTile;
      seen.tops[tile] = *std::max_element(from, from + row.entries(tile));
      seen.extent.min = std::min(seen.extent.min, score);
    }
    seen.extent.max = *std::max_element(seen.tops.begin(), seen.tops.end());
    return true;
  }

 private:
  const hr_sample_row& rule_;
  float* x_;
  std::vector<float>& kept_;
};

int32_t argmax(const Row& row, const Scan& seen) {
  int tile = 0;
  while (seen.tops[tile] != seen.extent.max) tile++;
  int i = tile * kTile;
  while (row.x[i] != seen.extent.max) i++;
  return i;
}

// --- weights ---------------------------------------------------------------------------------------

// a * b + c, rounded once where that is one instruction.
HR_INLINE double fused(double a, double b, double c) {
#ifdef __FP_FAST_FMA
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// e^x for x <= 0: exactly 1 at 0, exactly 0 below -708, elsewhere within about an ulp. Cody-Waite
// reduction by ln 2 in two parts (fdlibm's), Taylor's series to r^13 on |r| < 0.35. No branches, so
// that a loop over it becomes vector code.
HR_INLINE double exponential(double x) {
  const double magic = 0x1.8p52;  // adding it rounds to whole numbers, in the lowest bits
  double shifted = fused(x, 1.44269504088896338700, magic);
  double n = shifted - magic;
  double r = fused(n, -6.93147180369123816490e-01, x);
  r = fused(n, -1.90821492927058770002e-10, r);
  double p = 1.0 / 6227020800;
  p = fused(p, r, 1.0 / 479001600);
  p = fused(p, r, 1.0 / 39916800);
  p = fused(p, r, 1.0 / 3628800);
  p = fused(p, r, 1.0 / 362880);
  p = fused(p, r, 1.0 / 40320);
  p = fused(p, r, 1.0 / 5040);
  p = fused(p, r, 1.0 / 720);
  p = fused(p, r, 1.0 / 120);
  p = fused(p, r, 1.0 / 24);
  p = fused(p, r, 1.0 / 6);
  p = fused(p, r, 0.5);
  p = fused(p, r, 1.0);
  p = fused(p, r, 1.0);
  uint64_t power = std::bit_cast<uint64_t>(shifted) << 52;  // n in the place of an exponent
  double result = std::bit_cast<double>(std::bit_cast<uint64_t>(p) + power);
  return x < -708.0 ? 0.0 : result;
}

struct Weigher {
  double max, temperature;
  double least = 0.0;  // below it a weight counts as 0: min_p where no order is needed
};

// Weights of 64 scores. One copy of the code, so that an entry's weight is the same bits wherever it
// is asked for.
__attribute__((noinline)) void weigh(const Weigher& by, const float* x, double* w) {
  const double max = by.max, temperature = by.temperature, least = by.least;
  for (int i = 0; i < kTile; i++) {
    double weight = exponential(((double)x[i] - max) / temperature);
    w[i] = weight < least ? 0.0 : weight;
  }
}

double total(const double* w) {
  double lanes[8] = {};
  for (int i = 0; i < kTile; i += 8)
    for (int lane = 0; lane < 8; lane++) lanes[lane] += w[i + lane];
  double sum = 0.0;
  for (double lane : lanes) sum += lane;
  return sum;
}

// Weights of any number of scores that lie one after the other.
void weigh_all(const Weigher& by, const std::vector<float>& x, std::vector<double>& w) {
  float last[kTile];
  w.resize((x.size() + kTile - 1) / kTile * kTile);
  for (size_t i = 0; i < x.size(); i += kTile) {
    Row rest{x.data() + i, (int)std::min<size_t>(kTile, x.size() - i)};
    weigh(by, rest.tile(0, -kInfinity, last), w.data() + i);
  }
  w.resize(x.size());
}

// Weights of all entries of each segment, summed.
void weigh_segments(Pool* pool, const Row& row, const Weigher& by, double* masses) {
  each(pool, kSegments, [&](int s) {
    float buffer[kTile];
    double w[kTile], mass = 0.0;
    for (int t = row.first_tile(s); t < row.first_tile(s + 1); t++) {
      weigh(by, row.tile(t, -kInfinity, buffer), w);
      mass += total(w);
    }
    masses[s] = mass;
  });
}

// --- keys: scores in order, equal ones by lowest id ------------------------------------------------

typedef std::vector<uint64_t> Keys;

// Greater for a greater score, then for a lower id; minus zero equals zero.
HR_INLINE uint64_t key_of(float x, int id) {
  uint32_t bits;
  x += 0.0f;
  memcpy(&bits, &x, 4);
  bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u;
  return (uint64_t)bits << 32 | (0xffffffffu - (uint32_t)id);
}

HR_INLINE int32_t id_of(uint64_t key) { return (int32_t)(0xffffffffu - (uint32_t)key); }

HR_INLINE float score_of(uint64_t key) {
  uint32_t bits = (uint32_t)(key >> 32);
  bits ^= bits >> 31 ? 0x80000000u : 0xffffffffu;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

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

// The k best entries, in order.
void find_best(const Row& row, const Scan& seen, int k, Work& work) {
  Keys& keys = work.keys;
  keys.clear();
  float bound = -kInfinity;
  if (k < row.tiles()) {  // k tiles have an entry of at least the k-th largest maximum
    work.bounds = seen.tops;
    auto at = work.bounds.begin() + (k - 1);
    std::nth_element(work.bounds.begin(), at, work.bounds.end(), std::greater<float>());
    bound = *at;
  }
  for (int t = 0; t < row.tiles(); t++) {
    if (seen.tops[t] < bound) continue;
    const float* x = row.x + (int64_t)t * kTile;
    for (int i = 0; i < row.entries(t); i++)
      if (x[i] >= bound) keys.push_back(key_of(x[i], t * kTile + i));
  }
  if (keys.size() > (size_t)k) {
    std::nth_element(keys.begin(), keys.begin() + (k - 1), keys.end(), std::greater<uint64_t>());
    keys.resize(k);
  }
  std::sort(keys.begin(), keys.end(), std::greater<uint64_t>());
}

void weigh_keys(const Weigher& by, Work& work) {
  work.scores.clear();
  for (uint64_t key : work.keys) work.scores.push_back(score_of(key));
  weigh_all(by, work.scores, work.weights);
}

double sum_of(const std::vector<double>& w) {
  double sum = 0.0;
  for (double weight : w) sum += weight;
  return sum;
}

// --- draws -------------------------------------------------------------------------------------------

bool limits_k(const hr_sample_row& rule, int vocab) { return rule.top_k > 0 && rule.top_k < vocab; }

// All tokens take part, in the order of their ids.
int32_t draw_unordered(Pool* pool, const Row& row, const Weigher& by, double u) {
  double masses[kSegments], sum = 0.0, before = 0.0;
  weigh_segments(pool, row, by, masses);
  int last = 0;  // segment with any weight
  for (int s = 0; s < kSegments; s++) {
    sum += masses[s];
    if (masses[s] > 0.0) last = s;
  }
  double goal = u * sum;
  int segment = 0;
  while (segment < last && before + masses[segment] <= goal) before += masses[segment++];

  float buffer[kTile];
  double w[kTile];
  int32_t found = 0;
  for (int t = row.first_tile(segment); t < row.first_tile(segment + 1); t++) {
    weigh(by, row.tile(t, -kInfinity, buffer), w);
    double mass = total(w), running = before;
    if (mass == 0.0) continue;
    for (int i = 0; i < kTile; i++) {
      if (w[i] == 0.0) continue;
      running += w[i];
      found = t * kTile + i;
      if (running > goal) return found;
    }
    if (before + mass > goal) return found;  // sums in another order: the goal is the tile's end
    before += mass;
  }
  return found;  // rounding: the last token with any weight
}

// The best few, sorted in work.keys and weighed; `sum` is the weight of all that take part.
int32_t draw_few(const hr_sample_row& rule, double sum, double u, const Work& work) {
  const std::vector<double>& w = work.weights;
  // top_p: a token is dropped when those before it already reach top_p; the crossing one stays.
  double limit = rule.top_p < 1.0 ? rule.top_p * sum : HUGE_VAL, kept = w[0];
  size_t size = 1;
  while (size < w.size() && kept < limit && w[size] >= rule.min_p) kept += w[size++];
  double goal = u * kept, running = 0.0;
  for (size_t i = 0; i < size; i++) {
    running += w[i];
    if (running > goal || running >= kept) return id_of(work.keys[i]);
  }
  return id_of(work.keys[0]);
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

int32_t draw_ranked(Pool* pool, const Row& row, const Scan& seen, const hr_sample_row& rule,
                    const Weigher& by, double u, Work& work) {
  Ranking ranking(pool, row, seen, by, rule.min_p, work);
  Ranking::Prefix kept = ranking.all();
  if (limits_k(rule, row.size)) kept = ranking.first(rule.top_k);
  if (rule.top_p < 1.0) {
    Ranking::Prefix nucleus = ranking.reaching(rule.top_p * kept.mass);
    if (nucleus.size < kept.size) kept = nucleus;
  }
  if (ranking.strong() < kept.size) kept = ranking.first(ranking.strong());
  return ranking.at(u * kept.mass, kept);
}

// top_p alone: in most rows of a trained model a few tokens are the nucleus, and no histogram is
// needed. -1 where it is larger.
int32_t draw_nucleus(Pool* pool, const Row& row, const Scan& seen, const hr_sample_row& rule,
                     const Weigher& by, double u, Work& work) {
  weigh_all(by, seen.tops, work.weights);
  double least = sum_of(work.weights);  // the maxima of the tiles are part of the whole
  find_best(row, seen, std::min(kFew, row.size), work);
  weigh_keys(by, work);
  double best = sum_of(work.weights);
  if (best < rule.top_p * least) return -1;
  double masses[kSegments], sum = 0.0;
  weigh_segments(pool, row, by, masses);
  for (double mass : masses) sum += mass;
  return best < rule.top_p * sum ? -1 : draw_few(rule, sum, u, work);
}

int32_t draw(Pool* pool, const Row& row, const Scan& seen, const hr_sample_row& rule, Work& work) {
  double u = hr_sample_uniform(rule.seed, rule.choice, rule.position);
  Weigher by{seen.extent.max, rule.temperature};
  if (limits_k(rule, row.size) && rule.top_k <= kFew) {
    find_best(row, seen, (int)rule.top_k, work);
    weigh_keys(by, work);
    return draw_few(rule, sum_of(work.weights), u, work);
  }
  if (limits_k(rule, row.size)) return draw_ranked(pool, row, seen, rule, by, u, work);
  if (rule.top_p < 1.0) {
    int32_t token = draw_nucleus(pool, row, seen, rule, by, u, work);
    return token >= 0 ? token : draw_ranked(pool, row, seen, rule, by, u, work);
  }
  by.least = rule.min_p;
  return draw_unordered(pool, row, by, u);
}

int32_t sample(Pool* pool, float* logits, int vocab, const hr_sample_row& rule, Work& work) {
  Row row{logits, vocab};
  Scan& seen = work.seen;
  scan(pool, row, seen);
  if (!seen.extent.finite) return HR_NOT_FINITE;
  Edited edited(rule, logits, work.kept);
  if (rule.edits && !edited.update(row, seen)) return HR_NOTHING_LEFT;
  if (!std::isfinite(seen.extent.max)) return HR_NOTHING_LEFT;
  return rule.temperature > 0.0 ? draw(pool, row, seen, rule, work) : argmax(row, seen);
}

// --- log-probabilities -------------------------------------------------------------------------------

double logprobs(Pool* pool, const Row& row, int32_t target, int tops, int32_t* ids, double* best,
                Work& work) {
  scan(pool, row, work.seen);
  if (!work.seen.extent.finite) return std::numeric_limits<double>::quiet_NaN();
  double masses[kSegments], mass = 0.0, max = work.seen.extent.max;
  weigh_segments(pool, row, {max, 1.0}, masses);
  for (double part : masses) mass += part;
  double log_mass = std::log(mass);
  if (tops > 0) {
    find_best(row, work.seen, std::min(tops, row.size), work);
    for (size_t i = 0; i < work.keys.size(); i++) {
      ids[i] = id_of(work.keys[i]);
      best[i] = score_of(work.keys[i]) - max - log_mass;
    }
  }
  return row.x[target] - max - log_mass;
}

// Entries read once, in about 0.1 ns each, below which waking a thread costs more than it saves.
constexpr int64_t kWorthwhile = 1 << 20;
constexpr int64_t kWeighing = 12;  // readings that the weights of a whole row cost

// one(pool, r) for all rows: a row a thread, or all threads on one row where rows are few.
template <class OneRow>
void each_row(Pool* pool, int rows, int64_t entries, const OneRow& one) {
  if (!pool || entries < kWorthwhile) {
    for (int r = 0; r < rows; r++) one(nullptr, r);
  } else if (rows < pool->threads()) {
    for (int r = 0; r < rows; r++) one(pool, r);
  } else {
    each(pool, rows, [&](int r) { one(nullptr, r); });
  }
}

int64_t readings(const hr_sample_row& rule, int vocab) {
  if (rule.temperature == 0.0 || (limits_k(rule, vocab) && rule.top_k <= kFew)) return vocab;
  return kWeighing * vocab;
}

Pool* pool_of(hr_pool* pool) { return pool ? &pool->threads : nullptr; }

thread_local Work of_thread;

}  // namespace

extern "C" {

int hr_sample(hr_pool* pool, int rows, int vocab, float* logits, int64_t ld,
              const hr_sample_row* row, int32_t* tokens) {
  if (rows < 0 || vocab < 1 || ld < vocab) return HR_ESHAPE;
  for (int r = 0; r < rows; r++)
    for (int64_t e = 0; e < row[r].edits; e++)
      if (row[r].edit_ids[e] < 0 || row[r].edit_ids[e] >= vocab) return HR_ESHAPE;
  int64_t entries = 0;
  for (int r = 0; r < rows; r++) entries += readings(row[r], vocab);
  each_row(pool_of(pool), rows, entries, [&](Pool* inside, int r) {
    tokens[r] = sample(inside, logits + r * ld, vocab, row[r], of_thread);
  });
  return HR_OK;
}

int hr_sample_logprobs(hr_pool* pool, int rows, int vocab, const float* logits, int64_t ld,
                       const int32_t* targets, const int32_t* tops, int width, double* own,
                       int32_t* best_ids, double* best) {
  if (rows < 0 || vocab < 1 || ld < vocab) return HR_ESHAPE;
  for (int r = 0; r < rows; r++)
    if (targets[r] < 0 || targets[r] >= vocab || tops[r] > width) return HR_ESHAPE;
  each_row(pool_of(pool), rows, kWeighing * vocab * rows, [&](Pool* inside, int r) {
    int64_t at = (int64_t)r * width;
    own[r] = logprobs(inside, {logits + r * ld, vocab}, targets[r], tops[r], best_ids + at, best + at,
                      of_thread);
  });
  return HR_OK;
}

// Philox4x64-10 (Salmon et al. 2011) of counter (position, choice, 0, 0) and key (seed, 0): the 53
// high bits of its first word.
double hr_sample_uniform(uint64_t seed, uint64_t choice, uint64_t position) {
  uint64_t c0 = position, c1 = choice, c2 = 0, c3 = 0, k0 = seed, k1 = 0;
  for (int round = 0; round < 10; round++) {
    unsigned __int128 p0 = (unsigned __int128)c0 * 0xD2E7470EE14C6C93u;
    unsigned __int128 p1 = (unsigned __int128)c2 * 0xCA5A826395121157u;
    c0 = (uint64_t)(p1 >> 64) ^ c1 ^ k0;
    c1 = (uint64_t)p1;
    c2 = (uint64_t)(p0 >> 64) ^ c3 ^ k1;
    c3 = (uint64_t)p0;
    k0 += 0x9E3779B97F4A7C15u;
    k1 += 0xBB67AE8584CAA73Bu;
  }
  return (double)(c0 >> 11) * 0x1p-53;
}

}  // extern "C"
