// Quantiles and sums with AVX2, eight elements at a time.
#pragma once
#include "../core/noise.h"
#include "../core/quantile.h"
#include "simd_avx2.h"

namespace rcfast::cpu {
namespace {

// The exponential's columns of the eight likeliest exponents, 150 to 157, where a permutation by their last
// three bits finds them: one word in 256 lies outside.
constexpr int kLikely = 8;
constexpr int kLeastLikely = static_cast<int>(core::kCentral) - kLikely + 1;

struct LikelyColumns {
    alignas(32) float at[core::kQuantileTerms][kLikely];
};

constexpr LikelyColumns likely_columns(const core::QuantileTable& table) {
    LikelyColumns columns = {};
    for (int i = 0; i < core::kQuantileTerms; ++i)
        for (int exponent = kLeastLikely; exponent < kLeastLikely + kLikely; ++exponent)
            columns.at[i][exponent % kLikely] = table[i][exponent % core::kQuantileColumns];
    return columns;
}

constexpr LikelyColumns kLikelyExponential = likely_columns(core::kExponential);

struct EightFloats {  // core::normal_middle's operations
    using F = __m256;
    static F minus_square(float c, F q) { return _mm256_fnmadd_ps(q, q, _mm256_set1_ps(c)); }
    static F all(float c) { return _mm256_set1_ps(c); }
    static F plus(F u, float c) { return _mm256_add_ps(u, _mm256_set1_ps(c)); }
    static F raise(F sum, F u, float c) { return _mm256_fmadd_ps(sum, u, _mm256_set1_ps(c)); }
    static F times_ratio(F q, F over, F under) { return _mm256_mul_ps(q, _mm256_div_ps(over, under)); }
};

struct NoiseAvx2 {
    using V = Avx2;
    using Points = V::Points;
    static constexpr int kStep = V::kPart;
    static constexpr int kUnroll = 4;
    using Far = __m256i;  // of each half of a step's elements: negative where it lies in the tail

    struct Place {
        __m256 t;
        __m256i exponent;
    };

    // Those of the tail, one in 128, are not right yet.
    static Points normals(const V::Variates* words, Far& far) {
        __m256 low, high;
        const Points p = {middle(words[0], low), middle(words[1], high)};
        far = _mm256_packs_epi32(_mm256_castps_si256(low), _mm256_castps_si256(high));
        return p;
    }
    static __m256 middle(__m256i word, __m256& u) {
        const __m256 q = _mm256_cvtepi32_ps(_mm256_or_si256(word, _mm256_set1_epi32(1)));
        return core::normal_middle<EightFloats>(_mm256_mul_ps(q, _mm256_set1_ps(core::kMiddleScale)), u);
    }

    // A bit for each element that lies in the tail, and which element a bit belongs to: packing works within
    // 128-bit halves.
    template <int Steps>
    static uint64_t tails(const Far* far) {
        uint64_t bits = 0;
        for (int i = 0; i < Steps; i += 2) {
            const __m256i next = i + 1 < Steps ? far[i + 1] : _mm256_setzero_si256();
            const auto signs = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_packs_epi16(far[i], next)));
            bits |= static_cast<uint64_t>(signs) << (16 * i);
        }
        return bits;
    }
    static int element(int bit) { return (bit & 0x23) | (bit & 0x0C) << 1 | (bit & 0x10) >> 2; }

    static Points exponentials(const V::Variates* words) {
        const Place low = place(words[0]), high = place(words[1]);
        Points p = {polynomial(kLikelyExponential, low), polynomial(kLikelyExponential, high)};
        p = {_mm256_xor_ps(p.low, sign(words[0])), _mm256_xor_ps(p.high, sign(words[1]))};
        const __m256i least = _mm256_set1_epi32(kLeastLikely);
        const __m256i rare_low = _mm256_cmpgt_epi32(least, low.exponent);
        const __m256i rare_high = _mm256_cmpgt_epi32(least, high.exponent);
        if (__builtin_expect(_mm256_movemask_epi8(_mm256_or_si256(rare_low, rare_high)), 0)) {
            mend(words[0], p.low, rare_low);
            mend(words[1], p.high, rare_high);
        }
        return p;
    }

