// The CUDA kernels, run on the host by cuda_emulation/cuda_runtime.h, against the CPU kernels bit by bit:
// indices, tails, layouts, barriers and shuffles are checked where there is no GPU, and under the sanitizers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <utility>
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

struct Case {
    Clip clip;
    int64_t n, samples, channels;
    float r;
    bool tensors;   // seed and first sample stand in memory
    int64_t shift;  // elements by which the output misses the alignment of wide stores
};

constexpr int64_t kBeyond = 2048;  // elements behind the output: two stores of a warp

template <class T>
bool untouched(const std::vector<T>& out) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(out.data() + out.size() - kBeyond);
    return std::all_of(bytes, bytes + kBeyond * sizeof(T), [](unsigned char byte) { return byte == 0xAB; });
}

template <class T>
void sampling(Dtype dtype, const Case& c) {
    const int64_t batch = 3;
    std::vector<float> x(batch * c.n), r{c.r, 1.5f, 0.01f};
    for (size_t i = 0; i < x.size(); ++i) {
        const float edges[] = {-0.0f, 0.0f, 1.0f};
        x[i] = i % 5 < 3 ? edges[i % 5] : std::fmod(0.37f * static_cast<float>(i), 1.0f);
    }
    const std::vector<int64_t> ids{-5, 1234567890123456789, 0};
    const int64_t seed = -99, first = 4294967293;  // 2^32 is passed within the samples: the counter wraps
    const int64_t size = batch * c.samples * c.n;
    std::vector<T> cpu_out(size), cuda_out(size + c.shift + kBeyond);
    std::memset(static_cast<void*>(cuda_out.data()), 0xAB, cuda_out.size() * sizeof(T));
    SampleHypercube a{cpu_out.data(),
                      dtype,
                      x.data(),
                      r.data(),
                      0.0,
                      ids.data(),
                      nullptr,
                      static_cast<uint64_t>(seed),
                      static_cast<uint32_t>(first),
                      nullptr,
                      batch,
                      c.samples,
                      c.n,
                      c.channels,
                      c.clip};
    cpu::sample_hypercube(a, 1);
    a.out = cuda_out.data() + c.shift;
    if (c.tensors) {
        a.seed_tensor = &seed;
        a.first_sample_tensor = &first;
        a.seed = 0;
        a.first_sample = 0;
    }
    cuda::sample_hypercube(a, nullptr);
    check(std::memcmp(cpu_out.data(), a.out, size * sizeof(T)) == 0, "sample_hypercube", c.n, c.samples);
    check(untouched(cuda_out), "sample_hypercube beyond", c.n, c.samples);
}

void sampling_everywhere(const Case& c) {
    sampling<float>(Dtype::f32, c);
    sampling<core::f16>(Dtype::f16, c);
    sampling<core::bf16>(Dtype::bf16, c);
}

// At x = r = 1/2 a point is (k + 1/2) / 2^16: the variates published with Random123 for counter and key 0.
void known_answers(Clip clip, int64_t channels) {
    const uint32_t words[] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
    const int64_t n = 24, id = 0;
    const std::vector<float> x(n, 0.5f);
    std::vector<float> out(n);
    cuda::sample_hypercube({out.data(), Dtype::f32, x.data(), nullptr, 0.5, &id, nullptr, 0, 0, nullptr, 1, 1,
                            n, channels, clip},
                           nullptr);
    for (int64_t e = 0; e < 8; ++e) {
        const double k = words[e / 2] >> (e % 2 ? 16 : 0) & 0xFFFF;
        check(out[e * channels] == (k + 0.5) / 65536, "known answer", e, channels);
    }
}

