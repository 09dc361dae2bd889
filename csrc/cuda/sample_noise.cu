// Two kernels. Independent coordinates: a thread owns the consecutive elements of one example that a store of
// 16 bytes holds, for half-written sectors of 32 bytes cost twice the time, and walks over samples, as in
// sample_hypercube.cu. Balls: eight threads share a point, each with four of the 32 lanes
// of the sum, and draw its variates twice, for the sum and for the points: arithmetic is cheaper than keeping
// them. The table of quantiles travels with the launch and is read from shared memory, where a column is a
// bank: no two threads of a warp that read different columns meet.
#include "../core/dtype.h"
#include "../core/noise.h"
#include "../core/numbers.h"
#include "../core/philox.h"
#include "../core/quantile.h"
#include "../kernels.h"
#include "launch.h"
#include "samples.h"

namespace rcfast::cuda {
namespace {

constexpr int kThreads = 256;
template <class T>
constexpr int kElements = 16 / sizeof(T);              // of a thread
constexpr int kTeam = core::kSumLanes / core::kWords;  // threads that share a point

struct Job {
    SampleNoise a;
    core::RoundKeys keys;  // of a.seed
    core::QuantileTable table;
};

struct SharedTable {
    core::QuantileTable at;
};

template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
    T v[N];
};

RCFAST_DEVICE void read_table(SharedTable& shared, const core::QuantileTable& table) {
    for (int i = static_cast<int>(threadIdx.x); i < core::kQuantileTerms * core::kQuantileColumns;
         i += kThreads)
        shared.at[i / core::kQuantileColumns][i % core::kQuantileColumns] =
            table[i / core::kQuantileColumns][i % core::kQuantileColumns];
    __syncthreads();
}

// Stores the first `count` of N elements of a row, from element `first` on.
template <bool Aligned, class T, int N>
RCFAST_DEVICE void store(T* row, const Pack<T, N>& points, int64_t first, int count, int64_t channels,
                         int64_t pixels) {
    if constexpr (Aligned) {
        *reinterpret_cast<Pack<T, N>*>(row + first) = points;
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const int64_t e = first + i;
            if (i < count) row[channels == 1 ? e : e % pixels * channels + e / pixels] = points.v[i];
        }
    }
}

template <class T, bool Clamped, bool Aligned, bool Exponential>
static __global__ void __launch_bounds__(kThreads) independent_kernel(Job job) {
    __shared__ SharedTable table;
    read_table(table, job.table);
    const SampleNoise& a = job.a;
    constexpr int kOwn = kElements<T>;
    const int64_t stride = side_by_side(a), packs = (a.n + kOwn - 1) / kOwn;
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    const int64_t pack = thread % packs, first = thread / packs;
    if (first >= stride) return;
    const int64_t element = pack * kOwn;
    const int count = a.n - element < kOwn ? static_cast<int>(a.n - element) : kOwn;
    const core::RoundKeys keys = keys_of(a, job.keys);
    const auto call = static_cast<uint32_t>(element / core::kWords);

    for (int64_t example = blockIdx.y; example < a.batch; example += gridDim.y) {
        const float scale = a.size_each ? a.size_each[example] : static_cast<float>(a.size);
        const auto id = static_cast<uint64_t>(a.example_ids[example]);
        float x[kOwn];
#pragma unroll
        for (int i = 0; i < kOwn; ++i)
            x[i] = core::add(i < count ? a.x[example * a.n + element + i] : 0.0f, 0.0f);
        for (int64_t s = first; s < a.samples; s += stride) {
            const uint32_t sample = first_sample(a) + static_cast<uint32_t>(s);
            core::Words words[kOwn / core::kWords];
#pragma unroll
            for (int i = 0; i < kOwn / core::kWords; ++i)
                words[i] = core::variates(keys, id, sample, call + static_cast<uint32_t>(i));
            Pack<T, kOwn> points;
#pragma unroll
            for (int i = 0; i < kOwn; ++i)
                points.v[i] = core::narrow<T>(core::place<Clamped>(
                    x[i], scale,
                    core::quantile(table.at, Exponential, words[i / core::kWords].w[i % core::kWords])));
            store<Aligned>(static_cast<T*>(a.out) + (example * a.samples + s) * a.n, points, element, count,
                           a.channels, a.n / a.channels);
        }
    }
}

// The sum over a point, in the order of core/noise.h; every thread of the team gets it.
template <bool Euclidean>
RCFAST_DEVICE double sum_of(const core::QuantileTable& table, const SampleNoise& a,
                            const core::RoundKeys& keys, uint64_t id, uint32_t sample, int mate) {
    double sum = 0.0;
    for (int64_t first = 0; first < a.n; first += core::kSumSegment) {
        const int64_t end = a.n - first < core::kSumSegment ? a.n : first + core::kSumSegment;
        float lane[core::kWords] = {};
        for (int64_t e = first + mate * core::kWords; e < end; e += core::kSumLanes) {
            const core::Words words =
                core::variates(keys, id, sample, static_cast<uint32_t>(e / core::kWords));
#pragma unroll
            for (int i = 0; i < core::kWords; ++i)
                if (e + i < end)
                    lane[i] = core::add(lane[i],
                                        core::term<Euclidean>(core::quantile(table, !Euclidean, words.w[i])));
        }
        for (int step = kTeam / 2; step > 0; step /= 2)
#pragma unroll
            for (int i = 0; i < core::kWords; ++i)
                lane[i] = core::add(lane[i], __shfl_down_sync(0xFFFFFFFFu, lane[i], step));
        const float even = core::add(lane[0], lane[2]), odd = core::add(lane[1], lane[3]);
        sum = core::add(sum, static_cast<double>(core::add(even, odd)));
    }
    return sum;  // right in the team's first thread
}

