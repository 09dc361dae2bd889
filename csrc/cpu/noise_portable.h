// Quantiles and sums of machines without a vector unit we know.
#pragma once
#include "../core/noise.h"
#include "../core/quantile.h"
#include "simd_portable.h"

namespace rcfast::cpu {
namespace {

struct NoisePortable {
    using V = Portable;
    using Points = V::Points;
    static constexpr int kStep = V::kPart;  // elements of one Points, made of two Variates
    static constexpr int kUnroll = 1;       // steps in flight
    using Far = uint32_t;                   // which elements of a step lie in the tail

    static Points exponentials(const V::Variates* words) {
        Points p;
        for (int i = 0; i < kStep; ++i)
            p.v[i] = core::exponential_quantile(core::kExponential, word(words, i));
        return p;
    }

    // Those of the tail are not right yet.
    static Points normals(const V::Variates* words, Far& far) {
        Points p;
        far = 0;
        for (int i = 0; i < kStep; ++i) {
            float u;
            p.v[i] = core::normal_middle(word(words, i), u);
            far |= static_cast<Far>(u < 0.0f) << i;
        }
        return p;
    }
    static uint32_t word(const V::Variates* words, int i) {
        return words[i / core::kWords].w[i % core::kWords];
    }

    template <int Steps>
    static uint64_t tails(const Far* far) {
        static_assert(Steps == 1);
        return far[0];
    }
    static int element(int bit) { return bit; }

    template <bool Clamped>
    static Points place(Points p, const float* base, float scale) {
        for (int i = 0; i < kStep; ++i) p.v[i] = core::place<Clamped>(base[i], scale, p.v[i]);
        return p;
    }

    static Points load(const float* from) {
        Points p;
        for (int i = 0; i < kStep; ++i) p.v[i] = from[i];
        return p;
    }

    // Of a segment, zeros up to a multiple of the lanes behind it.
    template <bool Euclidean>
    static float sum(const float* variates, int64_t count) {
        float lanes[core::kSumLanes] = {};
        for (int64_t at = 0; at < count; at += core::kSumLanes)
            for (int j = 0; j < core::kSumLanes; ++j)
                lanes[j] = core::add(lanes[j], core::term<Euclidean>(variates[at + j]));
        for (int half = core::kSumLanes / 2; half > 0; half /= 2)
            for (int j = 0; j < half; ++j) lanes[j] = core::add(lanes[j], lanes[j + half]);
        return lanes[0];
    }
};

}  // namespace
}  // namespace rcfast::cpu
