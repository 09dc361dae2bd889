// AVX-512 (F, BW, DQ, VL): eight Philox calls at a time, a 32-bit word in each 64-bit lane, where the
// multiplier reads it and leaves its product.
#pragma once
#include <immintrin.h>

#include "../core/numbers.h"
#include "../core/philox.h"
#include "../core/region.h"
#include "vote.h"

namespace rcfast::cpu {
namespace {

struct Avx512 {
    static constexpr int kPart = 32;   // elements of one Variates
    static constexpr int kParts = 2;   // Variates of one group of eight calls
    static constexpr int kCalls = 8;   // Philox calls of one group
    static constexpr int kUnroll = 4;  // groups in flight: hides the latency of the ten dependent rounds
    using Variates = __m512i;
    struct Points {
        __m512 low, high;
    };

    struct Keys {
        uint64_t seed;
    };

    // What all samples of an example have in common in eight calls, as in simd_avx2.h.
    struct Calls {
        __m512i one, other;
    };
    static void prepare(const Keys& keys, uint64_t id, uint32_t block, int64_t groups, Calls* calls) {
        const __m512i mul0 = _mm512_set1_epi64(core::kMul0), mul1 = _mm512_set1_epi64(core::kMul1);
        // Unpacking 64-bit halves gathers the even and then the odd lanes: lane 2j+i starts as call 4i+j.
        const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
        const uint64_t p1 = static_cast<uint64_t>(core::kMul1) * static_cast<uint32_t>(id);
        const __m512i round1 = _mm512_set1_epi64(static_cast<uint32_t>(id >> 32) ^ key1(keys, 0));
        const __m512i round2 = _mm512_set1_epi64(static_cast<uint32_t>(p1) ^ key0(keys, 1));
        const __m512i k0 = _mm512_set1_epi64(key0(keys, 2)), k1 = _mm512_set1_epi64(key1(keys, 2));
        const __m512i k3 = _mm512_set1_epi64(key1(keys, 3));
        for (int64_t g = 0; g < groups; ++g) {
            const __m512i start =
                _mm512_add_epi32(order, _mm512_set1_epi64(static_cast<int64_t>(block) + 8 * g));
            const __m512i first = _mm512_mul_epu32(start, mul0);
            const __m512i c1 = _mm512_mul_epu32(_mm512_xor_si512(high(first), round1), mul1);
            const __m512i p0 = _mm512_mul_epu32(_mm512_xor_si512(high(c1), round2), mul0);
            calls[g] = {both(first, _mm512_xor_si512(c1, k0)),
                        both(_mm512_xor_si512(high(p0), k1), _mm512_xor_si512(p0, k3))};
        }
    }

    struct Sample {
        __m512i high, low;
        Sample(const Keys& keys, uint64_t id, uint32_t sample) {
            const uint64_t p1 = static_cast<uint64_t>(core::kMul1) * static_cast<uint32_t>(id);
            const uint32_t c0 = static_cast<uint32_t>(p1 >> 32) ^ sample ^ key0(keys, 0);
            const uint64_t p0 = static_cast<uint64_t>(core::kMul0) * c0;
            high = _mm512_set1_epi64(static_cast<uint32_t>(p0 >> 32) ^ key1(keys, 1));
            low = _mm512_set1_epi64(static_cast<uint32_t>(p0));
        }
    };

    static __m512i both(__m512i low, __m512i high) {
        return _mm512_mask_blend_epi32(0xAAAA, low, _mm512_slli_epi64(high, 32));
    }
    static __m512i high(__m512i product) { return _mm512_srli_epi64(product, 32); }
    static uint32_t key0(const Keys& keys, uint32_t round) {
        return static_cast<uint32_t>(keys.seed) + round * core::kWeyl0;
    }
    static uint32_t key1(const Keys& keys, uint32_t round) {
        return static_cast<uint32_t>(keys.seed >> 32) + round * core::kWeyl1;
    }

