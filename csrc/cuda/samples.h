// What both samplers share: how samples are spread over threads, and which seed and first sample they take.
#pragma once
#include "../core/philox.h"

namespace rcfast::cuda {
namespace {

constexpr int kSamplesPerThread = 8;  // amortises reading x, which is twice a bf16 point

// Samples that are walked side by side, each by threads of its own.
template <class Args>
RCFAST_HD int64_t side_by_side(const Args& a) {
    return (a.samples + kSamplesPerThread - 1) / kSamplesPerThread;
}

template <class Args>
RCFAST_HD uint32_t first_sample(const Args& a) {
    return a.first_sample_tensor ? static_cast<uint32_t>(*a.first_sample_tensor) : a.first_sample;
}

// `of_seed` are the keys of a.seed.
template <class Args>
RCFAST_HD core::RoundKeys keys_of(const Args& a, const core::RoundKeys& of_seed) {
    return a.seed_tensor ? core::round_keys(static_cast<uint64_t>(*a.seed_tensor)) : of_seed;
}

}  // namespace
}  // namespace rcfast::cuda
