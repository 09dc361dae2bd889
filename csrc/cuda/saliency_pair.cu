// The exact search over all pairs, tile against tile: tiles whose upper corners cannot give a better score
// than one already found are passed over. Scores of valid pairs are not negative, so their bits order as
// integers and one atomic maximum finds the best; an atomic minimum then finds the lowest pair that has it.
// Four launches, and the result does not depend on the order of the blocks.
#include "../core/numbers.h"
#include "../core/saliency.h"
#include "../kernels.h"
#include "launch.h"

namespace rcfast::cuda {
namespace {

constexpr int kThreads = static_cast<int>(kSaliencyTile);  // a thread for each coordinate of a tile
constexpr int kWarp = 32;
constexpr int64_t kMaxBlocks = 65536;

using Key = unsigned long long;  // p * 2^32 + q
constexpr Key kNoPair = ~0ull;

RCFAST_HD int64_t tiles(const SaliencyPair& a) { return (a.n + kSaliencyTile - 1) / kSaliencyTile; }
// Of one example: upper corners u [tiles] and v [tiles], then the best score.
RCFAST_HD float* corners(const SaliencyPair& a, int64_t example) {
    return a.workspace + example * (2 * tiles(a) + 1);
}
RCFAST_HD int32_t* best_bits(const SaliencyPair& a, int64_t example) {
    return reinterpret_cast<int32_t*>(corners(a, example) + 2 * tiles(a));
}
RCFAST_HD Key* best_key(const SaliencyPair& a, int64_t example) {
    return reinterpret_cast<Key*>(a.out + 2 * example);
}

RCFAST_HD core::Slopes load(const SaliencyPair& a, int64_t example, int64_t i) {
    if (i >= a.n) return {core::kNotFree, core::kNotFree};
    const int64_t at = example * a.n + i;
    return core::slopes(a.a[at], a.b[at], a.free[at], a.down);
}

static __global__ void __launch_bounds__(kThreads) corners_kernel(SaliencyPair a) {
    __shared__ float u[kThreads], v[kThreads];
    const int64_t count = tiles(a);
    for (int64_t item = blockIdx.x; item < a.batch * count; item += gridDim.x) {
        const int64_t example = item / count, tile = item % count;
        const core::Slopes s = load(a, example, tile * kThreads + threadIdx.x);
        u[threadIdx.x] = s.u;
        v[threadIdx.x] = s.v;
        for (int half = kThreads / 2; half > 0; half /= 2) {
            __syncthreads();
            if (static_cast<int>(threadIdx.x) < half) {
                u[threadIdx.x] =
                    u[threadIdx.x + half] > u[threadIdx.x] ? u[threadIdx.x + half] : u[threadIdx.x];
                v[threadIdx.x] =
                    v[threadIdx.x + half] > v[threadIdx.x] ? v[threadIdx.x + half] : v[threadIdx.x];
            }
        }
        if (threadIdx.x == 0) {
            corners(a, example)[tile] = u[0];
            corners(a, example)[count + tile] = v[0];
            if (tile == 0) {
                *best_bits(a, example) = static_cast<int32_t>(core::bits_of(core::kNoScore));
                *best_key(a, example) = kNoPair;
            }
        }
        __syncthreads();
    }
}

// Row i of the triangle of tile pairs i <= j, from the pair's number.
RCFAST_HD int64_t triangle_row(int64_t pair, int64_t count) {
    int64_t low = 0, high = count - 1;
    while (low < high) {
        const int64_t middle = (low + high + 1) / 2;
        if (middle * count - middle * (middle - 1) / 2 <= pair)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

// lowest false: raises the best score; true: lowers the key of the pair that has it.
template <bool lowest>
static __global__ void __launch_bounds__(kThreads) pairs_kernel(SaliencyPair a) {
    __shared__ float u[kThreads], v[kThreads];
    __shared__ int skip;
    const int64_t count = tiles(a), pairs = count * (count + 1) / 2;
    for (int64_t item = blockIdx.x; item < a.batch * pairs; item += gridDim.x) {
        const int64_t example = item / pairs, pair = item % pairs;
        const int64_t i = triangle_row(pair, count);
        const int64_t j = pair - (i * count - i * (i - 1) / 2) + i;
        const float* corner = corners(a, example);
        int32_t* best = best_bits(a, example);
        if (threadIdx.x == 0) {
            const float bound = core::pair_score(corner[i], corner[count + i], corner[j], corner[count + j]);
            const float known = core::float_of(static_cast<uint32_t>(*static_cast<volatile int32_t*>(best)));
            if (lowest)  // nothing valid, nothing as good, or only pairs above the one found
                skip = known < 0.0f || !(bound >= known) ||
                       static_cast<Key>(i * kThreads) >
                           (*static_cast<volatile Key*>(best_key(a, example)) >> 32);
            else
                skip = !(bound > known);
        }
        const core::Slopes other = load(a, example, j * kThreads + threadIdx.x);
        u[threadIdx.x] = other.u;
        v[threadIdx.x] = other.v;
        __syncthreads();
        if (!skip) {
            const int64_t p = i * kThreads + threadIdx.x;
            const core::Slopes own = load(a, example, p);
            const int first = i == j ? static_cast<int>(threadIdx.x) + 1 : 0;
            if (lowest) {
                const float wanted = core::float_of(static_cast<uint32_t>(*best));
                for (int k = first; k < kThreads; ++k)
                    if (core::pair_score(own.u, own.v, u[k], v[k]) == wanted) {
                        atomicMin(best_key(a, example),
                                  static_cast<Key>(p) << 32 | static_cast<Key>(j * kThreads + k));
                        break;
                    }
            } else {
                float top = core::kNoScore;
                for (int k = first; k < kThreads; ++k) {
                    const float score = core::pair_score(own.u, own.v, u[k], v[k]);
                    top = score > top ? score : top;
                }
                for (int step = kWarp / 2; step > 0; step /= 2) {
                    const float there = __shfl_xor_sync(0xFFFFFFFFu, top, step);
                    top = there > top ? there : top;
                }
                if (threadIdx.x % kWarp == 0) atomicMax(best, static_cast<int32_t>(core::bits_of(top)));
            }
        }
        __syncthreads();
    }
}

static __global__ void __launch_bounds__(kThreads) unpack_kernel(SaliencyPair a) {
    for (int64_t example = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; example < a.batch;
         example += static_cast<int64_t>(gridDim.x) * kThreads) {
        const Key key = *best_key(a, example);
        a.out[2 * example] = key == kNoPair ? -1 : static_cast<int64_t>(key >> 32);
        a.out[2 * example + 1] = key == kNoPair ? -1 : static_cast<int64_t>(key & 0xFFFFFFFFull);
    }
}

dim3 blocks(int64_t items) { return dim3(static_cast<unsigned>(items < kMaxBlocks ? items : kMaxBlocks)); }

}  // namespace

void saliency_pair(const SaliencyPair& args, void* stream) {
    if (args.batch == 0) return;
    const auto on = static_cast<cudaStream_t>(stream);
    const int64_t count = tiles(args), pairs = count * (count + 1) / 2;
    launch_kernel("saliency_pair", &corners_kernel, blocks(args.batch * count), kThreads, on, args);
    launch_kernel("saliency_pair", &pairs_kernel<false>, blocks(args.batch * pairs), kThreads, on, args);
    launch_kernel("saliency_pair", &pairs_kernel<true>, blocks(args.batch * pairs), kThreads, on, args);
    launch_kernel("saliency_pair", &unpack_kernel, blocks((args.batch + kThreads - 1) / kThreads), kThreads,
                  on, args);
}

}  // namespace rcfast::cuda