    template <int Groups>
    static void variates(const Keys& keys, const Sample& sample, const Calls* calls, Variates* k) {
        const __m512i mul0 = _mm512_set1_epi64(core::kMul0), mul1 = _mm512_set1_epi64(core::kMul1);
        const __m512i k3 = _mm512_set1_epi64(key0(keys, 3));
        __m512i c0[Groups], c1[Groups], c2[Groups], c3[Groups];
        for (int g = 0; g < Groups; ++g) {
            const __m512i q2 = _mm512_mul_epu32(_mm512_xor_si512(sample.high, calls[g].one), mul1);
            c3[g] = _mm512_mul_epu32(high(_mm512_xor_si512(q2, calls[g].one)), mul0);
            c1[g] = _mm512_mul_epu32(_mm512_xor_si512(sample.low, calls[g].other), mul1);
            c0[g] = _mm512_ternarylogic_epi64(high(c1[g]), q2, k3, 0x96);
            c2[g] = high(_mm512_xor_si512(c3[g], calls[g].other));
        }
        for (uint32_t round = 4; round < core::kRounds; ++round) {
            const __m512i k0 = _mm512_set1_epi64(key0(keys, round)),
                          k1 = _mm512_set1_epi64(key1(keys, round));
            for (int g = 0; g < Groups; ++g) {
                const __m512i p0 = _mm512_mul_epu32(c0[g], mul0), p1 = _mm512_mul_epu32(c2[g], mul1);
                c0[g] = _mm512_ternarylogic_epi64(high(p1), c1[g], k0, 0x96);
                c2[g] = _mm512_ternarylogic_epi64(high(p0), c3[g], k1, 0x96);
                c1[g] = p1;
                c3[g] = p0;
            }
        }
        for (int g = 0; g < Groups; ++g) {
            const __m512i front =
                _mm512_mask_shuffle_epi32(c0[g], 0xAAAA, c1[g], static_cast<_MM_PERM_ENUM>(0xA0));
            const __m512i back =
                _mm512_mask_shuffle_epi32(c2[g], 0xAAAA, c3[g], static_cast<_MM_PERM_ENUM>(0xA0));
            k[2 * g] = _mm512_unpacklo_epi64(front, back);
            k[2 * g + 1] = _mm512_unpackhi_epi64(front, back);
        }
    }

    // 2^23 + k as float32: the variate below a constant exponent; the difference is exact.
    template <class Region>
    static __m512 line(__m512i k, __m512i take, const float* base, const float* scale) {
        const __m512 big = _mm512_castsi512_ps(_mm512_permutex2var_epi16(k, take, _mm512_set1_epi32(0x4B00)));
        const __m512 variate = offset(big, Region{});
        const __m512 point =
            _mm512_add_ps(_mm512_loadu_ps(base), _mm512_mul_ps(_mm512_loadu_ps(scale), variate));
        return clip(point, Region{});
    }
    static __m512 offset(__m512 big, core::Intersect) {
        return _mm512_sub_ps(big, _mm512_set1_ps(0x1p23f - core::Intersect::kOffset));
    }
    static __m512 offset(__m512 big, core::Clamp) {
        return _mm512_add_ps(_mm512_sub_ps(big, _mm512_set1_ps(0x1p23f)),
                             _mm512_set1_ps(core::Clamp::kOffset));
    }
    static __m512 clip(__m512 v, core::Intersect) { return v; }
    static __m512 clip(__m512 v, core::Clamp) {
        return _mm512_min_ps(_mm512_max_ps(v, _mm512_setzero_ps()), _mm512_set1_ps(1.0f));
    }

    template <class Region>
    static Points points(Variates k, const float* base, const float* scale) {
        const __m512i low = _mm512_setr_epi32(
            0x00200000, 0x00200001, 0x00200002, 0x00200003, 0x00200004, 0x00200005, 0x00200006, 0x00200007,
            0x00200008, 0x00200009, 0x0020000A, 0x0020000B, 0x0020000C, 0x0020000D, 0x0020000E, 0x0020000F);
        const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(16));
        return {line<Region>(k, low, base, scale), line<Region>(k, high, base + 16, scale + 16)};
    }

