// Eight threads share a point, each with four of the 32 lanes of the sum, as in sample_noise.cu.
#include "../core/dtype.h"
#include "../core/noise.h"
#include "../core/numbers.h"
#include "../kernels.h"
#include "launch.h"

namespace rcfast::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTeam = core::kSumLanes / core::kWords;

template <class T>
static __global__ void __launch_bounds__(kThreads) distance_kernel(Distance a) {
    const int mate = static_cast<int>(threadIdx.x) % kTeam;
    const int64_t points = a.batch * a.samples, teams = static_cast<int64_t>(gridDim.x) * (kThreads / kTeam);
    const int64_t team = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kTeam,
                  pixels = a.n / a.channels;
    for (int64_t round = 0; round < points; round += teams) {
        const bool mine = round + team < points;
        const int64_t point = mine ? round + team : points - 1;
        const T* row = static_cast<const T*>(a.points) + point * a.n;
        const float* x = a.x + point / a.samples * a.n;
        double sum = 0.0;
        for (int64_t first = 0; first < a.n; first += core::kSumSegment) {
            const int64_t end = a.n - first < core::kSumSegment ? a.n : first + core::kSumSegment;
            float lane[core::kWords] = {};
            for (int64_t e = first + mate * core::kWords; e < end; e += core::kSumLanes)
#pragma unroll
                for (int i = 0; i < core::kWords; ++i)
                    if (e + i < end) {
                        const int64_t at =
                            a.channels == 1 ? e + i : (e + i) % pixels * a.channels + (e + i) / pixels;
                        lane[i] =
                            core::add(lane[i], core::term<true>(core::add(core::widen(row[at]), -x[e + i])));
                    }
            for (int step = kTeam / 2; step > 0; step /= 2)
#pragma unroll
                for (int i = 0; i < core::kWords; ++i)
                    lane[i] = core::add(lane[i], __shfl_down_sync(0xFFFFFFFFu, lane[i], step));
            sum = core::add(sum, static_cast<double>(
                                     core::add(core::add(lane[0], lane[2]), core::add(lane[1], lane[3]))));
        }
        if (mine && mate == 0) a.out[point] = static_cast<float>(core::root(sum));
    }
}

template <class T>
void launch(const Distance& a, cudaStream_t stream) {
    const int64_t blocks = (a.batch * a.samples * kTeam + kThreads - 1) / kThreads;
    const dim3 grid(static_cast<unsigned>(blocks < (1 << 20) ? blocks : 1 << 20));
    launch_kernel("distance", distance_kernel<T>, grid, kThreads, stream, a);
}

}  // namespace

void distance(const Distance& args, void* stream) {
    if (args.batch == 0 || args.samples == 0) return;
    const auto on = static_cast<cudaStream_t>(stream);
    core::with_type(args.dtype, [&](auto element) { launch<decltype(element)>(args, on); });
}

}  // namespace rcfast::cuda
