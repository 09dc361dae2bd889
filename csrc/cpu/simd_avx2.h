// AVX2 and F16C: four Philox calls at a time, laid out as in simd_avx512.h.
#pragma once
#include <immintrin.h>

#include "../core/numbers.h"
#include "../core/philox.h"
#include "../core/region.h"
#include "argmax_avx2.h"

namespace rcfast::cpu {
namespace {

struct Avx2 {
    static constexpr int kPart = 16;
    static constexpr int kParts = 2;
    static constexpr int kCalls = 4;
    static constexpr int kUnroll = 2;
    using Variates = __m256i;
    struct Points {
        __m256 low, high;
    };

    // The keys of the rounds in every lane, laid out once for all points of a seed: as operands in memory
    // they cost no instruction.
    struct Keys {
        __m256i k0[core::kRounds], k1[core::kRounds];
        explicit Keys(uint64_t seed) {
            for (int round = 0; round < core::kRounds; ++round) {
                const auto step = static_cast<uint32_t>(round);
                k0[round] = _mm256_set1_epi64x(static_cast<uint32_t>(seed) + step * core::kWeyl0);
                k1[round] = _mm256_set1_epi64x(static_cast<uint32_t>(seed >> 32) + step * core::kWeyl1);
            }
        }
    };

    // What the first four rounds make of the example and the blocks of four calls, the same for all samples:
    // half of their products do not see the sample. Of the two words that are added to a product's halves one
    // stands in the lower half of a lane, for the product to come, one in the upper, for the one that was.
    struct Calls {
        __m256i one, other;
    };
    static void prepare(const Keys& keys, uint64_t id, uint32_t block, int64_t groups, Calls* calls) {
        const __m256i mul0 = _mm256_set1_epi64x(core::kMul0), mul1 = _mm256_set1_epi64x(core::kMul1);
        const __m256i order = _mm256_setr_epi64x(0, 2, 1, 3);  // lane 2j+i starts as call 2i+j
        const __m256i p1 = _mm256_mul_epu32(_mm256_set1_epi64x(static_cast<uint32_t>(id)), mul1);
        const __m256i round1 =
            _mm256_xor_si256(_mm256_set1_epi64x(static_cast<uint32_t>(id >> 32)), keys.k1[0]);
        const __m256i round2 = _mm256_xor_si256(p1, keys.k0[1]);
        for (int64_t g = 0; g < groups; ++g) {
            const __m256i start =
                _mm256_add_epi32(order, _mm256_set1_epi64x(static_cast<int64_t>(block) + 4 * g));
            const __m256i first = _mm256_mul_epu32(start, mul0);
            const __m256i c1 = _mm256_mul_epu32(_mm256_xor_si256(high(first), round1), mul1);
            const __m256i p0 = _mm256_mul_epu32(_mm256_xor_si256(high(c1), round2), mul0);
            calls[g] = {both(first, _mm256_xor_si256(c1, keys.k0[2])),
                        both(_mm256_xor_si256(high(p0), keys.k1[2]), _mm256_xor_si256(p0, keys.k1[3]))};
        }
    }

    // And of the sample: the same for all calls.
    struct Sample {
        __m256i high, low;
        Sample(const Keys& keys, uint64_t id, uint32_t sample) {
            const __m256i p1 = _mm256_mul_epu32(_mm256_set1_epi64x(static_cast<uint32_t>(id)),
                                                _mm256_set1_epi64x(core::kMul1));
            const __m256i c0 =
                _mm256_xor_si256(Avx2::high(p1), _mm256_xor_si256(_mm256_set1_epi64x(sample), keys.k0[0]));
            low = _mm256_mul_epu32(c0, _mm256_set1_epi64x(core::kMul0));
            high = _mm256_xor_si256(Avx2::high(low), keys.k1[1]);
        }
    };

    static __m256i both(__m256i low, __m256i high) {
        return _mm256_blend_epi32(low, _mm256_slli_epi64(high, 32), 0xAA);
    }
    static __m256i high(__m256i product) { return _mm256_srli_epi64(product, 32); }