template <class T>
void noise(Dtype dtype, Noise kind, bool clamp, int64_t n, int64_t samples, int64_t channels) {
    const int64_t batch = 3;
    std::vector<float> x(batch * n), sizes{0.3f, 1.5f, 0.0f};
    for (size_t i = 0; i < x.size(); ++i)
        x[i] = i % 5 ? std::fmod(0.37f * static_cast<float>(i), 1.0f) : -0.0f;
    const std::vector<int64_t> ids{-5, 1234567890123456789, 0};
    const int64_t seed = -99, first = 4294967293;
    std::vector<T> cpu_out(batch * samples * n), cuda_out(cpu_out.size() + kBeyond);
    std::memset(static_cast<void*>(cuda_out.data()), 0xAB, cuda_out.size() * sizeof(T));
    SampleNoise a{cpu_out.data(),
                  dtype,
                  x.data(),
                  sizes.data(),
                  0.0,
                  ids.data(),
                  nullptr,
                  static_cast<uint64_t>(seed),
                  static_cast<uint32_t>(first),
                  nullptr,
                  batch,
                  samples,
                  n,
                  channels,
                  kind,
                  clamp};
    cpu::sample_noise(a, 1);
    a.out = cuda_out.data();
    if (clamp) {  // from memory
        a.seed_tensor = &seed;
        a.first_sample_tensor = &first;
        a.seed = a.first_sample = 0;
    }
    cuda::sample_noise(a, nullptr);
    check(std::memcmp(cpu_out.data(), cuda_out.data(), cpu_out.size() * sizeof(T)) == 0, "sample_noise", n,
          static_cast<long long>(kind));
}

template <class T>
void voting(Dtype dtype, int64_t labels, int64_t samples, int segments) {
    const int64_t batch = 2;
    std::vector<T> logits(batch * samples * labels);
    uint32_t state = 1;
    for (T& z : logits) {
        state = state * 1664525u + 1013904223u;
        z = core::narrow<T>(static_cast<float>(state >> 28) / 16.0f);
    }
    if constexpr (sizeof(T) == sizeof(float)) logits[labels] = NAN;
    std::vector<int32_t> cpu_counts(batch * segments * labels, 3), cuda_counts = cpu_counts;
    Vote a{cpu_counts.data(), logits.data(), dtype, batch, samples, labels, segments};
    for (int k = 0; k < segments; ++k) a.ends[k] = samples * (k + 1) / segments;  // some are empty
    cpu::vote(a, 1);
    a.counts = cuda_counts.data();
    cuda::vote(a, nullptr);
    check(cpu_counts == cuda_counts, "vote", labels, samples);
}

template <class T>
void weighting(Dtype dtype, int64_t labels, int64_t samples) {
    const int64_t batch = 2;
    std::vector<T> logits(batch * samples * labels);
    std::vector<int32_t> weights(batch * samples);
    uint32_t state = 1;
    const auto draw = [&] { return (state = state * 1664525u + 1013904223u) >> 8; };
    for (T& z : logits) z = core::narrow<T>(static_cast<float>(draw() >> 18) / 8.0f - 4.0f);
    for (int32_t& w : weights) w = static_cast<int32_t>(draw());
    if constexpr (sizeof(T) == sizeof(float)) {
        logits[labels] = NAN;
        logits[1] = INFINITY;
    }
    for (const Soft mode : {Soft::softmax, Soft::margin, Soft::weighted}) {
        std::vector<int64_t> cpu_totals(batch * labels, 3), cuda_totals = cpu_totals;
        std::vector<int32_t> cpu_cast(batch, 7), cuda_cast = cpu_cast;
        VoteSoft a{cpu_totals.data(), cpu_cast.data(), logits.data(), weights.data(), dtype, batch,
                   samples,           labels,          mode};
        cpu::vote_soft(a, 1);
        a.totals = cuda_totals.data();
        a.cast = cuda_cast.data();
        cuda::vote_soft(a, nullptr);
        check(cpu_totals == cuda_totals && cpu_cast == cuda_cast, "vote_soft", labels,
              static_cast<int>(mode));
    }
}

