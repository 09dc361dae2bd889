// Points of hypercubes on the CPU; V is the vector type of the instruction set (simd_*.h).
#pragma once
#include <cstring>

#include "../core/dtype.h"
#include "../core/numbers.h"
#include "../core/philox.h"
#include "../core/region.h"
#include "kernel_table.h"

namespace rcfast::cpu {
namespace {

// Groups of Philox calls, of which each gives PerCall elements, for `count` elements.
template <class V, int PerCall>
constexpr int64_t groups_of(int64_t count) {
    return (count + V::kCalls * PerCall - 1) / (V::kCalls * PerCall);
}

template <class V, int Groups, class Region, class T>
inline void fill_groups(T* out, const float* base, const float* scale, const typename V::Keys& keys,
                        const typename V::Sample& sample, const typename V::Calls* calls) {
    typename V::Variates k[Groups * V::kParts];
    V::template variates<Groups>(keys, sample, calls, k);
    for (int part = 0; part < Groups * V::kParts; ++part) {
        const int at = part * V::kPart;
        V::store(out + at, V::template points<Region>(k[part], base + at, scale + at));
    }
}

// `count` elements of a row; base and scale reach to a whole group.
template <class V, class Region, class T>
inline void fill(T* out, const float* base, const float* scale, int64_t count, const typename V::Keys& keys,
                 const typename V::Sample& sample, const typename V::Calls* calls) {
    constexpr int group = V::kParts * V::kPart;
    int64_t at = 0;
    for (; at + V::kUnroll * group <= count; at += V::kUnroll * group, calls += V::kUnroll)
        fill_groups<V, V::kUnroll, Region>(out + at, base + at, scale + at, keys, sample, calls);
    for (; at < count; at += group, ++calls) {
        if (at + group <= count) {
            fill_groups<V, 1, Region>(out + at, base + at, scale + at, keys, sample, calls);
        } else {
            T rest[group];
            fill_groups<V, 1, Region>(rest, base + at, scale + at, keys, sample, calls);
            std::memcpy(out + at, rest, static_cast<size_t>(count - at) * sizeof(T));
        }
    }
}

// Element e = c*pixels + p of channels_last memory lies at p*channels + c.
template <class T>
inline void scatter(T* out, const T* points, int64_t first, int64_t count, int64_t channels, int64_t pixels) {
    for (int64_t at = 0; at < count;) {
        const int64_t c = (first + at) / pixels, p = (first + at) % pixels;
        const int64_t run = pixels - p < count - at ? pixels - p : count - at;
        T* to = out + p * channels + c;
        for (int64_t i = 0; i < run; ++i) to[i * channels] = points[at + i];
        at += run;
    }
}

template <class V, class Region, class T>
void sample_range(const SampleHypercube& a, int64_t begin, int64_t end) {
    alignas(64) float base[kSegment + 64], scale[kSegment + 64];
    alignas(64) T points[kSegment];
    typename V::Calls calls[kSegment / (V::kParts * V::kPart)];
    const int64_t per_example = segments(a.n);
    const typename V::Keys keys{a.seed_tensor ? static_cast<uint64_t>(*a.seed_tensor) : a.seed};
    const uint32_t first_sample =
        a.first_sample_tensor ? static_cast<uint32_t>(*a.first_sample_tensor) : a.first_sample;
    for (int64_t item = begin; item < end;) {
        const int64_t example = item / a.samples / per_example;
        const int64_t first = item / a.samples % per_example * kSegment;
        const int64_t count = a.n - first < kSegment ? a.n - first : kSegment;
        const float r = a.r_each ? a.r_each[example] : static_cast<float>(a.r);
        const float* x = a.x + example * a.n + first;
        for (int64_t i = 0; i < count; ++i) {
            const core::Line line = Region::line(x[i], r);
            base[i] = line.base;
            scale[i] = line.scale;
        }
        for (int64_t i = count; i < count + 64; ++i) base[i] = scale[i] = 0.0f;
        const auto id = static_cast<uint64_t>(a.example_ids[example]);
        V::prepare(keys, id, static_cast<uint32_t>(first / core::kLanes), groups_of<V, core::kLanes>(count),
                   calls);

        const int64_t sample = item % a.samples;
        const int64_t stop = end - item < a.samples - sample ? sample + end - item : a.samples;
        for (int64_t s = sample; s < stop; ++s) {
            T* out = static_cast<T*>(a.out) + (example * a.samples + s) * a.n;
            const typename V::Sample here(keys, id, first_sample + static_cast<uint32_t>(s));
            if (a.channels == 1) {
                fill<V, Region>(out + first, base, scale, count, keys, here, calls);
            } else {
                fill<V, Region>(points, base, scale, count, keys, here, calls);
                scatter(out, points, first, count, a.channels, a.n / a.channels);
            }
        }
        item += stop - sample;
    }
}

template <class V, class Region>
void sample_dtype(const SampleHypercube& a, int64_t begin, int64_t end) {
    core::with_type(a.dtype,
                    [&](auto element) { sample_range<V, Region, decltype(element)>(a, begin, end); });
}

template <class V>
void sample_hypercube_items(const SampleHypercube& a, int64_t begin, int64_t end) {
    if (a.clip == Clip::intersect)
        sample_dtype<V, core::Intersect>(a, begin, end);
    else
        sample_dtype<V, core::Clamp>(a, begin, end);
}

}  // namespace
}  // namespace rcfast::cpu
