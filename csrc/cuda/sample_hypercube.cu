// Kernels of one walk: a thread draws its elements of one example for several samples, so that their
// lines stay in registers, and the threads of a warp write consecutive memory, across the ends of rows too.
// What the loop over samples costs in machine code is counted by bench/sass.py.
#include "../core/dtype.h"
#include "../core/numbers.h"
#include "../core/philox.h"
#include "../core/region.h"
#include "../kernels.h"
#include "launch.h"
#include "samples.h"

namespace rcfast::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kColours = 3;  // channels that a thread draws together

struct Sampling {
    SampleHypercube a;
    core::RoundKeys keys;                 // of a.seed
    uint32_t exponent = core::kExponent;  // not known to the compiler, which would load it for each use anew
};

struct alignas(16) Store {
    uint32_t w[4];
};

// Store `at` of the consecutive values v.
template <class T>
RCFAST_HD Store packed(const float* v, int at) {
    Store s;
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if constexpr (sizeof(T) == sizeof(float))
            s.w[i] = core::bits_of(v[4 * at + i]);
        else
            s.w[i] = core::narrow_pair<T>(v[8 * at + 2 * i], v[8 * at + 2 * i + 1]);
    return s;
}

// The thread's place: `block` of `blocks` of a row, in samples first, first + stride, ...
struct Walk {
    int64_t thread, blocks, block, first, stride;
    uint32_t first_sample;

    RCFAST_HD Walk(const SampleHypercube& a, int64_t blocks_of_row)
        : Walk(a, blocks_of_row, static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) {}
    RCFAST_HD Walk(const SampleHypercube& a, int64_t blocks_of_row, int64_t place)
        : thread(place),
          blocks(blocks_of_row),
          block(thread % blocks_of_row),
          first(thread / blocks_of_row),
          stride(side_by_side(a)),
          first_sample(cuda::first_sample(a)) {}
    // The place `steps` threads further on.
    RCFAST_HD Walk after(int steps) const {
        Walk next = *this;
        next.thread += steps;
        for (next.block += steps; next.block >= blocks; next.block -= blocks) ++next.first;
        return next;
    }
    // How many samples of the thread's are below `samples`.
    RCFAST_HD int turns(int64_t samples) const {
        return first < stride ? static_cast<int>((samples - first + stride - 1) / stride) : 0;
    }
};

RCFAST_HD float radius(const SampleHypercube& a, int64_t example) {
    return a.r_each ? a.r_each[example] : static_cast<float>(a.r);
}

// The eight points of k at v, v + step, ...
template <class Region>
RCFAST_HD void octet(const core::Line* line, const core::Words& k, float* v, int step, uint32_t exponent) {
#pragma unroll
    for (int i = 0; i < core::kLanes; ++i)
        v[i * step] = Region::raised_point(line[i], core::raised_lane(k, i, exponent));
}

// Contiguous, n a multiple of eight, types of two bytes: one store of 16 bytes.
template <class Region, class T>
static __global__ void __launch_bounds__(kThreads) contiguous_kernel(Sampling s) {
    static_assert(core::kLanes * sizeof(T) == sizeof(Store), "eight values make a store");
    const SampleHypercube& a = s.a;
    const Walk walk(a, a.n / core::kLanes);
    const core::RoundKeys keys = keys_of(a, s.keys);
    const int turns = walk.turns(a.samples);
    for (int64_t example = blockIdx.y; example < a.batch; example += gridDim.y) {
        const uint64_t id = static_cast<uint64_t>(a.example_ids[example]);
        const float r = radius(a, example);
        core::Line line[core::kLanes];
#pragma unroll
        for (int i = 0; i < core::kLanes; ++i)
            line[i] = Region::line(a.x[example * a.n + walk.block * core::kLanes + i], r);
        Store* to =
            static_cast<Store*>(a.out) + (example * a.samples + walk.first) * walk.blocks + walk.block;
        uint32_t sample = walk.first_sample + static_cast<uint32_t>(walk.first);
#pragma unroll 1
        for (int turn = turns; turn > 0; --turn) {
            const core::Words k = core::variates(keys, id, sample, static_cast<uint32_t>(walk.block));
            float v[core::kLanes];
            octet<Region>(line, k, v, 1, s.exponent);
            *to = packed<T>(v, 0);
            to += walk.stride * walk.blocks;
            sample += static_cast<uint32_t>(walk.stride);
        }
    }
}

