// Weighted votes on the CPU: plain loops that the compiler turns into vectors.
#pragma once
#include <cstring>
#include <vector>

#include "../core/dtype.h"
#include "../core/softmax.h"
#include "kernel_table.h"
#include "vote.h"

namespace rcfast::cpu {
namespace {

// What one row of logits adds to its example's totals; `units` is room for a row.
template <class V, class T>
inline bool add_row(const VoteSoft& a, int64_t row, int32_t* units, int64_t* totals) {
    const T* logits = static_cast<const T*>(a.logits) + row * a.labels;
    const int64_t top = V::argmax(logits, a.labels);
    if (top < 0) return false;
    if (a.mode == Soft::weighted) {
        totals[top] += a.weights[row];
        return true;
    }
    const float greatest = core::widen(logits[top]);
    int64_t sum = 0;
    for (int64_t i = 0; i < a.labels; ++i) {
        units[i] = core::exp_units(core::widen(logits[i]), greatest);
        sum += units[i];
    }
    const float scale = core::share_scale(sum);
    if (a.mode == Soft::softmax) {
        for (int64_t i = 0; i < a.labels; ++i) totals[i] += core::share(units[i], scale);
        return true;
    }
    units[top] = 0;
    int32_t second = 0;
    for (int64_t i = 0; i < a.labels; ++i) second = units[i] > second ? units[i] : second;
    totals[top] += core::share(1 << core::kFine, scale) - core::share(second, scale);
    return true;
}

template <class V, class T>
void vote_soft_range(const VoteSoft& a, int64_t begin, int64_t end) {
    std::vector<int32_t> units(static_cast<size_t>(a.labels));
    std::vector<int64_t> totals(static_cast<size_t>(a.labels));  // of one example, as in vote_range
    for (int64_t row = begin; row < end;) {
        const int64_t example = row / a.samples;
        const int64_t stop = end < (example + 1) * a.samples ? end : (example + 1) * a.samples;
        int32_t cast = 0;
        for (; row < stop; ++row) cast += add_row<V, T>(a, row, units.data(), totals.data());
        __atomic_fetch_add(a.cast + example, cast, __ATOMIC_RELAXED);
        for (int64_t i = 0; i < a.labels; ++i)
            if (totals[i]) __atomic_fetch_add(a.totals + example * a.labels + i, totals[i], __ATOMIC_RELAXED);
        std::memset(totals.data(), 0, totals.size() * sizeof(int64_t));
    }
}

template <class V>
void vote_soft_rows(const VoteSoft& a, int64_t begin, int64_t end) {
    core::with_type(a.dtype, [&](auto element) { vote_soft_range<V, decltype(element)>(a, begin, end); });
}

}  // namespace
}  // namespace rcfast::cpu
