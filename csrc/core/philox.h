// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): one call.
#pragma once
#include "config.h"

namespace rcfast::core {
namespace {

constexpr uint32_t kMul0 = 0xD2511F53u, kMul1 = 0xCD9E8D57u;
constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
constexpr int kRounds = 10;
constexpr int kLanes = 8;  // 16-bit variates of one call

struct Words {
    uint32_t w[4];
};

RCFAST_HD Words philox4x32_10(Words c, uint32_t key0, uint32_t key1) {
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (int round = 0; round < kRounds; ++round) {
        const uint64_t p0 = static_cast<uint64_t>(kMul0) * c.w[0];
        const uint64_t p1 = static_cast<uint64_t>(kMul1) * c.w[2];
        c = Words{{static_cast<uint32_t>(p1 >> 32) ^ c.w[1] ^ key0, static_cast<uint32_t>(p1),
                   static_cast<uint32_t>(p0 >> 32) ^ c.w[3] ^ key1, static_cast<uint32_t>(p0)}};
        key0 += kWeyl0;
        key1 += kWeyl1;
    }
    return c;
}

// The eight variates of elements 8*block .. 8*block+7 of one sample of one example.
RCFAST_HD Words variates(uint64_t seed, uint64_t id, uint32_t sample, uint32_t block) {
    return philox4x32_10(Words{{block, sample, static_cast<uint32_t>(id), static_cast<uint32_t>(id >> 32)}},
                         static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

RCFAST_HD uint32_t lane(const Words& words, int index) {
    return index & 1 ? words.w[index >> 1] >> 16 : words.w[index >> 1] & 0xFFFFu;
}

}  // namespace
}  // namespace rcfast::core
