// A step's spans → where its rows go and what its attention consists of.
#pragma once
#include "attention.h"
#include "kv.h"

namespace hr::paged {

// HR_OK, or HR_ESHAPE where a span is empty, longer than its context or beyond its blocks.
int check_spans(const hr_kv&, const hr_spans&);

void plan_slots(const hr_kv&, const hr_spans&, std::vector<int64_t>& slot);

// Tiles of all spans and KV heads, the costliest first: what is taken last is short, so that no
// thread waits long for another at the end. A tile of few rows takes several KV heads together,
// whose pages are neighbours in memory, as far as that leaves enough tiles for the threads.
void plan_items(const hr_kv&, const hr_spans&, int heads, int threads, std::vector<AttendItem>& items);

}  // namespace hr::paged
