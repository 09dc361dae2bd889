// The CUDA kernels, run on the host by cuda_emulation/cuda_runtime.h, against the CPU kernels bit by bit:
// indices, tails, layouts, barriers and shuffles are checked where there is no GPU, and under the sanitizers.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "../../csrc/core/numbers.h"
#include "../../csrc/kernels.h"

using namespace rcfast;

namespace {

int failures = 0, checks = 0;

void check(bool ok, const char* what, long long a, long long b) {
    ++checks;
    if (ok) return;
    ++failures;
    std::printf("FAILED %s %lld %lld\n", what, a, b);
}

template <class T>
void sampling(Dtype dtype, Clip clip, int64_t n, int64_t samples, int64_t channels) {
    const int64_t batch = 2;
    std::vector<float> x(batch * n), r{0.3f, 1.5f};
    for (size_t i = 0; i < x.size(); ++i)
        x[i] = i % 5 ? std::fmod(0.37f * static_cast<float>(i), 1.0f) : 0.0f;
    const std::vector<int64_t> ids{-5, 1234567890123456789};
    std::vector<T> cpu_out(batch * samples * n), cuda_out(cpu_out.size());
    std::memset(static_cast<void*>(cuda_out.data()), 0xAB, cuda_out.size() * sizeof(T));
    SampleHypercube a{cpu_out.data(), dtype,   x.data(), r.data(), 0.0, ids.data(), nullptr, 99u, 3u,
                      batch,          samples, n,        channels, clip};
    cpu::sample_hypercube(a, 1);
    a.out = cuda_out.data();
    cuda::sample_hypercube(a, nullptr);
    check(std::memcmp(cpu_out.data(), cuda_out.data(), cpu_out.size() * sizeof(T)) == 0, "sample_hypercube",
          n, samples);
}

template <class T>
void voting(Dtype dtype, int64_t labels, int64_t samples) {
    const int64_t batch = 2;
    std::vector<T> logits(batch * samples * labels);
    uint32_t state = 1;
    for (T& z : logits) {
        state = state * 1664525u + 1013904223u;
        z = core::narrow<T>(static_cast<float>(state >> 28) / 16.0f);
    }
    if constexpr (sizeof(T) == sizeof(float)) logits[labels] = NAN;
    std::vector<int32_t> cpu_counts(batch * labels, 3), cuda_counts = cpu_counts;
    cpu::vote({cpu_counts.data(), logits.data(), dtype, batch, samples, labels}, 1);
    cuda::vote({cuda_counts.data(), logits.data(), dtype, batch, samples, labels}, nullptr);
    check(cpu_counts == cuda_counts, "vote", labels, samples);
}

// levels: how many values the gradients take; few give ties.
void saliency(int64_t n, int levels, bool down) {
    const int64_t batch = 2;
    std::vector<float> a(batch * n), b(batch * n);
    std::vector<uint8_t> free(batch * n);
    uint32_t state = static_cast<uint32_t>(n + levels);
    const auto draw = [&] {
        return static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) / 16777216.0f;
    };
    for (size_t i = 0; i < a.size(); ++i) {
        a[i] = std::floor((draw() - 0.6f) * static_cast<float>(levels));
        b[i] = std::floor((draw() - 0.4f) * static_cast<float>(levels));
        free[i] = draw() < 0.7f && static_cast<int64_t>(i) < n;  // the last example has no coordinate left
    }
    const int64_t tiles = (n + kSaliencyTile - 1) / kSaliencyTile;
    std::vector<float> workspace(batch * (2 * tiles + 1));
    std::vector<int64_t> cpu_out(2 * batch, 7), cuda_out(2 * batch, 7);
    SaliencyPair args{cpu_out.data(), a.data(), b.data(), free.data(), nullptr, batch, n, down};
    cpu::saliency_pair(args, 1);
    args.out = cuda_out.data();
    args.workspace = workspace.data();
    cuda::saliency_pair(args, nullptr);
    check(cpu_out == cuda_out, "saliency_pair", n, levels);
    check(cuda_out[2 * batch - 1] == -1, "saliency_pair of nothing", n, levels);
}

}  // namespace

int main() {
    for (const Clip clip : {Clip::intersect, Clip::clamp})
        for (const int64_t n : {1, 8, 9, 255, 784})
            for (const int64_t samples : {1, 19})
                for (const int64_t channels : {1, 3}) {
                    if (n % channels) continue;
                    sampling<float>(Dtype::f32, clip, n, samples, channels);
                    sampling<core::f16>(Dtype::f16, clip, n, samples, channels);
                    sampling<core::bf16>(Dtype::bf16, clip, n, samples, channels);
                }
    for (const int64_t labels : {2, 10, 64, 65, 1000})
        for (const int64_t samples : {2, 300}) {
            voting<float>(Dtype::f32, labels, samples);
            voting<core::f16>(Dtype::f16, labels, samples);
            voting<core::bf16>(Dtype::bf16, labels, samples);
        }
    for (const int64_t n : {1, 2, 257, 600})
        for (const int levels : {3, 1000000})
            for (const bool down : {false, true}) saliency(n, levels, down);
    std::printf("cuda emulation: %d checks, %d failures\n", checks, failures);
    return failures ? 1 : 0;
}
