// Quantiles and sums with AVX-512, sixteen elements at a time: two registers hold the 32 columns of a
// coefficient.
#pragma once
#include "../core/noise.h"
#include "../core/quantile.h"
#include "simd_avx512.h"

namespace rcfast::cpu {
namespace {

struct SixteenFloats {  // core::normal_middle's operations
    using F = __m512;
    static F minus_square(float c, F q) { return _mm512_fnmadd_ps(q, q, _mm512_set1_ps(c)); }
    static F all(float c) { return _mm512_set1_ps(c); }
    static F plus(F u, float c) { return _mm512_add_ps(u, _mm512_set1_ps(c)); }
    static F raise(F sum, F u, float c) { return _mm512_fmadd_ps(sum, u, _mm512_set1_ps(c)); }
    static F times_ratio(F q, F over, F under) { return _mm512_mul_ps(q, _mm512_div_ps(over, under)); }
};

struct NoiseAvx512 {
    using V = Avx512;
    using Points = V::Points;
    static constexpr int kStep = V::kPart;
    static constexpr int kUnroll = 2;
    using Far = uint32_t;  // which elements of a step lie in the tail

    // Those of the tail, one in 128, are not right yet.
    static Points normals(const V::Variates* words, Far& far) {
        __m512 low, high;
        const Points p = {middle(words[0], low), middle(words[1], high)};
        far = static_cast<uint32_t>(_mm512_movepi32_mask(_mm512_castps_si512(high))) << 16 |
              _mm512_movepi32_mask(_mm512_castps_si512(low));
        return p;
    }
    static __m512 middle(__m512i word, __m512& u) {
        const __m512 q = _mm512_cvtepi32_ps(_mm512_or_si512(word, _mm512_set1_epi32(1)));
        return core::normal_middle<SixteenFloats>(_mm512_mul_ps(q, _mm512_set1_ps(core::kMiddleScale)), u);
    }

    template <int Steps>
    static uint64_t tails(const Far* far) {
        return Steps == 1 ? far[0] : static_cast<uint64_t>(far[Steps - 1]) << 32 | far[0];
    }
    static int element(int bit) { return bit; }

    static Points exponentials(const V::Variates* words) {
        return {exponential(words[0]), exponential(words[1])};
    }

    static __m512 exponential(__m512i word) {
        const __m512i place = _mm512_and_si512(word, _mm512_set1_epi32(core::kPlace));
        const __m512 f = _mm512_min_ps(_mm512_add_ps(_mm512_cvtepi32_ps(place), _mm512_set1_ps(0.5f)),
                                       _mm512_set1_ps(core::kLast));
        const __m512i bits = _mm512_castps_si512(f);
        const __mmask16 central = _mm512_test_epi32_mask(word, _mm512_set1_epi32(core::kIsCentral));
        const __m512i column =  // its last five bits
            _mm512_mask_mov_epi32(_mm512_srli_epi32(bits, 23), central, _mm512_set1_epi32(core::kCentral));
        const __m512i mantissa = _mm512_or_si512(_mm512_and_si512(bits, _mm512_set1_epi32(0x007FFFFF)),
                                                 _mm512_set1_epi32(0x3F800000));
        const __m512 t =
            _mm512_mask_mul_ps(_mm512_add_ps(_mm512_castsi512_ps(mantissa), _mm512_set1_ps(-1.5f)), central,
                               f, _mm512_set1_ps(0x1p-30f));
        const __m512 v = polynomial(core::kExponential, t, column);
        const __m512i sign = _mm512_and_si512(word, _mm512_set1_epi32(static_cast<int>(core::kIsNegative)));
        return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(v), sign));
    }

    static __m512 polynomial(const core::QuantileTable& table, __m512 t, __m512i column) {
        const __m512 square = _mm512_mul_ps(t, t), fourth = _mm512_mul_ps(square, square);
        __m512 pair[core::kQuantileTerms / 2];
        for (int i = 0; i < core::kQuantileTerms / 2; ++i)
            pair[i] = line(term(table, 2 * i, column), t, term(table, 2 * i + 1, column));
        return line(line(pair[0], fourth, line(pair[1], square, pair[2])), fourth,
                    line(pair[3], square, pair[4]));
    }
    static __m512 line(__m512 a, __m512 t, __m512 b) { return _mm512_add_ps(_mm512_mul_ps(a, t), b); }

    static __m512 term(const core::QuantileTable& table, int i, __m512i column) {
        return _mm512_permutex2var_ps(_mm512_loadu_ps(table[i]), column, _mm512_loadu_ps(table[i] + 16));
    }

    template <bool Clamped>
    static Points place(Points p, const float* base, float scale) {
        return {moved<Clamped>(p.low, base, scale), moved<Clamped>(p.high, base + 16, scale)};
    }
    template <bool Clamped>
    static __m512 moved(__m512 variate, const float* base, float scale) {
        const __m512 point =
            _mm512_add_ps(_mm512_loadu_ps(base), _mm512_mul_ps(_mm512_set1_ps(scale), variate));
        return Clamped ? V::clip(point, core::Clamp{}) : point;
    }

    static Points load(const float* from) { return {_mm512_load_ps(from), _mm512_load_ps(from + 16)}; }

    template <bool Euclidean>
    static float sum(const float* variates, int64_t count) {
        __m512 lanes[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int64_t at = 0; at < count; at += core::kSumLanes)
            for (int j = 0; j < 2; ++j)
                lanes[j] = _mm512_add_ps(lanes[j], term<Euclidean>(variates + at + 16 * j));
        const __m512 sixteen = _mm512_add_ps(lanes[0], lanes[1]);
        const __m256 eight =
            _mm256_add_ps(_mm512_castps512_ps256(sixteen), _mm512_extractf32x8_ps(sixteen, 1));
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    template <bool Euclidean>
    static __m512 term(const float* variates) {
        const __m512 v = _mm512_load_ps(variates);
        return Euclidean ? _mm512_mul_ps(v, v)
                         : _mm512_castsi512_ps(
                               _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7FFFFFFF)));
    }
};

}  // namespace
}  // namespace rcfast::cpu
