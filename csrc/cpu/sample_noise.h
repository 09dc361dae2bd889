// Points of noise and balls on the CPU; N is the vector type of the instruction set (noise_*.h), and N::V the
// one it shares with the hypercube (simd_*.h).
#pragma once
#include <cstdlib>
#include <cstring>
#include <new>

#include "../core/dtype.h"
#include "../core/noise.h"
#include "../core/numbers.h"
#include "../core/quantile.h"
#include "kernel_table.h"
#include "sample_hypercube.h"

namespace rcfast::cpu {
namespace {

constexpr int64_t kPadding = 64;  // elements beyond the last that a whole step of any vector type may touch

inline const core::QuantileTable& quantiles_of(Noise noise) {
    return noise == Noise::laplace || noise == Noise::l1_ball ? core::kExponential : core::kNormal;
}

template <class N, int Steps, class Use>
inline void use_steps(const core::QuantileTable& table, const typename N::V::Keys& keys, const Row& row,
                      int64_t first, int64_t at, Use use) {
    typename N::V::Variates words[2 * Steps];
    const auto call = static_cast<uint32_t>((first + at) / core::kWords);
    N::V::template variates<N::kGroups * Steps>(keys, row.id, row.sample, call, words);
    for (int i = 0; i < Steps; ++i) use(at + i * N::kStep, N::quantiles(table, words + 2 * i));
}

// Calls use(at, points) with the variates of elements [first + at, + kStep) for at = 0, kStep, ... below
// count.
template <class N, class Use>
inline void for_variates(const core::QuantileTable& table, const typename N::V::Keys& keys, const Row& row,
                         int64_t first, int64_t count, Use use) {
    int64_t at = 0;
    for (; at + (N::kUnroll - 1) * N::kStep < count; at += N::kUnroll * N::kStep)
        use_steps<N, N::kUnroll>(table, keys, row, first, at, use);
    for (; at < count; at += N::kStep) use_steps<N, 1>(table, keys, row, first, at, use);
}

// Writes points, of which `count` belong to the row; base reaches kPadding further.
template <class N, bool Clamped, class T>
inline void place(T* out, const float* base, float scale, int64_t at, int64_t count,
                  typename N::V::Points variates) {
    const auto points = N::template place<Clamped>(variates, base + at, scale);
    if (at + N::kStep <= count) return N::V::store(out + at, points);
    T rest[N::kStep];
    N::V::store(rest, points);
    std::memcpy(out + at, rest, static_cast<size_t>(count - at) * sizeof(T));
}

inline uint64_t seed_of(const SampleNoise& a) {
    return a.seed_tensor ? static_cast<uint64_t>(*a.seed_tensor) : a.seed;
}

inline Row row_of(const SampleNoise& a, int64_t example, int64_t sample) {
    const uint32_t first =
        a.first_sample_tensor ? static_cast<uint32_t>(*a.first_sample_tensor) : a.first_sample;
    return {static_cast<uint64_t>(a.example_ids[example]), first + static_cast<uint32_t>(sample)};
}

inline float size_of(const SampleNoise& a, int64_t example) {
    return a.size_each ? a.size_each[example] : static_cast<float>(a.size);
}

inline void copy_padded(float* base, const float* x, int64_t count) {
    for (int64_t i = 0; i < count; ++i) base[i] = core::add(x[i], 0.0f);  // -0 becomes +0
    for (int64_t i = count; i < count + kPadding; ++i) base[i] = 0.0f;
}

// Independent coordinates: segment by segment, as the hypercube.
template <class N, bool Clamped, class T>
void independent_range(const SampleNoise& a, int64_t begin, int64_t end) {
    alignas(64) float base[kSegment + kPadding];
    alignas(64) T points[kSegment];
    const core::QuantileTable& table = quantiles_of(a.noise);
    const typename N::V::Keys keys{seed_of(a)};
    const int64_t per_example = segments(a.n);
    for (int64_t item = begin; item < end;) {
        const int64_t example = item / a.samples / per_example;
        const int64_t first = item / a.samples % per_example * kSegment;
        const int64_t count = a.n - first < kSegment ? a.n - first : kSegment;
        const float scale = size_of(a, example);
        copy_padded(base, a.x + example * a.n + first, count);
        const int64_t sample = item % a.samples;
        const int64_t stop = end - item < a.samples - sample ? sample + end - item : a.samples;
        for (int64_t s = sample; s < stop; ++s) {
            T* row = static_cast<T*>(a.out) + (example * a.samples + s) * a.n;
            T* out = a.channels == 1 ? row + first : points;
            for_variates<N>(table, keys, row_of(a, example, s), first, count, [&](int64_t at, auto variates) {
                place<N, Clamped>(out, base, scale, at, count, variates);
            });
            if (a.channels != 1) scatter(row, points, first, count, a.channels, a.n / a.channels);
        }
        item += stop - sample;
    }
}

// Room for the variates of one point, whole steps of them, and for its example.
class Scratch {
  public:
    explicit Scratch(int64_t n) : room_((n + kPadding + 63) / 64 * 64) {
        data_ = static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(2 * room_) * sizeof(float)));
        if (!data_) throw std::bad_alloc();
    }
    ~Scratch() { std::free(data_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    float* variates() { return data_; }
    float* base() { return data_ + room_; }

  private:
    int64_t room_;
    float* data_;
};

template <class N>
double sum_of(const float* variates, int64_t n, bool euclidean) {
    double sum = 0.0;
    for (int64_t first = 0; first < n; first += core::kSumSegment) {
        const int64_t count = n - first < core::kSumSegment ? n - first : core::kSumSegment;
        sum =
            core::add(sum, static_cast<double>(euclidean ? N::template sum<true>(variates + first, count)
                                                         : N::template sum<false>(variates + first, count)));
    }
    return sum;
}

template <class N, bool Clamped, class T>
void ball_range(const SampleNoise& a, int64_t begin, int64_t end) {
    Scratch scratch(a.n);
    alignas(64) T points[kSegment];
    const bool euclidean = a.noise != Noise::l1_ball, filled = a.noise != Noise::sphere;
    const core::QuantileTable& table = quantiles_of(a.noise);
    const typename N::V::Keys keys{seed_of(a)};
    float* variates = scratch.variates();
    for (int64_t item = begin; item < end; ++item) {
        const int64_t example = item / a.samples, s = item % a.samples;
        if (item == begin || s == 0) copy_padded(scratch.base(), a.x + example * a.n, a.n);
        const Row row = row_of(a, example, s);
        for_variates<N>(table, keys, row, 0, a.n,
                        [&](int64_t at, auto points) { N::V::store(variates + at, points); });
        for (int64_t i = a.n; i < a.n + core::kSumLanes; ++i) variates[i] = 0.0f;
        const float scale =
            core::ball_scale(size_of(a, example), sum_of<N>(variates, a.n, euclidean), euclidean, filled, a.n,
                             core::variates(seed_of(a), row.id, row.sample, core::kRadiusCall));
        T* out = static_cast<T*>(a.out) + item * a.n;
        for (int64_t first = 0; first < a.n; first += kSegment) {
            const int64_t count = a.n - first < kSegment ? a.n - first : kSegment;
            T* to = a.channels == 1 ? out + first : points;
            for (int64_t at = 0; at < count; at += N::kStep)
                place<N, Clamped>(to, scratch.base() + first, scale, at, count,
                                  N::load(variates + first + at));
            if (a.channels != 1) scatter(out, points, first, count, a.channels, a.n / a.channels);
        }
    }
}

template <class N, bool Clamped, class T>
void noise_range(const SampleNoise& a, int64_t begin, int64_t end) {
    return is_independent(a.noise) ? independent_range<N, Clamped, T>(a, begin, end)
                                   : ball_range<N, Clamped, T>(a, begin, end);
}

template <class N, bool Clamped>
void noise_dtype(const SampleNoise& a, int64_t begin, int64_t end) {
    core::with_type(a.dtype,
                    [&](auto element) { noise_range<N, Clamped, decltype(element)>(a, begin, end); });
}

template <class N>
void sample_noise_items(const SampleNoise& a, int64_t begin, int64_t end) {
    return a.clamp ? noise_dtype<N, true>(a, begin, end) : noise_dtype<N, false>(a, begin, end);
}

}  // namespace
}  // namespace rcfast::cpu