template <class T, bool Clamped, bool Aligned, bool Exponential>
static __global__ void __launch_bounds__(kThreads) ball_kernel(Job job) {
    __shared__ SharedTable table;
    read_table(table, job.table);
    const SampleNoise& a = job.a;
    const bool filled = a.noise != Noise::sphere;
    const core::RoundKeys keys = keys_of(a, job.keys);
    const int mate = static_cast<int>(threadIdx.x) % kTeam;
    const int64_t points = a.batch * a.samples, teams = static_cast<int64_t>(gridDim.x) * (kThreads / kTeam);
    const int64_t team = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kTeam;
    // All teams of a warp go round equally often, for they shuffle together: beyond the end the last point
    // again.
    for (int64_t round = 0; round < points; round += teams) {
        const bool mine = round + team < points;
        const int64_t point = mine ? round + team : points - 1;
        const int64_t example = point / a.samples;
        const auto id = static_cast<uint64_t>(a.example_ids[example]);
        const uint32_t sample = first_sample(a) + static_cast<uint32_t>(point % a.samples);
        const double sum = sum_of<!Exponential>(table.at, a, keys, id, sample, mate);
        const float size = a.size_each ? a.size_each[example] : static_cast<float>(a.size);
        float scale = 0.0f;
        if (mate == 0)
            scale = core::ball_scale(size, sum, !Exponential, filled, a.n,
                                     core::variates(keys, id, sample, core::kRadiusCall));
        scale = __shfl_sync(0xFFFFFFFFu, scale, static_cast<int>(threadIdx.x) % 32 - mate);
        if (!mine) continue;
        const float* x = a.x + example * a.n;
        T* row = static_cast<T*>(a.out) + point * a.n;
        for (int64_t e = mate * core::kWords; e < a.n; e += core::kSumLanes) {
            const core::Words words =
                core::variates(keys, id, sample, static_cast<uint32_t>(e / core::kWords));
            const int count = a.n - e < core::kWords ? static_cast<int>(a.n - e) : core::kWords;
            Pack<T, core::kWords> made;
#pragma unroll
            for (int i = 0; i < core::kWords; ++i)
                made.v[i] =
                    core::narrow<T>(core::place<Clamped>(core::add(i < count ? x[e + i] : 0.0f, 0.0f), scale,
                                                         core::quantile(table.at, Exponential, words.w[i])));
            store<Aligned>(row, made, e, count, a.channels, a.n / a.channels);
        }
    }
}

template <class T, bool Clamped, bool Aligned, bool Exponential>
void launch(const SampleNoise& a, cudaStream_t stream) {
    Job job = {a, core::round_keys(a.seed), {}};
    std::memcpy(job.table, Exponential ? core::kExponential : core::kNormal, sizeof job.table);
    if (is_independent(a.noise)) {
        const int64_t threads = (a.n + kElements<T> - 1) / kElements<T> * side_by_side(a);
        const dim3 grid(static_cast<unsigned>((threads + kThreads - 1) / kThreads),
                        static_cast<unsigned>(a.batch < kMaxGridY ? a.batch : kMaxGridY));
        launch_kernel("sample_noise", independent_kernel<T, Clamped, Aligned, Exponential>, grid, kThreads,
                      stream, job);
    } else {
        const int64_t blocks = (a.batch * a.samples * kTeam + kThreads - 1) / kThreads;
        const dim3 grid(static_cast<unsigned>(blocks < (1 << 20) ? blocks : 1 << 20));
        launch_kernel("sample_noise", ball_kernel<T, Clamped, Aligned, Exponential>, grid, kThreads, stream,
                      job);
    }
}

template <class T, bool Clamped, bool Aligned>
void launch_law(const SampleNoise& a, cudaStream_t stream) {
    return is_exponential(a.noise) ? launch<T, Clamped, Aligned, true>(a, stream)
                                   : launch<T, Clamped, Aligned, false>(a, stream);
}

template <class T, bool Clamped>
void launch_layout(const SampleNoise& a, cudaStream_t stream) {
    const bool aligned =
        a.channels == 1 && a.n % kElements<T> == 0 && reinterpret_cast<uintptr_t>(a.out) % 16 == 0;
    return aligned ? launch_law<T, Clamped, true>(a, stream) : launch_law<T, Clamped, false>(a, stream);
}

template <class T>
void launch_clamp(const SampleNoise& a, cudaStream_t stream) {
    return a.clamp ? launch_layout<T, true>(a, stream) : launch_layout<T, false>(a, stream);
}

}  // namespace

void sample_noise(const SampleNoise& args, void* stream) {
    if (args.batch == 0 || args.samples == 0 || args.n == 0) return;
    const auto on = static_cast<cudaStream_t>(stream);
    core::with_type(args.dtype, [&](auto element) { launch_clamp<decltype(element)>(args, on); });
}

}  // namespace rcfast::cuda
