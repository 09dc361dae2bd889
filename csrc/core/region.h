// One coordinate of one point of the region, in float32 with every operation rounded on its own: no
// multiply-add may be contracted, on host or device, or the bits would differ between them; where one is
// meant, it stands there (fma).
#pragma once
#include "config.h"

namespace rcfast::core {
namespace {

RCFAST_HD float mul(float a, float b) {
#if defined(__CUDA_ARCH__)
    return __fmul_rn(a, b);
#else
    return a * b;  // compiled with -ffp-contract=off
#endif
}

RCFAST_HD float add(float a, float b) {
#if defined(__CUDA_ARCH__)
    return __fadd_rn(a, b);
#else
    return a + b;
#endif
}

// a * b + c, rounded once.
RCFAST_HD float fma(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
    return __fmaf_rn(a, b, c);
#else
    return __builtin_fmaf(a, b, c);
#endif
}

RCFAST_HD float divide(float a, float b) {
#if defined(__CUDA_ARCH__)
    return __fdiv_rn(a, b);
#else
    return a / b;
#endif
}

RCFAST_HD float unit_clamp(float v) {
    v = v > 0.0f ? v : 0.0f;  // -0 becomes +0, as in the vector units' max
    return v > 1.0f ? 1.0f : v;
}

// Of a sum that cannot be -0, of which the .sat modifier says nothing: no instruction of its own on a GPU.
RCFAST_HD float unit_clamp_sum(float v) {
#if defined(__CUDA_ARCH__)
    return __saturatef(v);
#else
    return unit_clamp(v);
#endif
}

// A point is base + scale * (k + offset), k the 16-bit variate; both take k as it is or raised by 2^23, and
// give the same bits.
struct Line {
    float base, scale;
};
constexpr float kRaise = 0x1p23f;

// B(x, r) ∩ [0,1]: uniform on [max(0, x-r), min(1, x+r)]. Rounding cannot leave the interval:
// k + 1/2 is at most 2^16 - 1/2, and 2^-17 of the width outweighs the three rounding errors of 2^-24.
struct Intersect {
    static constexpr float kOffset = 0.5f;
    static RCFAST_HD Line line(float x, float r) {
        const float low = unit_clamp(add(x, -r)), high = unit_clamp(add(x, r));
        return {low, mul(add(high, -low), 0x1p-16f)};
    }
    static RCFAST_HD float point(Line line, float k) {
        return add(line.base, mul(line.scale, add(k, kOffset)));
    }
    static RCFAST_HD float raised_point(Line line, float k) {
        return add(line.base, mul(line.scale, add(k, kOffset - kRaise)));  // the sum is exact
    }
};

// x + U(-r, r), clamped: another distribution, with mass on 0 and 1.
struct Clamp {
    static constexpr float kOffset = -32767.5f;
    static RCFAST_HD Line line(float x, float r) {
        return {add(x, 0.0f), mul(r, 0x1p-15f)};
    }  // -0 becomes +0
    static RCFAST_HD float point(Line line, float k) {
        return unit_clamp_sum(add(line.base, mul(line.scale, add(k, kOffset))));
    }
    static RCFAST_HD float raised_point(Line line, float k) { return point(line, add(k, -kRaise)); }
};

}  // namespace
}  // namespace rcfast::core
