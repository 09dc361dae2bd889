// Logarithm and exponential in float64 of correctly rounded operations only: libraries differ in the last
// bit. Taken once a point; errors below 1e-15 (tests/test_sample_noise.py).
#pragma once
#include <cstring>

#include "config.h"

namespace rcfast::core {
namespace {

RCFAST_HD double mul(double a, double b) {
#if defined(__CUDA_ARCH__)
    return __dmul_rn(a, b);
#else
    return a * b;
#endif
}

RCFAST_HD double add(double a, double b) {
#if defined(__CUDA_ARCH__)
    return __dadd_rn(a, b);
#else
    return a + b;
#endif
}

RCFAST_HD double divide(double a, double b) {
#if defined(__CUDA_ARCH__)
    return __ddiv_rn(a, b);
#else
    return a / b;
#endif
}

RCFAST_HD double root(double a) {
#if defined(__CUDA_ARCH__)
    return __dsqrt_rn(a);
#else
    return __builtin_sqrt(a);
#endif
}

RCFAST_HD uint64_t bits_of(double v) {
    union {
        double f;
        uint64_t u;
    } both = {v};
    return both.u;
}

RCFAST_HD double double_of(uint64_t u) {
    union {
        uint64_t u;
        double f;
    } both = {u};
    return both.f;
}

constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;  // fdlibm's

// Of 0 < u <= 1, normal: u = 2^e m with m in [1/sqrt 2, sqrt 2); ln m = 2 artanh s, s = (m-1)/(m+1), |s| <
// 0.172.
RCFAST_HD double logarithm(double u) {
    const uint64_t bits = bits_of(u);
    int e = static_cast<int>(bits >> 52) - 1023;
    double m = double_of((bits & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull);
    if (m > 1.4142135623730951) {
        m = mul(m, 0.5);
        ++e;
    }
    const double s = divide(add(m, -1.0), add(m, 1.0)), q = mul(s, s);
    double series = 1.0 / 23.0;
    for (int odd = 21; odd >= 1; odd -= 2)
        series = add(mul(series, q), divide(1.0, static_cast<double>(odd)));
    const double low = add(mul(mul(2.0, s), series), mul(static_cast<double>(e), kLn2Low));
    return add(mul(static_cast<double>(e), kLn2High), low);
}

// Of -700 < y <= 0: e^y = 2^k e^d, |d| <= 0.35.
RCFAST_HD double exponential(double y) {
    const int k = static_cast<int>(add(mul(y, 1.4426950408889634), -0.5));  // towards zero: to nearest
    const double d =
        add(add(y, mul(static_cast<double>(-k), kLn2High)), mul(static_cast<double>(-k), kLn2Low));
    const double inverse[] = {1.0,
                              1.0 / 2,
                              1.0 / 6,
                              1.0 / 24,
                              1.0 / 120,
                              1.0 / 720,
                              1.0 / 5040,
                              1.0 / 40320,
                              1.0 / 362880,
                              1.0 / 3628800,
                              1.0 / 39916800,
                              1.0 / 479001600,
                              1.0 / 6227020800,
                              1.0 / 87178291200};
    double series = inverse[13];  // 1 / 14!
    for (int i = 12; i >= 0; --i) series = add(mul(series, d), inverse[i]);
    series = add(mul(series, d), 1.0);
    return mul(series, double_of(static_cast<uint64_t>(1023 + k) << 52));
}

}  // namespace
}  // namespace rcfast::core
