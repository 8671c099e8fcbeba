#include "attention_plan.h"

#include <algorithm>
#include <utility>

#include "attention_tile.h"

namespace hr::paged {

constexpr int kItemsOfThread = 8;  // enough of them that no thread waits long for another

int check_spans(const hr_kv& kv, const hr_spans& spans) {
  int row = 0;
  for (int s = 0; s < spans.spans; s++) {
    int rows = spans.row_start[s + 1] - spans.row_start[s], context = spans.context[s];
    if (spans.row_start[s] != row || rows < 1 || context < rows) return HR_ESHAPE;
    row += rows;
    int blocks = (context - 1) / kv.block_tokens + 1;
    if (blocks > spans.max_blocks) return HR_ESHAPE;
    const int32_t* table = spans.blocks + (int64_t)s * spans.max_blocks;
    for (int b = 0; b < blocks; b++) {
      if (table[b] < 0 || table[b] >= kv.blocks) return HR_ESHAPE;
    }
  }
  return row == spans.rows ? HR_OK : HR_ESHAPE;
}

void plan_slots(const hr_kv& kv, const hr_spans& spans, std::vector<int64_t>& slot) {
  slot.resize(spans.rows);
  for (int s = 0; s < spans.spans; s++) {
    const int32_t* table = spans.blocks + (int64_t)s * spans.max_blocks;
    int end = spans.row_start[s + 1], past = spans.context[s] - end;
    for (int row = spans.row_start[s]; row < end; row++) {
      int position = past + row;
      slot[row] = (int64_t)table[position / kv.block_tokens] * kv.block_tokens +
                  position % kv.block_tokens;
    }
  }
}

// Tokens that an item reads; with its rows and KV heads, what it costs.
static int64_t reach(const AttendItem& item, const hr_spans& spans, int group) {
  int end = spans.row_start[item.span + 1] - spans.row_start[item.span];
  return spans.context[item.span] - end + (item.first + item.count - 1) / group + 1;
}

void plan_items(const hr_kv& kv, const hr_spans& spans, int heads, int threads,
                std::vector<AttendItem>& items) {
  const int group = heads / kv.kv_heads;
  const int together = std::max(1, spans.spans * kv.kv_heads / (threads * kItemsOfThread));
  std::vector<std::pair<int64_t, AttendItem>> costs;
  for (int s = 0; s < spans.spans; s++) {
    int count = (spans.row_start[s + 1] - spans.row_start[s]) * group;
    int most = std::clamp(kItemRows / count, 1, together);
    for (int first = 0; first < count; first += kItemRows) {
      for (int head = 0; head < kv.kv_heads; head += most) {
        AttendItem item = {s, head, std::min(most, kv.kv_heads - head), first,
                           std::min(kItemRows, count - first)};
        int64_t rows = (int64_t)item.kv_heads * (item.count + kBlockRows);
        costs.emplace_back(reach(item, spans, group) * rows, item);
      }
    }
  }
  std::stable_sort(costs.begin(), costs.end(), [](auto& a, auto& b) { return a.first > b.first; });
  items.clear();
  for (auto& cost : costs) items.push_back(cost.second);
}

}  // namespace hr::paged
