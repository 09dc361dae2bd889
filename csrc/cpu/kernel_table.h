// The loops, once per instruction set: each unit isa_*.cpp compiles the same templates with its own flags.
#pragma once
#include "../kernels.h"

namespace rcfast::cpu {

struct KernelTable {
    const char* name;
    void (*sample_hypercube)(const SampleHypercube&, int64_t begin, int64_t end);  // items of sample_items()
    void (*sample_noise)(const SampleNoise&, int64_t begin, int64_t end);  // the same; points for balls
    void (*vote)(const Vote&, int64_t begin, int64_t end);                 // rows, batch*samples of them
    void (*vote_soft)(const VoteSoft&, int64_t begin, int64_t end);
    void (*distance)(const Distance&, int64_t begin, int64_t end);  // points
    float (*best_partner_score)(float u_p, float v_p, const float* u, const float* v, int64_t count);
    void (*conv3x3)(const Conv3x3&, int64_t begin, int64_t end);  // items of conv3x3_items()
};

extern const KernelTable portable_kernels;
const KernelTable& kernels_in_use();
#if defined(RCFAST_X86)
extern const KernelTable avx2_kernels, avx512_kernels;
#endif

// An item of sampling is one segment of one sample of one example, ordered by example, segment, sample:
// the lines of a segment are laid out once and used for all its samples while they stay in the first cache.
constexpr int64_t kSegment = 2048;
inline int64_t segments(int64_t n) { return (n + kSegment - 1) / kSegment; }

// An item of a convolution is a block of Winograd's tiles, as many as keep the transformed ones in the second
// cache and let the weights be used again, or a row of a direct output.
constexpr int64_t kConvTiles = 24;

}  // namespace rcfast::cpu
