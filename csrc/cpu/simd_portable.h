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
    static constexpr int kCalls = 1;            // Philox calls of one group
    static constexpr int kUnroll = 1;           // groups in flight
    using Variates = core::Words;
    struct Points {
        float v[kPart];
    };

    struct Keys {
        uint64_t seed;
    };

    // What all samples of an example have in common in a group of calls, and all groups in a sample.
    struct Calls {
        uint32_t block;
    };
    struct Sample {
        uint64_t id;
        uint32_t sample;
        Sample(const Keys&, uint64_t id_, uint32_t sample_) : id(id_), sample(sample_) {}
    };

    // The calls from `block` on.
    static void prepare(const Keys&, uint64_t, uint32_t block, int64_t groups, Calls* calls) {
        for (int64_t g = 0; g < groups; ++g) calls[g].block = block + static_cast<uint32_t>(g);
    }

    template <int Groups>
    static void variates(const Keys& keys, const Sample& sample, const Calls* calls, Variates* k) {
        for (int g = 0; g < Groups; ++g)
            k[g] = core::variates(keys.seed, sample.id, sample.sample, calls[g].block);
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