// As contiguous_kernel in float32, where eight values make two stores. Threads 2k and 2k + 1 of a warp draw
// the variates of its blocks k and 16 + k and exchange halves, so that a warp's stores are 512 bytes in a
// row: half-written sectors of 32 bytes cost twice the time.
template <class Region>
static __global__ void __launch_bounds__(kThreads) halves_kernel(Sampling s) {
    constexpr uint32_t kAll = 0xFFFFFFFFu;
    constexpr int kHalf = core::kLanes / 2, kStores = 2;
    const SampleHypercube& a = s.a;
    const int lane = threadIdx.x % kWarp;
    const bool odd = lane & 1;
    const int64_t leader = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x - lane;
    const Walk near(a, a.n / core::kLanes, leader + lane / 2), far = near.after(kWarp / 2);
    const core::RoundKeys keys = keys_of(a, s.keys);
    const auto block = static_cast<uint32_t>(odd ? far.block : near.block);
    const auto stride = static_cast<uint32_t>(near.stride),
               row_bytes = static_cast<uint32_t>(a.n * sizeof(float));
    const uint32_t near_rows = near.turns(a.samples) * stride, far_rows = far.turns(a.samples) * stride;
    // All threads of a warp take part in each turn. In the first turns all of them store.
    const uint32_t most = __shfl_sync(kAll, near_rows, 0), whole = __shfl_sync(kAll, far_rows, kWarp - 1);
    for (int64_t example = blockIdx.y; example < a.batch; example += gridDim.y) {
        const uint64_t id = static_cast<uint64_t>(a.example_ids[example]);
        const float r = radius(a, example);
        const float* x = a.x + example * a.n + (odd ? kHalf : 0);
        core::Line line[core::kLanes];
#pragma unroll
        for (int i = 0; i < kHalf; ++i) {
            line[i] = Region::line(x[near.block * core::kLanes + i], r);
            line[kHalf + i] = Region::line(x[far.block * core::kLanes + i], r);
        }
        Store* const begin =
            static_cast<Store*>(a.out) + (example * a.samples * near.blocks + leader) * kStores + lane;
        const uint32_t sample = near.first_sample + static_cast<uint32_t>(odd ? far.first : near.first);
        const auto draw = [&](uint32_t row, bool store_near, bool store_far) {
            const core::Words own = core::variates(keys, id, sample + row, block);
            core::Words k;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const uint32_t got = __shfl_xor_sync(kAll, odd ? own.w[i] : own.w[2 + i], 1);
                k.w[i] = odd ? got : own.w[i];
                k.w[2 + i] = odd ? own.w[2 + i] : got;
            }
            float v[core::kLanes];
            octet<Region>(line, k, v, 1, s.exponent);
            auto* to =
                reinterpret_cast<Store*>(reinterpret_cast<char*>(begin) + core::product(row, row_bytes));
            if (store_near) to[0] = packed<float>(v, 0);
            if (store_far) to[kWarp] = packed<float>(v, 1);
        };
        uint32_t row = 0;
#pragma unroll 1
        for (; row != whole; row += stride) draw(row, true, true);
#pragma unroll 1
        for (; row < most; row += stride) draw(row, row < near_rows, row < far_rows);
    }
}

// Three channels, channels_last, a multiple of eight pixels, of whose channels a thread draws the same eight.
// Its stores are several, and the threads of a warp exchange them, so that each writes 16 bytes next to its
// neighbour's.
template <class Region, class T>
static __global__ void __launch_bounds__(kThreads) colours_kernel(Sampling s) {
    constexpr int kStores = kColours * core::kLanes * sizeof(T) / sizeof(Store);
    __shared__ Store exchange[kThreads * kStores];
    const SampleHypercube& a = s.a;
    const int64_t pixels = a.n / kColours;
    const Walk walk(a, pixels / core::kLanes);
    const core::RoundKeys keys = keys_of(a, s.keys);
    const int lane = threadIdx.x % kWarp;
    Store* const mine = exchange + (threadIdx.x - lane) * kStores;
    // All threads of a warp take part in each turn; what is stored ends with the last sample.
    const int64_t leader = walk.thread - lane;
    for (int64_t example = blockIdx.y; example < a.batch; example += gridDim.y) {
        const uint64_t id = static_cast<uint64_t>(a.example_ids[example]);
        const float r = radius(a, example);
        core::Line line[kColours][core::kLanes];
#pragma unroll
        for (int c = 0; c < kColours; ++c)
#pragma unroll
            for (int i = 0; i < core::kLanes; ++i)
                line[c][i] = Region::line(a.x[example * a.n + c * pixels + walk.block * core::kLanes + i], r);
        Store* to =
            static_cast<Store*>(a.out) + (example * a.samples * walk.blocks + leader) * kStores + lane;
        uint32_t sample = walk.first_sample + static_cast<uint32_t>(walk.first);
        // Stores from this warp's first on: in all rows, and in those that are walked side by side.
        int64_t left = (a.samples * walk.blocks - leader) * kStores;
        const int64_t beside = (walk.stride * walk.blocks - leader) * kStores;
        const int most = static_cast<int>(beside < kWarp * kStores ? beside : kWarp * kStores);
#pragma unroll 1
        for (; left > 0 && most > 0; left -= walk.stride * walk.blocks * kStores) {
            float v[kColours * core::kLanes];
#pragma unroll
            for (int c = 0; c < kColours; ++c)
                octet<Region>(
                    line[c],
                    core::variates(keys, id, sample, static_cast<uint32_t>(c * walk.blocks + walk.block)),
                    v + c, kColours, s.exponent);
#pragma unroll
            for (int i = 0; i < kStores; ++i) mine[lane * kStores + i] = packed<T>(v, i);
            __syncwarp();
            const int count = left < most ? static_cast<int>(left) : most;
#pragma unroll
            for (int i = 0; i < kStores; ++i)
                if (i * kWarp + lane < count) to[i * kWarp] = mine[i * kWarp + lane];
            __syncwarp();
            to += walk.stride * walk.blocks * kStores;
            sample += static_cast<uint32_t>(walk.stride);
        }
    }
}

