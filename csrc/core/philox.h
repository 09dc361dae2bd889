// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): one call.
#pragma once
#include "config.h"
#include "numbers.h"

namespace rcfast::core {
namespace {

constexpr uint32_t kMul0 = 0xD2511F53u, kMul1 = 0xCD9E8D57u;
constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
constexpr int kRounds = 10;
constexpr int kLanes = 8;  // 16-bit variates of one call

struct Words {
    uint32_t w[4];
};

// The keys of the rounds, one for all points of a seed: a host computes them once, not each thread anew.
struct RoundKeys {
    uint32_t k[kRounds][2];
};

RCFAST_HD RoundKeys round_keys(uint32_t key0, uint32_t key1) {
    RoundKeys keys;
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (int round = 0; round < kRounds; ++round) {
        keys.k[round][0] = key0 + static_cast<uint32_t>(round) * kWeyl0;
        keys.k[round][1] = key1 + static_cast<uint32_t>(round) * kWeyl1;
    }
    return keys;
}

RCFAST_HD RoundKeys round_keys(uint64_t seed) {
    return round_keys(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

// One instruction on sm_90; from a cast and a product nvcc makes two, the second of which adds 0 to the upper
// half.
RCFAST_HD uint64_t product(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
    uint64_t both;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(both) : "r"(a), "r"(b));
    return both;
#else
    return static_cast<uint64_t>(a) * b;
#endif
}

RCFAST_HD Words philox4x32_10(Words c, const RoundKeys& keys) {
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (int round = 0; round < kRounds; ++round) {
        const uint64_t p0 = product(c.w[0], kMul0), p1 = product(c.w[2], kMul1);
        c = Words{{static_cast<uint32_t>(p1 >> 32) ^ c.w[1] ^ keys.k[round][0], static_cast<uint32_t>(p1),
                   static_cast<uint32_t>(p0 >> 32) ^ c.w[3] ^ keys.k[round][1], static_cast<uint32_t>(p0)}};
    }
    return c;
}

// The eight variates of elements 8*block .. 8*block+7 of one sample of one example.
RCFAST_HD Words variates(const RoundKeys& keys, uint64_t id, uint32_t sample, uint32_t block) {
    return philox4x32_10(Words{{block, sample, static_cast<uint32_t>(id), static_cast<uint32_t>(id >> 32)}},
                         keys);
}

RCFAST_HD Words variates(uint64_t seed, uint64_t id, uint32_t sample, uint32_t block) {
    return variates(round_keys(seed), id, sample, block);
}

RCFAST_HD uint32_t lane(const Words& words, int index) {
    return index & 1 ? words.w[index >> 1] >> 16 : words.w[index >> 1] & 0xFFFFu;
}

// 2^23 + the variate, exact: its bits in the mantissa, for conversions from integers are slow on a GPU.
// `exponent` is kExponent.
constexpr uint32_t kExponent = 0x4B00u;
RCFAST_HD float raised_lane(const Words& words, int index, uint32_t exponent) {
#if defined(__CUDA_ARCH__)
    return float_of(__byte_perm(words.w[index >> 1], exponent, index & 1 ? 0x5432 : 0x5410));
#else
    return float_of(exponent << 16 | lane(words, index));
#endif
}

}  // namespace
}  // namespace rcfast::core
