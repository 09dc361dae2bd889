// The whole native API: raw pointers, sizes and a stream. No torch header is included anywhere under csrc/.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace rcfast {

enum class Dtype : int { f32 = 0, f16 = 1, bf16 = 2 };
enum class Clip : int { intersect = 0, clamp = 1 };

// out [batch, samples, n] <- points of the hypercubes around x [batch, n].
struct SampleHypercube {
    void* out;
    Dtype dtype;
    const float* x;
    const float* r_each;         // [batch], or null: r for all
    double r;                    // rounded to float32 where it is used, under the default float modes
    const int64_t* example_ids;  // [batch]
    const int64_t* seed_tensor;  // one value, or null: seed
    uint64_t seed;
    uint32_t first_sample;
    const int64_t* first_sample_tensor;  // one value, or null: first_sample
    int64_t batch, samples, n;
    int64_t
        channels;  // 1: elements lie in order; C > 1: out is channels_last, element c*(n/C)+p lies at p*C+c
    Clip clip;
};

// Noise around examples: independent coordinates, or a uniform point in or on a ball.
enum class Noise : int { gaussian = 0, laplace = 1, l2_ball = 2, l1_ball = 3, sphere = 4 };
constexpr bool is_independent(Noise noise) { return noise == Noise::gaussian || noise == Noise::laplace; }
constexpr bool is_exponential(Noise noise) { return noise == Noise::laplace || noise == Noise::l1_ball; }

// out [batch, samples, n] <- x [batch, n] + noise, clamped to [0,1] or not; fields as in SampleHypercube.
struct SampleNoise {
    void* out;
    Dtype dtype;
    const float* x;
    const float* size_each;  // [batch], or null: size for all
    double size;             // standard deviation, scale or radius
    const int64_t* example_ids;
    const int64_t* seed_tensor;
    uint64_t seed;
    uint32_t first_sample;
    const int64_t* first_sample_tensor;
    int64_t batch, samples, n, channels;
    Noise noise;
    bool clamp;
};

// counts [batch, segments, labels] += histogram over samples of the argmax of logits [batch, samples,
// labels]. Ties go to the lowest label; a row with a NaN casts no vote. Segment k holds the samples from
// ends[k-1] to ends[k], the last of which is `samples`.
constexpr int kMaxSegments = 64;
struct Vote {
    int32_t* counts;
    const void* logits;
    Dtype dtype;
    int64_t batch, samples, labels;
    int segments = 1;
    int64_t ends[kMaxSegments] = {};  // not read where there is one segment
};

// Judges `active` examples of a vote in host memory by their votes in `segments` further stretches of
// samples, each ending at a checkpoint: adds them to counts up to the checkpoint at which the example stops,
// by the exact rule or the sequential test of rcfast/stopping.py.
enum class Stop : int { none = 0, exact = 1, sequential = 2 };
enum class State : uint8_t { goes_on = 0, stopped = 1, incomplete = 2 };  // incomplete: a point cast no vote
struct Judge {
    int32_t* counts;       // [batch, labels]
    int32_t* opening;      // [batch, labels] counts at the first checkpoint of all; written there
    int64_t* samples;      // [batch] the checkpoint that has been reached
    uint8_t* decided;      // [batch]
    State* state;          // [active]
    const int64_t* who;    // [active] rows of the above
    const int32_t* votes;  // [active, segments, labels]
    int64_t active, segments, labels;
    const int64_t* checkpoints;  // [segments]
    bool opens;                  // the first segment is the first of all
    int64_t m;
    Stop stop;
    double alpha;
};

// totals [batch, labels] += what every point of logits [batch, samples, labels] gives its labels, in units of
// 2^-24: its softmax; the difference between its two greatest probabilities to the argmax; or its weight to
// the argmax. cast [batch] += the rows without NaN, which alone give anything.
enum class Soft : int { softmax = 0, margin = 1, weighted = 2 };
struct VoteSoft {
    int64_t* totals;
    int32_t* cast;
    const void* logits;
    const int32_t* weights;  // [batch, samples], 0 to 2^24, or null
    Dtype dtype;
    int64_t batch, samples, labels;
    Soft mode;
};

// out [batch, samples] <- the L2 distances of points [batch, samples, n], laid out as in SampleHypercube,
// from x [batch, n].
struct Distance {
    float* out;
    const void* points;
    Dtype dtype;
    const float* x;
    int64_t batch, samples, n, channels;
};

// out [batch, 2] <- the pair of coordinates that JSMA's saliency map rates highest, (-1, -1) if none is
// valid.
struct SaliencyPair {
    int64_t* out;
    const float* a;       // [batch, n] gradient of the target's logit
    const float* b;       // [batch, n] gradient of the sum of the other logits
    const uint8_t* free;  // [batch, n] nonzero: the coordinate may be chosen
    float* workspace;     // CUDA: [batch, 2 * tiles + 1] with tiles = ceil(n / kSaliencyTile); CPU: null
    int64_t batch, n;     // n from 1 to 2^31
    bool down;            // the pair lowers its coordinates: both signs the other way round
};
constexpr int64_t kSaliencyTile = 256;

// out [images, height', width', filters] <- bias + 3x3 convolution of x [images, height, width, channels],
// both channels_last, stride 1, padding 0 to 2. Then: maxima over 2x2 if pool, plus added, max(0, .) if relu,
// 0 where gate is at most 0; all but relu with Winograd only. weights: [36, F, channels, 16] transformed if
// winograd, else [9, F, channels, 16], F = ceil(filters / 16); filters and, if winograd, channels are
// multiples of 8.
struct Conv3x3 {
    float* out;
    const float* x;
    const float* weights;
    const float* bias;   // [filters]
    const float* added;  // as out, or null
    const float* gate;   // as out, or null
    int64_t images, height, width, channels, filters;
    int padding;
    bool winograd, relu, pool;
};
constexpr int kConvFilters = 16;

namespace cpu {
void sample_hypercube(const SampleHypercube& args, int threads);
void sample_noise(const SampleNoise& args, int threads);
void vote(const Vote& args, int threads);
void vote_soft(const VoteSoft& args, int threads);
void distance(const Distance& args, int threads);
void saliency_pair(const SaliencyPair& args, int threads);
void conv3x3(const Conv3x3& args, int threads);
void judge(const Judge& args);

std::vector<std::string> instruction_sets();        // usable on this machine, best first
std::string instruction_set();                      // in use
void use_instruction_set(const std::string& name);  // for tests and benches; throws std::invalid_argument
}  // namespace cpu

#if defined(RCFAST_CUDA)
// Asynchronous on `stream` of the current device; throw std::runtime_error when a launch is refused.
namespace cuda {
void sample_hypercube(const SampleHypercube& args, void* stream);
void sample_noise(const SampleNoise& args, void* stream);
void vote(const Vote& args, void* stream);
void vote_soft(const VoteSoft& args, void* stream);
void distance(const Distance& args, void* stream);
void saliency_pair(const SaliencyPair& args, void* stream);
}  // namespace cuda
#endif

}  // namespace rcfast
