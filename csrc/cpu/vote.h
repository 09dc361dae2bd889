// Histogram of the argmax of logits on the CPU: plain loops over 16 lanes that the compiler turns into
// vectors.
#pragma once
#include <cstdlib>
#include <cstring>
#include <new>

#include "../core/argmax.h"
#include "../core/dtype.h"
#include "../core/numbers.h"
#include "kernel_table.h"

namespace rcfast::cpu {
namespace {

constexpr int kVoteLanes = 16;
constexpr int64_t kSearch = 64;

// The label of one row, or -1 for a row with a NaN.
template <class T>
inline int64_t argmax(const T* row, int64_t labels) {
    float best[kVoteLanes];
    int32_t nan[kVoteLanes];
    for (int j = 0; j < kVoteLanes; ++j) {
        best[j] = core::kLowest;
        nan[j] = 0;
    }
    int64_t at = 0;
    for (; at + kVoteLanes <= labels; at += kVoteLanes)
        for (int j = 0; j < kVoteLanes; ++j) {
            const float v = core::widen(row[at + j]);
            nan[j] |= v != v;
            best[j] = v > best[j] ? v : best[j];
        }
    for (int j = 0; at + j < labels; ++j) {
        const float v = core::widen(row[at + j]);
        nan[j] |= v != v;
        best[j] = v > best[j] ? v : best[j];
    }
    float top = best[0];
    int32_t bad = nan[0];
    for (int j = 1; j < kVoteLanes; ++j) {
        bad |= nan[j];
        top = best[j] > top ? best[j] : top;
    }
    if (bad) return -1;
    for (at = 0; at + kSearch <= labels; at += kSearch) {  // blocks, so that the search is vectors too
        int32_t found = 0;
        for (int j = 0; j < kSearch; ++j) found |= core::widen(row[at + j]) == top;
        if (found) break;
    }
    for (; at < labels; ++at)
        if (core::widen(row[at]) == top) return at;
    return -1;  // not reached: top is one of the row
}

template <class V, class T>
void vote_range(const Vote& a, int64_t begin, int64_t end) {
    const T* logits = static_cast<const T*>(a.logits);
    // Votes of one segment are gathered here, so that threads meet in counts once a segment, not once a vote.
    int32_t* tally = static_cast<int32_t*>(std::calloc(static_cast<size_t>(a.labels), sizeof(int32_t)));
    if (!tally) throw std::bad_alloc();
    for (int64_t row = begin; row < end;) {
        const int64_t example = row / a.samples, sample = row % a.samples;
        int segment = 0;
        while (segment < a.segments - 1 && sample >= a.ends[segment]) ++segment;
        const int64_t last = example * a.samples + (segment < a.segments - 1 ? a.ends[segment] : a.samples);
        const int64_t stop = end < last ? end : last;
        for (; row < stop; ++row) {
            const int64_t label = V::argmax(logits + row * a.labels, a.labels);
            if (label >= 0) ++tally[label];
        }
        int32_t* counts = a.counts + (example * a.segments + segment) * a.labels;
        for (int64_t i = 0; i < a.labels; ++i)
            if (tally[i]) __atomic_fetch_add(counts + i, tally[i], __ATOMIC_RELAXED);
        std::memset(tally, 0, static_cast<size_t>(a.labels) * sizeof(int32_t));
    }
    std::free(tally);
}

template <class V>
void vote_rows(const Vote& a, int64_t begin, int64_t end) {
    core::with_type(a.dtype, [&](auto element) { vote_range<V, decltype(element)>(a, begin, end); });
}

}  // namespace
}  // namespace rcfast::cpu