    template <int Groups>
    static void variates(const Keys& keys, const Sample& sample, const Calls* calls, Variates* k) {
        const __m256i mul0 = _mm256_set1_epi64x(core::kMul0), mul1 = _mm256_set1_epi64x(core::kMul1);
        __m256i c0[Groups], c1[Groups], c2[Groups], c3[Groups];
        for (int g = 0; g < Groups; ++g) {
            const __m256i q2 = _mm256_mul_epu32(_mm256_xor_si256(sample.high, calls[g].one), mul1);
            c3[g] = _mm256_mul_epu32(high(_mm256_xor_si256(q2, calls[g].one)), mul0);
            c1[g] = _mm256_mul_epu32(_mm256_xor_si256(sample.low, calls[g].other), mul1);
            c0[g] = _mm256_xor_si256(_mm256_xor_si256(q2, keys.k0[3]), high(c1[g]));
            c2[g] = high(_mm256_xor_si256(c3[g], calls[g].other));
        }
        for (int round = 4; round < core::kRounds; ++round) {
            for (int g = 0; g < Groups; ++g) {
                const __m256i p0 = _mm256_mul_epu32(c0[g], mul0), q1 = _mm256_mul_epu32(c2[g], mul1);
                c0[g] = _mm256_xor_si256(_mm256_xor_si256(c1[g], keys.k0[round]), high(q1));
                c2[g] = _mm256_xor_si256(_mm256_xor_si256(c3[g], keys.k1[round]), high(p0));
                c1[g] = q1;
                c3[g] = p0;
            }
        }
        for (int g = 0; g < Groups; ++g) {
            const __m256 front = even_words(c0[g], c1[g]), back = even_words(c2[g], c3[g]);
            k[2 * g] = _mm256_castps_si256(_mm256_shuffle_ps(front, back, 0x88));
            k[2 * g + 1] = _mm256_castps_si256(_mm256_shuffle_ps(front, back, 0xDD));
        }
    }
    static __m256 even_words(__m256i a, __m256i b) {
        return _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88);
    }

    template <class Region>
    static __m256 line(__m128i k, const float* base, const float* scale) {
        const __m256 variate =
            _mm256_add_ps(_mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(k)), _mm256_set1_ps(Region::kOffset));
        const __m256 point =
            _mm256_add_ps(_mm256_loadu_ps(base), _mm256_mul_ps(_mm256_loadu_ps(scale), variate));
        return clip(point, Region{});
    }
    static __m256 clip(__m256 v, core::Intersect) { return v; }
    static __m256 clip(__m256 v, core::Clamp) {
        return _mm256_min_ps(_mm256_max_ps(v, _mm256_setzero_ps()), _mm256_set1_ps(1.0f));
    }

    template <class Region>
    static Points points(Variates k, const float* base, const float* scale) {
        return {line<Region>(_mm256_castsi256_si128(k), base, scale),
                line<Region>(_mm256_extracti128_si256(k, 1), base + 8, scale + 8)};
    }

    static void store(float* out, Points p) {
        _mm256_storeu_ps(out, p.low);
        _mm256_storeu_ps(out + 8, p.high);
    }
    static void store(core::f16* out, Points p) {
        auto* to = reinterpret_cast<__m128i*>(out);
        _mm_storeu_si128(to, _mm256_cvtps_ph(p.low, _MM_FROUND_TO_NEAREST_INT));
        _mm_storeu_si128(to + 1, _mm256_cvtps_ph(p.high, _MM_FROUND_TO_NEAREST_INT));
    }
    static void store(core::bf16* out, Points p) {
        const __m256i packed =
            _mm256_packus_epi32(rounded(p.low), rounded(p.high));  // packs within 128-bit halves
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute4x64_epi64(packed, 0xD8));
    }
    static __m256i rounded(__m256 v) {
        const __m256i u = _mm256_castps_si256(v);
        const __m256i last = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
        return _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(last, _mm256_set1_epi32(0x7FFF))), 16);
    }

    template <class T>
    static int64_t argmax(const T* row, int64_t labels) {
        return ArgmaxAvx2::argmax(row, labels);
    }
};

}  // namespace
}  // namespace rcfast::cpu
