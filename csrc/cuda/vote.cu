// Two kernels of one rule. Few labels: a thread reads a row, votes are gathered in shared memory. Many
// labels: a warp reads a row. Counts are integers, so the order of the atomic additions leaves no trace.
#include "../core/argmax.h"
#include "../core/dtype.h"
#include "../core/numbers.h"
#include "../kernels.h"
#include "launch.h"

namespace rcfast::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kFewLabels = 64;  // a row of more is shared by a warp

template <class T>
static __global__ void __launch_bounds__(kThreads) vote_few_kernel(Vote a) {
    __shared__ int32_t tally[kFewLabels];
    const T* logits = static_cast<const T*>(a.logits);
    const int labels = static_cast<int>(a.labels), segment = blockIdx.z;
    const int64_t begin = segment ? a.ends[segment - 1] : 0;
    const int64_t end = segment < a.segments - 1 ? a.ends[segment] : a.samples;
    for (int64_t example = blockIdx.y; example < a.batch; example += gridDim.y) {
        for (int i = threadIdx.x; i < labels; i += kThreads) tally[i] = 0;
        __syncthreads();
        for (int64_t s = begin + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; s < end;
             s += static_cast<int64_t>(gridDim.x) * kThreads) {
            const T* row = logits + (example * a.samples + s) * labels;
            core::Leader leader = core::nobody();
            for (int i = 0; i < labels; ++i) leader = core::consider(leader, core::widen(row[i]), i);
            if (!leader.nan) atomicAdd(&tally[leader.label], 1);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < labels; i += kThreads)
            if (tally[i]) atomicAdd(&a.counts[(example * a.segments + segment) * labels + i], tally[i]);
        __syncthreads();
    }
}

// Logits that are read at once: 16 bytes where rows and their start allow it.
template <class T, int kRead>
struct alignas(sizeof(T) * kRead) Read {
    T logit[kRead];
};

template <class T, int kRead>
static __global__ void __launch_bounds__(kThreads) vote_many_kernel(Vote a) {
    const auto* logits = static_cast<const Read<T, kRead>*>(a.logits);
    const int lane = threadIdx.x % kWarp;
    const int64_t reads = a.labels / kRead;
    const int64_t rows = a.batch * a.samples, warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
    for (int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp; row < rows;
         row += warps) {
        core::Leader leader = core::nobody();
#pragma unroll 4
        for (int64_t i = lane; i < reads; i += kWarp) {
            const Read<T, kRead> read = logits[row * reads + i];
#pragma unroll
            for (int k = 0; k < kRead; ++k)
                leader =
                    core::consider(leader, core::widen(read.logit[k]), static_cast<int32_t>(i * kRead + k));
        }
        for (int step = kWarp / 2; step > 0; step /= 2) {
            const core::Leader other{__shfl_down_sync(0xFFFFFFFFu, leader.value, step),
                                     __shfl_down_sync(0xFFFFFFFFu, leader.label, step),
                                     __shfl_down_sync(0xFFFFFFFFu, leader.nan, step)};
            leader = core::better(leader, other);
        }
        if (lane == 0 && !leader.nan) {
            const int64_t example = row / a.samples, sample = row % a.samples;
            int segment = 0;
            while (segment < a.segments - 1 && sample >= a.ends[segment]) ++segment;
            atomicAdd(&a.counts[(example * a.segments + segment) * a.labels + leader.label], 1);
        }
    }
}

template <class T>
void launch(const Vote& a, cudaStream_t stream) {
    if (a.labels <= kFewLabels) {
        const int64_t blocks = (a.samples + kThreads - 1) / kThreads;
        const dim3 grid(static_cast<unsigned>(blocks < 1024 ? blocks : 1024),
                        static_cast<unsigned>(a.batch < kMaxGridY ? a.batch : kMaxGridY),
                        static_cast<unsigned>(a.segments));
        launch_kernel("vote", vote_few_kernel<T>, grid, kThreads, stream, a);
    } else {
        const int64_t blocks = (a.batch * a.samples + kThreads / kWarp - 1) / (kThreads / kWarp);
        const dim3 grid(static_cast<unsigned>(blocks < 65536 ? blocks : 65536));
        constexpr int kRead = 16 / sizeof(T);
        const bool wide = a.labels % kRead == 0 && reinterpret_cast<uintptr_t>(a.logits) % 16 == 0;
        const auto kernel = wide ? vote_many_kernel<T, kRead> : vote_many_kernel<T, 1>;
        launch_kernel("vote", kernel, grid, kThreads, stream, a);
    }
}

}  // namespace

void vote(const Vote& args, void* stream) {
    if (args.batch == 0 || args.samples == 0) return;
    const auto on = static_cast<cudaStream_t>(stream);
    core::with_type(args.dtype, [&](auto element) { launch<decltype(element)>(args, on); });
}

}  // namespace rcfast::cuda
