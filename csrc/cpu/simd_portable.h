// The vector type of machines without a vector unit we know: one Philox call at a time.
#pragma once
#include "../core/numbers.h"
#include "../core/philox.h"
#include "../core/region.h"
#include "vote.h"

namespace rcfast::cpu {
namespace {

struct Portable {
    static constexpr int kPart = core::kLanes;  // elements of one Variates
    static constexpr int kParts = 1;            // Variates of one group
    static constexpr int kUnroll = 1;           // groups in flight
    using Variates = core::Words;
    struct Points {
        float v[kPart];
    };

    struct Keys {
        uint64_t seed;
    };

    template <int Groups>
    static void variates(const Keys& keys, uint64_t id, uint32_t sample, uint32_t block, Variates* k) {
        for (int g = 0; g < Groups; ++g)
            k[g] = core::variates(keys.seed, id, sample, block + static_cast<uint32_t>(g));
    }

    template <class Region>
    static Points points(const Variates& k, const float* base, const float* scale) {
        Points p;
        for (int i = 0; i < kPart; ++i)
            p.v[i] = Region::point({base[i], scale[i]}, static_cast<float>(core::lane(k, i)));
        return p;
    }

    template <class T>
    static void store(T* out, const Points& p) {
        for (int i = 0; i < kPart; ++i) out[i] = core::narrow<T>(p.v[i]);
    }

    template <class T>
    static int64_t argmax(const T* row, int64_t labels) {
        return cpu::argmax(row, labels);
    }
};

}  // namespace
}  // namespace rcfast::cpu
