// The score of a pair of coordinates in JSMA's saliency map. u and v are the gradients of the target's logit
// and of the sum of the others, with signs turned so that both sums of a valid pair are positive.
#pragma once
#include "config.h"

namespace rcfast::core {
namespace {

constexpr float kNoScore = -1.0f;  // of a pair that is not valid; a valid score may underflow to 0
constexpr float kNotFree = -__builtin_inff();  // u and v of a coordinate that may not be chosen

struct Slopes {
    float u, v;
};

// down: the pair is sought among alpha < 0 < beta instead of alpha > 0 > beta. A NaN may not be chosen.
RCFAST_HD Slopes slopes(float a, float b, bool free, bool down) {
    if (!free || a != a || b != b) return {kNotFree, kNotFree};
    return {down ? -a : a, down ? b : -b};
}

// Rounding is monotone: the score of two boxes' upper corners is at least that of any two points in them.
RCFAST_HD float pair_score(float u_p, float v_p, float u_q, float v_q) {
    const float alpha = u_p + u_q, beta = v_p + v_q;
    const float score = alpha * beta;
    return (alpha > 0.0f) & (beta > 0.0f) ? score : kNoScore;
}

}  // namespace
}  // namespace rcfast::core