    static void store(float* out, Points p) {
        _mm512_storeu_ps(out, p.low);
        _mm512_storeu_ps(out + 16, p.high);
    }
    static void store(core::f16* out, Points p) {
        auto* to = reinterpret_cast<__m256i*>(out);
        _mm256_storeu_si256(to, _mm512_cvtps_ph(p.low, _MM_FROUND_TO_NEAREST_INT));
        _mm256_storeu_si256(to + 1, _mm512_cvtps_ph(p.high, _MM_FROUND_TO_NEAREST_INT));
    }
    static void store(core::bf16* out, Points p) {  // not vcvtne2ps2bf16: that one flushes subnormals
        const __m512i odd = _mm512_setr_epi32(
            0x00030001, 0x00070005, 0x000B0009, 0x000F000D, 0x00130011, 0x00170015, 0x001B0019, 0x001F001D,
            0x00230021, 0x00270025, 0x002B0029, 0x002F002D, 0x00330031, 0x00370035, 0x003B0039, 0x003F003D);
        _mm512_storeu_si512(out, _mm512_permutex2var_epi16(rounded(p.low), odd, rounded(p.high)));
    }
    static __m512i rounded(__m512 v) {  // to nearest even, in the upper half of each 32 bits
        const __m512i u = _mm512_castps_si512(v);
        const __m512i up = _mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF));
        return _mm512_mask_add_epi32(up, _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x10000)), up,
                                     _mm512_set1_epi32(1));
    }

    // A row of up to 16 logits is one register.
    template <class T>
    static int64_t argmax(const T* row, int64_t labels) {
        if (labels > 16) return argmax_long(row, labels);
        const __mmask16 lanes = static_cast<__mmask16>((1u << labels) - 1u);
        const __m512 v = load(row, lanes);
        if (_mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q)) return -1;
        return __builtin_ctz(_mm512_cmp_ps_mask(v, _mm512_set1_ps(_mm512_reduce_max_ps(v)), _CMP_EQ_OQ));
    }
    template <class T>
    static int64_t argmax_long(const T* row, int64_t labels) {
        constexpr int kStreams = 4;  // hides the latency of the maximum
        __m512 best[kStreams] = {lowest(), lowest(), lowest(), lowest()};
        unsigned bad = 0;
        for (int64_t at = 0; at < labels; at += 16 * kStreams)
            for (int j = 0; j < kStreams; ++j) {
                const __m512 v = load(row + at + 16 * j, lanes_left(labels - at - 16 * j));
                bad |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
                best[j] = _mm512_max_ps(best[j], v);
            }
        if (bad) return -1;
        const __m512 two = _mm512_max_ps(_mm512_max_ps(best[0], best[1]), _mm512_max_ps(best[2], best[3]));
        const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(two));
        for (int64_t at = 0; at < labels; at += 16) {
            const __mmask16 lanes = lanes_left(labels - at);
            const unsigned equal = _mm512_mask_cmp_ps_mask(lanes, load(row + at, lanes), top, _CMP_EQ_OQ);
            if (equal) return at + __builtin_ctz(equal);
        }
        return -1;  // not reached: top is one of the row
    }
    static __mmask16 lanes_left(int64_t count) {
        if (count >= 16) return 0xFFFF;
        return count > 0 ? static_cast<__mmask16>((1u << count) - 1u) : 0;
    }
    static __m512 lowest() { return _mm512_set1_ps(core::kLowest); }
    static __m512 load(const float* row, __mmask16 lanes) {
        return _mm512_mask_loadu_ps(lowest(), lanes, row);
    }
    static __m512 load(const core::bf16* row, __mmask16 lanes) {
        const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, row));
        return _mm512_mask_mov_ps(lowest(), lanes, _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
    }
    static __m512 load(const core::f16* row, __mmask16 lanes) {
        return _mm512_mask_mov_ps(lowest(), lanes, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, row)));
    }
};

}  // namespace
}  // namespace rcfast::cpu
