// Weighted votes: a warp reads a row, each lane every 32nd label. Everything summed is an integer, so the
// order of additions leaves no trace.
#include "../core/argmax.h"
#include "../core/dtype.h"
#include "../core/numbers.h"
#include "../core/softmax.h"
#include "../kernels.h"
#include "launch.h"

namespace rcfast::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr unsigned kAll = 0xFFFFFFFFu;
using Sum = unsigned long long;  // as atomicAdd takes it

template <class T>
RCFAST_DEVICE core::Leader leader_of(const T* row, int64_t labels, int lane) {
    core::Leader leader = core::nobody();
    for (int64_t i = lane; i < labels; i += kWarp)
        leader = core::consider(leader, core::widen(row[i]), static_cast<int32_t>(i));
    for (int step = kWarp / 2; step > 0; step /= 2)
        leader = core::better(
            leader, {__shfl_xor_sync(kAll, leader.value, step), __shfl_xor_sync(kAll, leader.label, step),
                     __shfl_xor_sync(kAll, leader.nan, step)});
    return leader;
}

template <class T>
static __global__ void __launch_bounds__(kThreads) vote_soft_kernel(VoteSoft a) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int64_t rows = a.batch * a.samples, warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
    for (int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp; row < rows;
         row += warps) {
        const T* logits = static_cast<const T*>(a.logits) + row * a.labels;
        const core::Leader leader = leader_of(logits, a.labels, lane);
        if (leader.nan) continue;  // the whole warp
        const int64_t example = row / a.samples;
        Sum* totals = reinterpret_cast<Sum*>(a.totals) + example * a.labels;
        if (lane == 0) atomicAdd(&a.cast[example], 1);
        if (a.mode == Soft::weighted) {
            if (lane == 0) atomicAdd(&totals[leader.label], static_cast<Sum>(a.weights[row]));
            continue;
        }
        int64_t sum = 0;
        int32_t second = 0;
        for (int64_t i = lane; i < a.labels; i += kWarp) {
            const int32_t units = core::exp_units(core::widen(logits[i]), leader.value);
            sum += units;
            if (i != leader.label && units > second) second = units;
        }
        for (int step = kWarp / 2; step > 0; step /= 2) {
            sum += __shfl_xor_sync(kAll, sum, step);
            const int32_t other = __shfl_xor_sync(kAll, second, step);
            second = other > second ? other : second;
        }
        const float scale = core::share_scale(sum);
        if (a.mode == Soft::margin) {
            if (lane == 0)
                atomicAdd(&totals[leader.label], static_cast<Sum>(core::share(1 << core::kFine, scale) -
                                                                  core::share(second, scale)));
            continue;
        }
        for (int64_t i = lane; i < a.labels; i += kWarp) {
            const int32_t units = core::exp_units(core::widen(logits[i]), leader.value);
            if (units) atomicAdd(&totals[i], static_cast<Sum>(core::share(units, scale)));
        }
    }
}

template <class T>
void launch(const VoteSoft& a, cudaStream_t stream) {
    const int64_t blocks = (a.batch * a.samples + kThreads / kWarp - 1) / (kThreads / kWarp);
    const dim3 grid(static_cast<unsigned>(blocks < 65536 ? blocks : 65536));
    launch_kernel("vote_soft", vote_soft_kernel<T>, grid, kThreads, stream, a);
}

}  // namespace

void vote_soft(const VoteSoft& args, void* stream) {
    if (args.batch == 0 || args.samples == 0) return;
    const auto on = static_cast<cudaStream_t>(stream);
    core::with_type(args.dtype, [&](auto element) { launch<decltype(element)>(args, on); });
}

}  // namespace rcfast::cuda
