// The core under AddressSanitizer and UndefinedBehaviorSanitizer: every instruction set against a loop over
// the arithmetic of one element, with guard bytes around what may be written.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "../../csrc/core/argmax.h"
#include "../../csrc/core/noise.h"
#include "../../csrc/core/numbers.h"
#include "../../csrc/core/philox.h"
#include "../../csrc/core/quantile.h"
#include "../../csrc/core/region.h"
#include "../../csrc/cpu/threads.h"
#include "../../csrc/kernels.h"

using namespace rcfast;

namespace {

int failures = 0, checks = 0;

void check(bool ok, const char* what, const char* detail = "") {
    ++checks;
    if (!ok) {
        ++failures;
        std::printf("FAILED %s %s\n", what, detail);
    }
}

void known_answers() {
    struct Case {
        core::Words counter;
        uint32_t key[2];
        core::Words answer;
    };
    const Case cases[] = {
        {{{0, 0, 0, 0}}, {0, 0}, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
        {{{~0u, ~0u, ~0u, ~0u}}, {~0u, ~0u}, {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
        {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
         {0xa4093822, 0x299f31d0},
         {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
    };
    for (const Case& c : cases) {
        const core::Words got = core::philox4x32_10(c.counter, core::round_keys(c.key[0], c.key[1]));
        check(std::memcmp(got.w, c.answer.w, sizeof got.w) == 0, "philox known answer");
    }
}

// Every word whose octave is improbable, against the polynomial of one element: the vector units have another
// way there.
void rare_words() {
    const auto exponential = [](uint32_t w) { return core::quantile(core::kExponential, true, w); };
    const auto normal = [](uint32_t w) { return core::quantile(core::kNormal, false, w); };
    for (const int exponent : {0, 1, 5, 22, 23, 24, 29}) {
        const uint32_t word = 1u << exponent, farther = 0x7FFFFFFFu - word;
        check(exponential(word) == -exponential(word | core::kIsNegative), "symmetry");
        check(exponential(word) > exponential(word + (word + 7) / 8), "the tail falls");
        check(exponential(word | core::kIsCentral) < 0.6932f, "the centre ends at the median");
        check(normal(farther) == -normal(~farther), "symmetry of the normal");
        check(normal(farther) > normal(farther - (word + 7) / 8), "the normal's tail falls");
    }
    check(normal(0x7FFFFFFFu) > 6.3f && normal(0x7FFFFFFFu) < 6.4f, "the farthest word");
}

void reduced_precision() {
    // Every finite half, and bf16 in [0,1], survives; a value halfway between two goes to the even one.
    check(core::narrow<core::f16>(65519.0f).bits == 0x7BFF, "largest half");
    check(core::narrow<core::f16>(65520.0f).bits == 0x7C00, "beyond the largest half");
    check(core::narrow<core::f16>(-1e30f).bits == 0xFC00, "far beyond");
    for (uint32_t bits = 0; bits < 0x7BFF; ++bits) {
        const core::f16 h{static_cast<uint16_t>(bits)};
        check(core::narrow<core::f16>(core::widen(h)).bits == bits, "half round trip");
        const core::f16 next{static_cast<uint16_t>(bits + 1)};
        const float middle = 0.5f * (core::widen(h) + core::widen(next));
        check(core::narrow<core::f16>(middle).bits == (bits & 1 ? bits + 1 : bits), "half tie to even");
        check(core::narrow<core::f16>(-middle).bits == (0x8000u | (bits & 1 ? bits + 1 : bits)), "half sign");
    }
    for (uint32_t bits = 0; bits <= 0x3F80; ++bits) {
        const core::bf16 b{static_cast<uint16_t>(bits)};
        check(core::narrow<core::bf16>(core::widen(b)).bits == bits, "bf16 round trip");
        const float middle = core::float_of(bits << 16 | 0x8000u);
        check(core::narrow<core::bf16>(middle).bits == (bits & 1 ? bits + 1 : bits), "bf16 tie to even");
    }
}

template <class Region, class T>
T expected(const SampleHypercube& a, int64_t b, int64_t s, int64_t e) {
    const core::Words words =
        core::variates(a.seed, static_cast<uint64_t>(a.example_ids[b]),
                       a.first_sample + static_cast<uint32_t>(s), static_cast<uint32_t>(e / 8));
    const float k = static_cast<float>(core::lane(words, static_cast<int>(e % 8)));
    return core::narrow<T>(
        Region::point(Region::line(a.x[b * a.n + e], a.r_each ? a.r_each[b] : static_cast<float>(a.r)), k));
}

template <class T>
void sampling(Dtype dtype, Clip clip, int64_t n, int64_t channels, int threads) {
    const int64_t batch = 2, samples = 3;
    std::vector<float> x(batch * n), r{0.3f, 1.5f};
    for (size_t i = 0; i < x.size(); ++i)
        x[i] = i % 5 ? std::fmod(0.37f * static_cast<float>(i), 1.0f) : 0.0f;
    const std::vector<int64_t> ids{-5, std::numeric_limits<int64_t>::max()};
    std::vector<T> out(batch * samples * n);  // exactly as large as it must be: the sanitizer guards its ends
    std::memset(static_cast<void*>(out.data()), 0xAB, out.size() * sizeof(T));
    const SampleHypercube a{
        out.data(),  dtype,   x.data(), r.data(), 0.0, ids.data(), nullptr, 0xFEDCBA9876543210u,
        4294967290u, nullptr, batch,    samples,  n,   channels,   clip};
    cpu::sample_hypercube(a, threads);
    bool ok = true;
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t s = 0; s < samples; ++s)
            for (int64_t e = 0; e < n; ++e) {
                const T want = clip == Clip::intersect ? expected<core::Intersect, T>(a, b, s, e)
                                                       : expected<core::Clamp, T>(a, b, s, e);
                const int64_t at = channels == 1 ? e : e % (n / channels) * channels + e / (n / channels);
                ok &= std::memcmp(&want, &out[(b * samples + s) * n + at], sizeof(T)) == 0;
            }
    check(ok, "sample_hypercube", cpu::instruction_set().c_str());
}

constexpr Noise kNoises[] = {Noise::gaussian, Noise::laplace, Noise::l2_ball, Noise::l1_ball, Noise::sphere};

// The variates of one point, and its scale, by the arithmetic of one element and the order of the sum as it
// is stated.
std::vector<float> noise_of(const SampleNoise& a, int64_t b, int64_t s, float size) {
    const uint64_t id = static_cast<uint64_t>(a.example_ids[b]);
    const uint32_t sample = a.first_sample + static_cast<uint32_t>(s);
    const bool exponential = a.noise == Noise::laplace || a.noise == Noise::l1_ball;
    std::vector<float> z(a.n);
    for (int64_t e = 0; e < a.n; ++e)
        z[e] = core::quantile(exponential ? core::kExponential : core::kNormal, exponential,
                              core::variates(a.seed, id, sample, static_cast<uint32_t>(e / 4)).w[e % 4]);
    float scale = size;
    if (!is_independent(a.noise)) {
        const bool euclidean = a.noise != Noise::l1_ball;
        double sum = 0.0;
        for (int64_t first = 0; first < a.n; first += 2048) {
            float lanes[32] = {};
            for (int64_t e = first; e < a.n && e < first + 2048; ++e)
                lanes[e % 32] += euclidean ? z[e] * z[e] : std::fabs(z[e]);
            for (int half = 16; half > 0; half /= 2)
                for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
            sum += static_cast<double>(lanes[0]);
        }
        scale = core::ball_scale(size, sum, euclidean, a.noise != Noise::sphere, a.n,
                                 core::variates(a.seed, id, sample, 0xFFFFFFFFu));
    }
    for (float& v : z) v = scale * v;
    return z;
}

template <class T>
void noise(Dtype dtype, Noise kind, bool clamp, int64_t n, int64_t channels, int threads) {
    const int64_t batch = 2, samples = 3;
    std::vector<float> x(batch * n), sizes{0.3f, 70000.0f};  // beyond half precision's largest number
    for (size_t i = 0; i < x.size(); ++i)
        x[i] = i % 5 ? std::fmod(0.37f * static_cast<float>(i), 1.0f) : -0.0f;
    const std::vector<int64_t> ids{-5, std::numeric_limits<int64_t>::max()};
    std::vector<T> out(batch * samples * n);
    std::memset(static_cast<void*>(out.data()), 0xAB, out.size() * sizeof(T));
    const SampleNoise a{
        out.data(),  dtype,   x.data(), sizes.data(), 0.0, ids.data(), nullptr, 0xFEDCBA9876543210u,
        4294967290u, nullptr, batch,    samples,      n,   channels,   kind,    clamp};
    cpu::sample_noise(a, threads);
    bool ok = true;
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t s = 0; s < samples; ++s) {
            const std::vector<float> moves = noise_of(a, b, s, sizes[b]);
            for (int64_t e = 0; e < n; ++e) {
                const float point = (x[b * n + e] + 0.0f) + moves[e];
                const T want = core::narrow<T>(clamp ? core::unit_clamp(point) : point);
                const int64_t at = channels == 1 ? e : e % (n / channels) * channels + e / (n / channels);
                ok &= std::memcmp(&want, &out[(b * samples + s) * n + at], sizeof(T)) == 0;
            }
        }
    check(ok, "sample_noise", cpu::instruction_set().c_str());
}

template <class T>
void voting(Dtype dtype, int64_t labels, int threads) {
    const int64_t batch = 3, samples = 41;
    std::vector<T> logits(batch * samples * labels);
    uint32_t state = 1;
    for (T& z : logits) {
        state = state * 1664525u + 1013904223u;
        z = core::narrow<T>(static_cast<float>(state >> 28) / 16.0f);  // few values: many ties
    }
    std::vector<int32_t> counts(batch * labels, 7), want = counts;
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t s = 0; s < samples; ++s) {
            core::Leader leader = core::nobody();
            for (int64_t i = 0; i < labels; ++i)
                leader = core::consider(leader, core::widen(logits[(b * samples + s) * labels + i]),
                                        static_cast<int32_t>(i));
            ++want[b * labels + leader.label];
        }
    cpu::vote({counts.data(), logits.data(), dtype, batch, samples, labels}, threads);
    check(counts == want, "vote", cpu::instruction_set().c_str());
}

void nan_rows() {
    for (const int64_t labels : {2, 10, 16, 17, 100})
        for (int64_t bad = 0; bad < labels; ++bad) {
            std::vector<float> logits(2 * labels, -std::numeric_limits<float>::infinity());
            logits[bad] = std::numeric_limits<float>::quiet_NaN();
            std::vector<int32_t> counts(labels, 0), want(labels, 0);
            want[0] = 1;  // the second row: all minus infinity, a tie
            cpu::vote({counts.data(), logits.data(), Dtype::f32, 1, 2, labels}, 1);
            check(counts == want, "vote with NaN", cpu::instruction_set().c_str());
        }
}

// Identity weights, by the centre of the window: what is read and written, and where. The arithmetic is
// checked in tests/test_conv3x3.py.
void convolving(int64_t side, int padding, bool winograd, bool pool, int threads) {
    const int64_t images = 3, channels = winograd ? 8 : 1, filters = 8, planes = winograd ? 36 : 9;
    const int64_t made = side + 2 * padding - 2, kept = pool ? made / 2 : made;
    if (made < 1) return;
    std::vector<float> x(images * side * side * channels), weights(planes * channels * kConvFilters, 0.0f);
    for (size_t i = 0; i < x.size(); ++i) x[i] = std::fmod(0.37f * static_cast<float>(i), 1.0f);
    // G e e^T G^T of the centre e: the second column of G, times itself
    const float g[] = {0.0f, -1.0f / 6, 1.0f / 6, 1.0f / 12, -1.0f / 12, 0.0f};
    for (int64_t q = 0; q < planes; ++q)
        for (int64_t c = 0; c < channels; ++c)
            weights[(q * channels + c) * kConvFilters + c] = winograd ? g[q / 6] * g[q % 6] : q == 4;
    const std::vector<float> bias(filters, -0.25f);
    std::vector<float> out(images * kept * kept * filters, -7.0f);
    cpu::conv3x3({out.data(), x.data(), weights.data(), bias.data(), nullptr, nullptr, images, side, side,
                  channels, filters, padding, winograd, true, pool},
                 threads);
    bool ok = true;
    for (int64_t n = 0; n < images; ++n)
        for (int64_t row = 0; row < kept; ++row)
            for (int64_t column = 0; column < kept; ++column)
                for (int64_t k = 0; k < filters; ++k) {
                    float want = 0.0f;
                    for (int64_t i = 0; i < (pool ? 4 : 1); ++i) {
                        const int64_t y = (pool ? 2 * row + i / 2 : row) + 1 - padding;
                        const int64_t z = (pool ? 2 * column + i % 2 : column) + 1 - padding;
                        if (y < 0 || z < 0 || y >= side || z >= side || k >= channels) continue;
                        want = std::max(want, x[((n * side + y) * side + z) * channels + k] - 0.25f);
                    }
                    ok &= std::fabs(out[((n * kept + row) * kept + column) * filters + k] - want) < 1e-5f;
                }
    check(ok, "conv3x3", cpu::instruction_set().c_str());
}

void ranges() {
    for (const int threads : {1, 2, 7})
        for (const int64_t items : {0, 1, 6, 1000, 100000}) {
            std::vector<int> seen(items, 0);
            cpu::parallel_for(items, 1, threads, [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; ++i) ++seen[i];
            });
            check(seen == std::vector<int>(items, 1), "parallel_for covers each item once");
        }
}

// Out of memory in any thread is an exception of the caller, and the next loop runs as ever.
void exceptions() {
    for (const int threads : {1, 2, 7})
        for (const int64_t failing : {0, 50000, 99999}) {
            bool thrown = false;
            try {
                cpu::parallel_for(100000, 1, threads, [&](int64_t begin, int64_t end) {
                    if (begin <= failing && failing < end) throw std::bad_alloc();
                });
            } catch (const std::bad_alloc&) {
                thrown = true;
            }
            check(thrown, "parallel_for hands on what a thread throws");
        }
    ranges();
}

}  // namespace

int main() {
    known_answers();
    reduced_precision();
    rare_words();
    ranges();
    exceptions();
    for (const std::string& isa : cpu::instruction_sets()) {
        cpu::use_instruction_set(isa);
        nan_rows();
        for (const int threads : {1, 3}) {
            for (const Clip clip : {Clip::intersect, Clip::clamp})
                for (const int64_t n : {1, 7, 8, 9, 31, 63, 64, 65, 127, 257, 2047, 2048, 2049, 4500})
                    for (const int64_t channels : {1, 3}) {
                        if (n % channels) continue;
                        sampling<float>(Dtype::f32, clip, n, channels, threads);
                        sampling<core::f16>(Dtype::f16, clip, n, channels, threads);
                        sampling<core::bf16>(Dtype::bf16, clip, n, channels, threads);
                    }
            for (const int64_t side : {1, 3, 4, 5, 6, 9, 13, 26})
                for (const int padding : {0, 1, 2}) {
                    convolving(side, padding, false, false, threads);
                    for (const bool pool : {false, true}) convolving(side, padding, true, pool, threads);
                }
            for (const Noise kind : kNoises)
                for (const bool clamp : {false, true})
                    for (const int64_t n : {1, 7, 31, 64, 65, 257, 2049, 4500})
                        for (const int64_t channels : {1, 3}) {
                            if (n % channels) continue;
                            noise<float>(Dtype::f32, kind, clamp, n, channels, threads);
                            noise<core::f16>(Dtype::f16, kind, clamp, n, channels, threads);
                            noise<core::bf16>(Dtype::bf16, kind, clamp, n, channels, threads);
                        }
            for (const int64_t labels : {2, 3, 10, 15, 16, 17, 33, 1000}) {
                voting<float>(Dtype::f32, labels, threads);
                voting<core::f16>(Dtype::f16, labels, threads);
                voting<core::bf16>(Dtype::bf16, labels, threads);
            }
        }
    }
    std::printf("core tests: %d checks, %d failures\n", checks, failures);
    return failures ? 1 : 0;
}
