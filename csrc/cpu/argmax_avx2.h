// The label of one row of logits in AVX2 and F16C. The last register of a row overlaps the one before, so
// that nothing is read beyond its end.
#pragma once
#include <immintrin.h>

#include "vote.h"

namespace rcfast::cpu {
namespace {

struct ArgmaxAvx2 {
    template <class T>
    static int64_t argmax(const T* row, int64_t labels) {
        if (labels > 16) return many(row, labels);
        if (labels >= 8) return two(row, labels);
        return labels >= 4 ? one(row, labels) : few(row, labels);
    }

  private:
    template <class T>
    static int64_t few(const T* row, int64_t labels) {
        core::Leader leader = core::nobody();
        for (int32_t i = 0; i < labels; ++i) leader = core::consider(leader, core::widen(row[i]), i);
        return leader.nan ? -1 : leader.label;
    }

    template <class T>
    static int64_t one(const T* row, int64_t labels) {
        const __m256 v = ends(row, labels);
        if (mask(unordered(v, v))) return -1;
        const int lane = __builtin_ctz(mask(equal(v, greatest(v))));
        return lane < 4 ? lane : lane + labels - 8;
    }

    template <class T>
    static int64_t two(const T* row, int64_t labels) {
        const __m256 low = eight(row), high = eight(row + labels - 8);
        if (mask(unordered(low, high))) return -1;
        const __m256 top = greatest(_mm256_max_ps(low, high));
        return __builtin_ctz(mask(equal(low, top)) | mask(equal(high, top)) << (labels - 8));
    }

    template <class T>
    static int64_t many(const T* row, int64_t labels) {
        constexpr int kStreams = 4;  // hides the latency of the maximum
        constexpr int64_t kStep = 8 * kStreams;
        const __m256 lowest = _mm256_set1_ps(core::kLowest);
        __m256 best[kStreams] = {lowest, lowest, lowest, lowest}, bad = _mm256_setzero_ps();
        int64_t at = 0;
        for (; at + kStep <= labels; at += kStep)
            for (int j = 0; j < kStreams; ++j) {
                const __m256 v = eight(row + at + 8 * j);
                bad = _mm256_or_ps(bad, unordered(v, v));
                best[j] = _mm256_max_ps(best[j], v);
            }
        for (; at < labels; at += 8) {
            const __m256 v = eight(row + within(at, labels));
            bad = _mm256_or_ps(bad, unordered(v, v));
            best[0] = _mm256_max_ps(best[0], v);
        }
        if (mask(bad)) return -1;
        const __m256 top =
            greatest(_mm256_max_ps(_mm256_max_ps(best[0], best[1]), _mm256_max_ps(best[2], best[3])));
        for (at = 0; at + kStep <= labels; at += kStep) {
            __m256 found = _mm256_setzero_ps();
            for (int j = 0; j < kStreams; ++j)
                found = _mm256_or_ps(found, equal(eight(row + at + 8 * j), top));
            if (mask(found)) break;
        }
        for (;; at += 8) {  // top is one of the row
            const int64_t from = within(at, labels);
            const unsigned found = mask(equal(eight(row + from), top));
            if (found) return from + __builtin_ctz(found);
        }
    }
    static int64_t within(int64_t at, int64_t labels) { return at + 8 <= labels ? at : labels - 8; }

    static __m256 eight(const float* row) { return _mm256_loadu_ps(row); }
    static __m256 eight(const core::bf16* row) { return wide(bits(row), core::bf16{}); }
    static __m256 eight(const core::f16* row) { return wide(bits(row), core::f16{}); }

    // The first four of a row of four to eight, and the last four.
    static __m256 ends(const float* row, int64_t labels) {
        return _mm256_set_m128(_mm_loadu_ps(row + labels - 4), _mm_loadu_ps(row));
    }
    template <class T>
    static __m256 ends(const T* row, int64_t labels) {
        const __m128i first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row));
        const __m128i last = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + labels - 4));
        return wide(_mm_unpacklo_epi64(first, last), T{});
    }

    template <class T>
    static __m128i bits(const T* row) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row));
    }
    static __m256 wide(__m128i v, core::bf16) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
    }
    static __m256 wide(__m128i v, core::f16) { return _mm256_cvtph_ps(v); }

    static __m256 unordered(__m256 a, __m256 b) { return _mm256_cmp_ps(a, b, _CMP_UNORD_Q); }
    static __m256 equal(__m256 a, __m256 b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
    static unsigned mask(__m256 v) { return static_cast<unsigned>(_mm256_movemask_ps(v)); }
    static __m256 greatest(__m256 v) {  // in every lane
        v = _mm256_max_ps(v, _mm256_permute2f128_ps(v, v, 1));
        v = _mm256_max_ps(v, _mm256_permute_ps(v, 0x4E));
        return _mm256_max_ps(v, _mm256_permute_ps(v, 0xB1));
    }
};

}  // namespace
}  // namespace rcfast::cpu
