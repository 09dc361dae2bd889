// L2 distances of points from their example, the sum in the order of core/noise.h.
#pragma once
#include "../core/dtype.h"
#include "../core/noise.h"
#include "../core/numbers.h"
#include "kernel_table.h"
#include "sample_noise.h"

namespace rcfast::cpu {
namespace {

template <class N, class T>
void distance_range(const Distance& a, int64_t begin, int64_t end) {
    Buffer<float> moves(room(a.n));
    for (int64_t i = a.n; i < a.n + core::kSumLanes; ++i) moves[i] = 0.0f;
    const int64_t pixels = a.n / a.channels;
    for (int64_t point = begin; point < end; ++point) {
        const float* x = a.x + point / a.samples * a.n;
        const T* row = static_cast<const T*>(a.points) + point * a.n;
        for (int64_t c = 0; c < a.channels; ++c)
            for (int64_t p = 0; p < pixels; ++p)
                moves[c * pixels + p] = core::add(core::widen(row[p * a.channels + c]), -x[c * pixels + p]);
        a.out[point] = static_cast<float>(core::root(sum_of<N>(moves, a.n, true)));
    }
}

template <class N>
void distance_points(const Distance& a, int64_t begin, int64_t end) {
    core::with_type(a.dtype, [&](auto element) { distance_range<N, decltype(element)>(a, begin, end); });
}

}  // namespace
}  // namespace rcfast::cpu
