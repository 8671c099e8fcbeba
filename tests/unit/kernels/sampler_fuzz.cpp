// Random and extreme rows through hr_sample and hr_sample_logprobs, for a build with sanitizers.
// Prints how many calls it made; a result outside its range ends it with a status.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "sampler.h"
#include "scratch.h"

static std::mt19937 draws(1);

template <class T, size_t N>
static T any(const T (&from)[N]) {
  return from[draws() % N];
}

static const float kExtremes[] = {0.f, -0.f, 3e38f, -3e38f, NAN, INFINITY, -INFINITY, 30.f};
static const double kTemperatures[] = {0, 1e-310, 1e-30, 0.3, 1, 50, 1e30, 1e300};
static const double kTopP[] = {0, 1e-9, 0.5, 0.95, 0.9999999, 1};
static const double kMinP[] = {0, 1e-9, 0.1, 1};
static const int64_t kTopK[] = {0, 1, 2, 63, 64, 65, 511, 512, 513, 900, 1 << 20};
static const int kTops[] = {0, 1, 5, 20, 700};
static const int kVocabs[] = {1,   2,   15,  16,  17,   63,   64,    65,    127,
                              129, 255, 257, 513, 1031, 4097, 20011, 151936};

static void fill(std::vector<float>& x, float spread) {
  std::normal_distribution<float> normal;
  for (float& value : x) value = spread * normal(draws);
  for (int i = draws() % 4; i > 0; i--) x[draws() % x.size()] = any(kExtremes);
}

static int one_call(hr_pool* pool, int vocab) {
  int rows = 1 + draws() % 5;
  int64_t ld = vocab + draws() % 3;
  std::vector<float> x((rows - 1) * ld + vocab), scores(1 + draws() % vocab);
  fill(x, std::pow(10.f, (float)(draws() % 6) - 3));
  fill(scores, 1.f);
  if (draws() % 5 == 0) std::fill(scores.begin(), scores.end(), -INFINITY);
  std::vector<int64_t> ids(vocab);
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), draws);
  std::vector<float> before = x;

  std::vector<hr_sample_row> rules(rows);
  for (auto& rule : rules)
    rule = {ids.data(),
            scores.data(),
            draws() % 3 ? 0 : (int64_t)scores.size(),
            any(kTemperatures),
            any(kTopP),
            any(kMinP),
            draws(),
            draws() % 3,
            draws() % 9,
            any(kTopK)};
  std::vector<int32_t> tokens(rows);
  if (hr_sample(pool, rows, vocab, x.data(), ld, rules.data(), tokens.data())) return 1;
  for (int token : tokens)
    if (token < HR_NOTHING_LEFT || token >= vocab) return 2;
  if (memcmp(x.data(), before.data(), x.size() * sizeof(float))) return 4;

  std::vector<int32_t> targets(rows), tops(rows);
  int width = 0;
  for (int r = 0; r < rows; r++) {
    targets[r] = draws() % vocab;
    tops[r] = std::min(vocab, any(kTops));
    width = std::max(width, tops[r]);
  }
  std::vector<double> own(rows), best(rows * width);
  std::vector<int32_t> best_ids(rows * width);
  if (hr_sample_logprobs(pool, rows, vocab, x.data(), ld, targets.data(), tops.data(), width,
                         own.data(), best_ids.data(), best.data()))
    return 3;
  return 0;
}

int main() {
  hr_pool pool{hr::Pool(2)};
  int calls = 0;
  for (int vocab : kVocabs) {
    for (int turn = 0; turn < (vocab > 20000 ? 6 : 100); turn++, calls++)
      if (int status = one_call(draws() % 2 ? &pool : nullptr, vocab)) return status;
  }
  printf("%d\n", calls);
}