template <class T>
void measuring(Dtype dtype, int64_t n, int64_t samples, int64_t channels) {
    const int64_t batch = 2;
    std::vector<float> x(batch * n), cpu_out(batch * samples), cuda_out(cpu_out.size());
    std::vector<T> points(batch * samples * n);
    for (size_t i = 0; i < x.size(); ++i) x[i] = std::fmod(0.37f * static_cast<float>(i), 1.0f);
    for (size_t i = 0; i < points.size(); ++i)
        points[i] = core::narrow<T>(std::fmod(0.61f * static_cast<float>(i), 1.0f));
    Distance a{cpu_out.data(), points.data(), dtype, x.data(), batch, samples, n, channels};
    cpu::distance(a, 1);
    a.out = cuda_out.data();
    cuda::distance(a, nullptr);
    check(cpu_out == cuda_out, "distance", n, channels);
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
    for (const Clip clip : {Clip::intersect, Clip::clamp}) {
        for (const int64_t channels : {1, 3}) known_answers(clip, channels);
        for (const int64_t n : {1, 8, 9, 255, 784})
            for (const int64_t samples : {1, 19})
                for (const int64_t channels : {1, 3})
                    if (n % channels == 0)
                        sampling_everywhere({clip, n, samples, channels, 0.3f, samples > 1, 0});
        // Rows that end within the half of a warp, fill warps, and are many to a warp, with the last samples
        // of some threads missing.
        for (const auto& [n, samples] :
             {std::pair{160, 1}, {160, 19}, {256, 8}, {24, 100}, {8, 150}, {8, 300}})
            sampling_everywhere({clip, n, samples, 1, 0.3f, false, 0});
        // Pixels in eights, so that threads draw all three channels: a part of a warp, warps that end within
        // the samples, and several blocks; then those that do not fit.
        for (const int64_t n : {24, 3 * 40, 3 * 264, 3 * 1024, 3 * 9})
            for (const int64_t samples : {3, 19})
                sampling_everywhere({clip, n, samples, 3, 0.3f, samples == 3, 0});
        for (const float r : {0.0f, 1e-40f})
            for (const int64_t n : {9, 48})
                for (const int64_t channels : {1, 3})
                    sampling_everywhere({clip, n, 9, channels, r, false, 0});
        for (const int64_t channels : {1, 3}) sampling_everywhere({clip, 48, 9, channels, 0.3f, false, 1});
        sampling_everywhere({clip, 20, 9, 4, 0.3f, false, 0});
    }
    for (const Noise kind : {Noise::gaussian, Noise::laplace, Noise::l2_ball, Noise::l1_ball, Noise::sphere})
        for (const bool clamp : {false, true})
            for (const int64_t n : {1, 12, 13, 24, 30, 2049}) {
                noise<float>(Dtype::f32, kind, clamp, n, 11, 1);
                if (n % 3 == 0) noise<core::f16>(Dtype::f16, kind, clamp, n, 2, 3);
                if (n % 3 == 0) noise<core::bf16>(Dtype::bf16, kind, clamp, n, 11, n == 24 ? 1 : 3);
            }
    for (const int64_t labels : {2, 10, 64, 65, 1000})
        for (const int64_t samples : {2, 300})
            for (const int segments : {1, 3}) {
                voting<float>(Dtype::f32, labels, samples, segments);
                voting<core::f16>(Dtype::f16, labels, samples, segments);
                voting<core::bf16>(Dtype::bf16, labels, samples, segments);
            }
    for (const int64_t labels : {2, 10, 33, 100}) {
        weighting<float>(Dtype::f32, labels, 19);
        weighting<core::f16>(Dtype::f16, labels, 3);
        weighting<core::bf16>(Dtype::bf16, labels, 19);
    }
    for (const int64_t n : {1, 33, 2049}) {
        measuring<float>(Dtype::f32, n, 11, 1);
        measuring<core::bf16>(Dtype::bf16, 3 * n, 11, 3);
        measuring<core::f16>(Dtype::f16, 3 * n, 2, 3);
    }
    for (const int64_t n : {1, 2, 257, 600})
        for (const int levels : {3, 1000000})
            for (const bool down : {false, true}) saliency(n, levels, down);
    std::printf("cuda emulation: %d checks, %d failures\n", checks, failures);
    return failures ? 1 : 0;
}
