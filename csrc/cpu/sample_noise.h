// Points of noise and balls on the CPU; N is the vector type of the instruction set (noise_*.h), and N::V the
// one it shares with the hypercube (simd_*.h).
#pragma once
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

#include "../core/dtype.h"
#include "../core/noise.h"
#include "../core/numbers.h"
#include "../core/quantile.h"
#include "kernel_table.h"
#include "sample_hypercube.h"

namespace rcfast::cpu {
namespace {

constexpr int64_t kPadding = 64;  // elements beyond the last that a whole step of any vector type may touch

template <class N>
constexpr int kGroups = N::kStep / (N::V::kCalls * core::kWords);  // of Philox calls, for one step

// Calls for whole steps of `count` elements from `first` on.
template <class N>
inline void prepare(const typename N::V::Keys& keys, uint64_t id, int64_t first, int64_t count,
                    typename N::V::Calls* calls) {
    const int64_t steps = (count + N::kStep - 1) / N::kStep;
    N::V::prepare(keys, id, static_cast<uint32_t>(first / core::kWords), kGroups<N> * steps, calls);
}

// Calls use(steps, at, words) with the words of steps * kStep elements, for at = 0, ... below count.
template <class N, class Use>
inline void for_words(const typename N::V::Keys& keys, const typename N::V::Sample& sample,
                      const typename N::V::Calls* calls, int64_t count, Use use) {
    const auto draw = [&](auto steps, int64_t at) {
        constexpr int kSteps = decltype(steps)::value;
        typename N::V::Variates words[2 * kSteps];
        N::V::template variates<kGroups<N> * kSteps>(keys, sample, calls + kGroups<N> * (at / N::kStep),
                                                     words);
        use(steps, at, words);
    };
    int64_t at = 0;
    for (; at + (N::kUnroll - 1) * N::kStep < count; at += N::kUnroll * N::kStep)
        draw(std::integral_constant<int, N::kUnroll>(), at);
    for (; at < count; at += N::kStep) draw(std::integral_constant<int, 1>(), at);
}

struct Tails {
    int count, at[64];
    float variates[64];
};

// Not in line: nearly two of three calls of for_words' use have none.
template <class N>
__attribute__((noinline)) void find_tails(const void* words, uint64_t bits, Tails& tails) {
    tails.count = 0;
    for (; bits; bits &= bits - 1) {
        const int at = N::element(__builtin_ctzll(bits));
        uint32_t word;
        std::memcpy(&word, static_cast<const uint32_t*>(words) + at, sizeof word);
        tails.at[tails.count] = at;
        tails.variates[tails.count++] = core::normal_tail(core::kNormal, word);
    }
}

// Calls use(at, points) with the variates of elements [at, + kStep) for at = 0, kStep, ... below count, and
// later mend(at, variate) for single elements among them whose points were not right.
template <class N, class Use, class Mend>
inline void for_variates(bool exponential, const typename N::V::Keys& keys,
                         const typename N::V::Sample& sample, const typename N::V::Calls* calls,
                         int64_t count, Use use, Mend mend) {
    if (exponential)
        return for_words<N>(keys, sample, calls, count, [&](auto steps, int64_t at, const auto* words) {
            for (int i = 0; i < decltype(steps)::value; ++i)
                use(at + i * N::kStep, N::exponentials(words + 2 * i));
        });
    for_words<N>(keys, sample, calls, count, [&](auto steps, int64_t at, const auto* words) {
        constexpr int kSteps = decltype(steps)::value;
        typename N::Far far[kSteps];
        for (int i = 0; i < kSteps; ++i) use(at + i * N::kStep, N::normals(words + 2 * i, far[i]));
        if (const uint64_t bits = N::template tails<kSteps>(far)) {
            Tails tails;
            find_tails<N>(words, bits, tails);
            for (int i = 0; i < tails.count; ++i)
                if (at + tails.at[i] < count) mend(at + tails.at[i], tails.variates[i]);
        }
    });
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

inline uint32_t first_sample_of(const SampleNoise& a) {
    return a.first_sample_tensor ? static_cast<uint32_t>(*a.first_sample_tensor) : a.first_sample;
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
    typename N::V::Calls calls[kSegment / (N::V::kCalls * core::kWords)];
    const bool exponential = is_exponential(a.noise);
    const typename N::V::Keys keys{seed_of(a)};
    const uint32_t first_sample = first_sample_of(a);
    const int64_t per_example = segments(a.n);
    for (int64_t item = begin; item < end;) {
        const int64_t example = item / a.samples / per_example;
        const int64_t first = item / a.samples % per_example * kSegment;
        const int64_t count = a.n - first < kSegment ? a.n - first : kSegment;
        const auto id = static_cast<uint64_t>(a.example_ids[example]);
        const float scale = size_of(a, example);
        copy_padded(base, a.x + example * a.n + first, count);
        prepare<N>(keys, id, first, count, calls);
        const int64_t sample = item % a.samples;
        const int64_t stop = end - item < a.samples - sample ? sample + end - item : a.samples;
        for (int64_t s = sample; s < stop; ++s) {
            T* row = static_cast<T*>(a.out) + (example * a.samples + s) * a.n;
            T* out = a.channels == 1 ? row + first : points;
            for_variates<N>(
                exponential, keys, {keys, id, first_sample + static_cast<uint32_t>(s)}, calls, count,
                [&](int64_t at, auto variates) { place<N, Clamped>(out, base, scale, at, count, variates); },
                [&](int64_t at, float variate) {
                    out[at] = core::narrow<T>(core::place<Clamped>(base[at], scale, variate));
                });
            if (a.channels != 1) scatter(row, points, first, count, a.channels, a.n / a.channels);
        }
        item += stop - sample;
    }
}

// Room for whole steps of n elements.
constexpr int64_t room(int64_t n) { return (n + kPadding + 63) / 64 * 64; }

template <class T>
class Buffer {
  public:
    explicit Buffer(int64_t count) {
        const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
        data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
        if (!data_) throw std::bad_alloc();
    }
    ~Buffer() { std::free(data_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    operator T*() { return data_; }

  private:
    T* data_;
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

// Of a point whose variates are drawn, zeros behind them.
template <class N>
float scale_of(const SampleNoise& a, int64_t example, uint32_t sample, const float* variates) {
    const bool euclidean = a.noise != Noise::l1_ball, filled = a.noise != Noise::sphere;
    return core::ball_scale(
        size_of(a, example), sum_of<N>(variates, a.n, euclidean), euclidean, filled, a.n,
        core::variates(seed_of(a), static_cast<uint64_t>(a.example_ids[example]), sample, core::kRadiusCall));
}

// A point's scale is known when all its variates are drawn. It is placed while those of the next point but
// one are drawn into its room: writing points waits for memory, and a scale for some 200 cycles of operations
// that wait for each other. The first two rounds place nothing that is kept, the last two draw nothing.
template <class N, bool Clamped, class T>
void ball_range(const SampleNoise& a, int64_t begin, int64_t end) {
    Buffer<float> variates(2 * room(a.n)), base(room(a.n));
    Buffer<T> points(room(a.n));
    Buffer<typename N::V::Calls> calls(room(a.n) / (N::V::kCalls * core::kWords));
    for (int64_t i = 0; i < 2 * room(a.n); ++i) variates[i] = 0.0f;
    const bool exponential = is_exponential(a.noise);
    const typename N::V::Keys keys{seed_of(a)};
    for (int64_t item = begin; item < end;) {
        const int64_t example = item / a.samples, first = item % a.samples;
        const int64_t count = end - item < a.samples - first ? end - item : a.samples - first;
        const auto id = static_cast<uint64_t>(a.example_ids[example]);
        const uint32_t first_sample = first_sample_of(a) + static_cast<uint32_t>(first);
        copy_padded(base, a.x + example * a.n, a.n);
        prepare<N>(keys, id, 0, a.n, calls);
        float scales[2] = {0.0f, 0.0f};
        for (int64_t i = 0; i < count + 2; ++i) {
            const uint32_t sample = first_sample + static_cast<uint32_t>(i);
            float *own = variates + i % 2 * room(a.n), &scale = scales[i % 2];
            T* out = i < 2 ? nullptr : static_cast<T*>(a.out) + (item + i - 2) * a.n;
            T* to = i < 2 || a.channels != 1 ? static_cast<T*>(points) : out;
            const auto finish = [&](int64_t at) {
                place<N, Clamped>(to, base, scale, at, a.n, N::load(own + at));
            };
            if (i < count) {
                for_variates<N>(
                    exponential, keys, {keys, id, sample}, calls, a.n,
                    [&](int64_t at, auto drawn) {
                        finish(at);
                        N::V::store(own + at, drawn);
                    },
                    [&](int64_t at, float variate) { own[at] = variate; });
                for (int64_t j = a.n; j < a.n + core::kSumLanes; ++j) own[j] = 0.0f;
            } else {
                for (int64_t at = 0; at < a.n; at += N::kStep) finish(at);
            }
            if (i >= 2 && a.channels != 1) scatter(out, to, 0, a.n, a.channels, a.n / a.channels);
            if (i < count) scale = scale_of<N>(a, example, sample, own);
        }
        item += count;
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