    static __m256 polynomial(const LikelyColumns& likely, const Place& at) {
        const __m256 square = _mm256_mul_ps(at.t, at.t), fourth = _mm256_mul_ps(square, square);
        __m256 pair[core::kQuantileTerms / 2];
        for (int i = 0; i < core::kQuantileTerms / 2; ++i)
            pair[i] = line(term(likely, 2 * i, at.exponent), at.t, term(likely, 2 * i + 1, at.exponent));
        return line(line(pair[0], fourth, line(pair[1], square, pair[2])), fourth,
                    line(pair[3], square, pair[4]));
    }
    static __m256 line(__m256 a, __m256 t, __m256 b) { return _mm256_add_ps(_mm256_mul_ps(a, t), b); }

    static Place place(__m256i word) {
        const __m256i k = _mm256_and_si256(word, _mm256_set1_epi32(core::kPlace));
        const __m256 f = _mm256_min_ps(_mm256_add_ps(_mm256_cvtepi32_ps(k), _mm256_set1_ps(0.5f)),
                                       _mm256_set1_ps(core::kLast));
        const __m256i bits = _mm256_castps_si256(f);
        const __m256 central = _mm256_castsi256_ps(_mm256_slli_epi32(word, 1));  // its sign selects
        const __m256 exponent =
            _mm256_blendv_ps(_mm256_castsi256_ps(_mm256_srli_epi32(bits, 23)),
                             _mm256_castsi256_ps(_mm256_set1_epi32(core::kCentral)), central);
        const __m256i mantissa = _mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(0x007FFFFF)),
                                                 _mm256_set1_epi32(0x3F800000));
        const __m256 t = _mm256_blendv_ps(_mm256_add_ps(_mm256_castsi256_ps(mantissa), _mm256_set1_ps(-1.5f)),
                                          _mm256_mul_ps(f, _mm256_set1_ps(0x1p-30f)), central);
        return {t, _mm256_castps_si256(exponent)};
    }
    static __m256 sign(__m256i word) {
        return _mm256_castsi256_ps(
            _mm256_and_si256(word, _mm256_set1_epi32(static_cast<int>(core::kIsNegative))));
    }

    static __m256 term(const LikelyColumns& likely, int i, __m256i exponent) {
        return _mm256_permutevar8x32_ps(_mm256_load_ps(likely.at[i]), exponent);
    }

    static __attribute__((noinline)) void mend(__m256i word, __m256& v, __m256i rare) {
        alignas(32) uint32_t words[8];
        alignas(32) float values[8];
        _mm256_store_si256(reinterpret_cast<__m256i*>(words), word);
        _mm256_store_ps(values, v);
        for (int left = _mm256_movemask_ps(_mm256_castsi256_ps(rare)); left; left &= left - 1) {
            const int lane = __builtin_ctz(static_cast<unsigned>(left));
            values[lane] = core::exponential_quantile(core::kExponential, words[lane]);
        }
        v = _mm256_load_ps(values);
    }

    template <bool Clamped>
    static Points place(Points p, const float* base, float scale) {
        return {moved<Clamped>(p.low, base, scale), moved<Clamped>(p.high, base + 8, scale)};
    }
    template <bool Clamped>
    static __m256 moved(__m256 variate, const float* base, float scale) {
        const __m256 point =
            _mm256_add_ps(_mm256_loadu_ps(base), _mm256_mul_ps(_mm256_set1_ps(scale), variate));
        return Clamped ? V::clip(point, core::Clamp{}) : point;
    }

    static Points load(const float* from) { return {_mm256_load_ps(from), _mm256_load_ps(from + 8)}; }

    template <bool Euclidean>
    static float sum(const float* variates, int64_t count) {
        __m256 lanes[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                           _mm256_setzero_ps()};
        for (int64_t at = 0; at < count; at += core::kSumLanes)
            for (int j = 0; j < 4; ++j)
                lanes[j] = _mm256_add_ps(lanes[j], term<Euclidean>(variates + at + 8 * j));
        const __m256 eight =
            _mm256_add_ps(_mm256_add_ps(lanes[0], lanes[2]), _mm256_add_ps(lanes[1], lanes[3]));
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    template <bool Euclidean>
    static __m256 term(const float* variates) {
        const __m256 v = _mm256_load_ps(variates);
        return Euclidean ? _mm256_mul_ps(v, v) : _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
    }
};

}  // namespace
}  // namespace rcfast::cpu
