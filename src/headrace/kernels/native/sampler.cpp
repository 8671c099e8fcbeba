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

#include <cmath>

#include "sampler_ranking.h"
#include "scratch.h"

namespace hr::sampling {
namespace {

constexpr int kFew = 512;  // candidates that are simply sorted

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
  find_best(row, seen, std::min(kFew, row.size), work.bounds, work.keys);
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
    find_best(row, seen, (int)rule.top_k, work.bounds, work.keys);
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
    find_best(row, work.seen, std::min(tops, row.size), work.bounds, work.keys);
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
}  // namespace hr::sampling

extern "C" {

using namespace hr::sampling;

int hr_sample(hr_pool* pool, int rows, int vocab, float* logits, int64_t ld,
              const hr_sample_row* row, int32_t* tokens) {
  if (rows < 0 || vocab < 1 || ld < vocab) return HR_ESHAPE;
  for (int r = 0; r < rows; r++)
    for (int64_t e = 0; e < row[r].edits; e++)
      if (row[r].edit_ids[e] < 0 || row[r].edit_ids[e] >= vocab) return HR_ESHAPE;
  int64_t entries = 0;
  for (int r = 0; r < rows; r++) entries += readings(row[r], vocab);
  each_row(pool_of(pool), rows, entries, [&](hr::Pool* inside, int r) {
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
  each_row(pool_of(pool), rows, kWeighing * vocab * rows, [&](hr::Pool* inside, int r) {
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
