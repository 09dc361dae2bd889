// On torch's own OpenMP threads where they are found, else on a small pool of std::threads.
#pragma once
#include <cstdint>
#include <functional>

namespace rcfast::cpu {

// Calls work(begin, end) on disjoint contiguous ranges that cover [0, items), on up to `threads` threads; the
// caller works too. Ranges hold at least `grain` items, which should be about 10 microseconds of work.
void parallel_for(int64_t items, int64_t grain, int threads,
                  const std::function<void(int64_t, int64_t)>& work);

}  // namespace rcfast::cpu