// Every other shape and layout: a store for each element.
template <class Region, class T>
static __global__ void __launch_bounds__(kThreads) any_kernel(Sampling s) {
    const SampleHypercube& a = s.a;
    const Walk walk(a, (a.n + core::kLanes - 1) / core::kLanes);
    const core::RoundKeys keys = keys_of(a, s.keys);
    const int turns = walk.turns(a.samples);
    const int64_t pixels = a.n / a.channels;
    T* at[core::kLanes];  // of the first sample of the first example
#pragma unroll
    for (int i = 0; i < core::kLanes; ++i) {
        const int64_t e = walk.block * core::kLanes + i;
        at[i] = e < a.n ? static_cast<T*>(a.out) + walk.first * a.n +
                              (a.channels == 1 ? e : e % pixels * a.channels + e / pixels)
                        : nullptr;
    }
    for (int64_t example = blockIdx.y; example < a.batch; example += gridDim.y) {
        const uint64_t id = static_cast<uint64_t>(a.example_ids[example]);
        const float r = radius(a, example);
        core::Line line[core::kLanes];
#pragma unroll
        for (int i = 0; i < core::kLanes; ++i)
            line[i] = Region::line(at[i] ? a.x[example * a.n + walk.block * core::kLanes + i] : 0.0f, r);
        int64_t row = example * a.samples * a.n;
        uint32_t sample = walk.first_sample + static_cast<uint32_t>(walk.first);
#pragma unroll 1
        for (int turn = turns; turn > 0; --turn) {
            const core::Words k = core::variates(keys, id, sample, static_cast<uint32_t>(walk.block));
            float v[core::kLanes];
            octet<Region>(line, k, v, 1, s.exponent);
#pragma unroll
            for (int i = 0; i < core::kLanes; ++i)
                if (at[i]) at[i][row] = core::narrow<T>(v[i]);
            row += walk.stride * a.n;
            sample += static_cast<uint32_t>(walk.stride);
        }
    }
}

template <class Region, class T>
constexpr auto row_kernel() {
    if constexpr (sizeof(T) == sizeof(float))
        return halves_kernel<Region>;
    else
        return contiguous_kernel<Region, T>;
}

template <class Region, class T>
void launch(const Sampling& s, cudaStream_t stream) {
    const SampleHypercube& a = s.a;
    const bool aligned = reinterpret_cast<uintptr_t>(a.out) % sizeof(Store) == 0;
    const bool colours = aligned && a.channels == kColours && a.n % (kColours * core::kLanes) == 0;
    const bool counts = sizeof(T) < sizeof(float) || (a.n >> 30 | a.samples >> 31) == 0;  // in 32 bits
    const bool contiguous = aligned && counts && a.channels == 1 && a.n % core::kLanes == 0;
    const int64_t blocks = ((colours ? a.n / kColours : a.n) + core::kLanes - 1) / core::kLanes;
    const dim3 grid(static_cast<unsigned>((blocks * side_by_side(a) + kThreads - 1) / kThreads),
                    static_cast<unsigned>(a.batch < kMaxGridY ? a.batch : kMaxGridY));
    const auto kernel = colours      ? colours_kernel<Region, T>
                        : contiguous ? row_kernel<Region, T>()
                                     : any_kernel<Region, T>;
    launch_kernel("sample_hypercube", kernel, grid, kThreads, stream, s);
}

template <class Region>
void launch_dtype(const Sampling& s, cudaStream_t stream) {
    core::with_type(s.a.dtype, [&](auto element) { launch<Region, decltype(element)>(s, stream); });
}

}  // namespace

void sample_hypercube(const SampleHypercube& args, void* stream) {
    if (args.batch == 0 || args.samples == 0 || args.n == 0) return;
    const auto on = static_cast<cudaStream_t>(stream);
    const Sampling s{args, core::round_keys(args.seed)};
    if (args.clip == Clip::intersect)
        launch_dtype<core::Intersect>(s, on);
    else
        launch_dtype<core::Clamp>(s, on);
}

}  // namespace rcfast::cuda
