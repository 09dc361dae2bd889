// What makes noise of variates: one coordinate of a point, and the scale of a point on or in a ball.
#pragma once
#include "elementary.h"
#include "numbers.h"
#include "philox.h"
#include "region.h"

namespace rcfast::core {
namespace {

// Element e is word e mod 4 of the Philox call e div 4. A ball's radius comes from the call that no element
// has.
constexpr int kWords = 4;
constexpr uint32_t kRadiusCall = 0xFFFFFFFFu;

// The sum over a point has one order on every machine. Of each segment of 2,048 elements lane j adds up the
// elements j, j+32, j+64, ... in turn, from 0; the lanes are added by halves (j and j+16, then j+8, 4, 2, 1);
// the segments' sums, as float64, in turn.
constexpr int64_t kSumSegment = 2048;
constexpr int kSumLanes = 32;

template <bool Clamped>
RCFAST_HD float place(float x, float scale, float variate) {
    const float point = add(x, mul(scale, variate));
    return Clamped ? unit_clamp(point) : point;
}

// What is summed: the squares for a Euclidean norm, the magnitudes for a sum of magnitudes.
template <bool Euclidean>
RCFAST_HD float term(float variate) {
    return Euclidean ? mul(variate, variate) : float_of(bits_of(variate) & 0x7FFFFFFFu);
}

// r u^(1/n) / norm for a ball, r / norm for a sphere.
RCFAST_HD float ball_scale(float r, double sum, bool euclidean, bool filled, int64_t n, Words words) {
    const double norm = euclidean ? root(sum) : sum;
    double radius = r;
    if (filled) {
        const uint64_t k = (static_cast<uint64_t>(words.w[0]) << 20) | words.w[1] >> 12;
        // u = (k + 1/2) 2^-52 is exact
        const double u = mul(static_cast<double>(2 * k + 1), 0x1p-53);
        radius = mul(radius, exponential(divide(logarithm(u), static_cast<double>(n))));
    }
    return static_cast<float>(divide(radius, norm));
}

}  // namespace
}  // namespace rcfast::core
