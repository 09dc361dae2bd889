// A thread owns eight consecutive elements of one example and walks over samples: the lines stay in
// registers, and the threads of a warp write consecutive memory, across the ends of rows too.
#include "../core/numbers.h"
#include "../core/philox.h"
#include "../core/region.h"
#include "../kernels.h"
#include "launch.h"

namespace rcfast::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSamplesPerThread = 8;  // amortises reading x, which is twice a bf16 point

// Samples that are walked side by side, each by threads of its own.
RCFAST_HD int64_t side_by_side(const SampleHypercube& a) {
    return (a.samples + kSamplesPerThread - 1) / kSamplesPerThread;
}

template <class T>
struct alignas(16) Octet {
    T v[core::kLanes];
};

template <class Region, class T, bool Aligned>
static __global__ void __launch_bounds__(kThreads) sample_hypercube_kernel(SampleHypercube a) {
    const int64_t stride = side_by_side(a);
    const int64_t blocks = (a.n + core::kLanes - 1) / core::kLanes;
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    const int64_t block = thread % blocks, first = thread / blocks;
    if (first >= stride) return;
    const int64_t element = block * core::kLanes;
    const int count = a.n - element < core::kLanes ? static_cast<int>(a.n - element) : core::kLanes;
    const uint64_t seed = a.seed_tensor ? static_cast<uint64_t>(*a.seed_tensor) : a.seed;
    const int64_t pixels = a.n / a.channels;

    for (int64_t example = blockIdx.y; example < a.batch; example += gridDim.y) {
        const float r = a.r_each ? a.r_each[example] : static_cast<float>(a.r);
        const uint64_t id = static_cast<uint64_t>(a.example_ids[example]);
        core::Line line[core::kLanes];
#pragma unroll
        for (int i = 0; i < core::kLanes; ++i)
            line[i] = Region::line(i < count ? a.x[example * a.n + element + i] : 0.0f, r);
        for (int64_t s = first; s < a.samples; s += stride) {
            const core::Words k = core::variates(seed, id, a.first_sample + static_cast<uint32_t>(s),
                                                 static_cast<uint32_t>(block));
            Octet<T> points;
#pragma unroll
            for (int i = 0; i < core::kLanes; ++i)
                points.v[i] = core::narrow<T>(Region::point(line[i], static_cast<float>(core::lane(k, i))));
            T* row = static_cast<T*>(a.out) + (example * a.samples + s) * a.n;
            if (Aligned) {  // contiguous, n a multiple of eight: 16-byte stores
                *reinterpret_cast<Octet<T>*>(row + element) = points;
            } else {
#pragma unroll
                for (int i = 0; i < core::kLanes; ++i) {
                    const int64_t e = element + i;
                    if (i < count)
                        row[a.channels == 1 ? e : e % pixels * a.channels + e / pixels] = points.v[i];
                }
            }
        }
    }
}

template <class Region, class T>
void launch(const SampleHypercube& a, cudaStream_t stream) {
    const int64_t blocks = (a.n + core::kLanes - 1) / core::kLanes;
    const int64_t stride = side_by_side(a);
    const dim3 grid(static_cast<unsigned>((blocks * stride + kThreads - 1) / kThreads),
                    static_cast<unsigned>(a.batch < kMaxGridY ? a.batch : kMaxGridY));
    const bool aligned =
        a.channels == 1 && a.n % core::kLanes == 0 && reinterpret_cast<uintptr_t>(a.out) % 16 == 0;
    const auto kernel =
        aligned ? sample_hypercube_kernel<Region, T, true> : sample_hypercube_kernel<Region, T, false>;
    launch_kernel("sample_hypercube", kernel, grid, kThreads, stream, a);
}

template <class Region>
void launch_dtype(const SampleHypercube& a, cudaStream_t stream) {
    switch (a.dtype) {
        case Dtype::f32:
            return launch<Region, float>(a, stream);
        case Dtype::f16:
            return launch<Region, core::f16>(a, stream);
        case Dtype::bf16:
            return launch<Region, core::bf16>(a, stream);
    }
}

}  // namespace

void sample_hypercube(const SampleHypercube& args, void* stream) {
    if (args.batch == 0 || args.samples == 0 || args.n == 0) return;
    const auto on = static_cast<cudaStream_t>(stream);
    if (args.clip == Clip::intersect)
        launch_dtype<core::Intersect>(args, on);
    else
        launch_dtype<core::Clamp>(args, on);
}

}  // namespace rcfast::cuda
