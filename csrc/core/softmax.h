// Softmax in integers: a probability is a number of units of 2^-24, so that sums over points have no order
// and are the same on every machine. Every float32 operation is rounded on its own.
#pragma once
#include "elementary.h"
#include "numbers.h"
#include "region.h"

namespace rcfast::core {
namespace {

constexpr int32_t kUnits = 1 << 24;
constexpr int kFine = 30;  // exponentials are finer, 2^-30, so that many small ones are not lost

// e^d in units of 2^-30, rounded down, for d <= 0; 0 below -24, and for NaN: callers treat equal infinities
// themselves.
RCFAST_HD int32_t exp_units(float d) {
    d = d > -24.0f ? d : -24.0f;
    const float raised = add(mul(d, 1.44269504f), 12582912.0f);  // 1.5 * 2^23: to the nearest integer
    const float k = add(raised, -12582912.0f);
    const float r = add(add(d, mul(k, -0.693359375f)), mul(k, 2.12194440e-4f));  // the two make -ln 2
    float series = 1.0f / 5040.0f;
    series = add(mul(series, r), 1.0f / 720.0f);
    series = add(mul(series, r), 1.0f / 120.0f);
    series = add(mul(series, r), 1.0f / 24.0f);
    series = add(mul(series, r), 1.0f / 6.0f);
    series = add(mul(series, r), 0.5f);
    series = add(mul(series, r), 1.0f);
    series = add(mul(series, r), 1.0f);
    const uint32_t up = (bits_of(raised) - bits_of(12582912.0f) + kFine) << 23;  // by 2^(k + 30)
    return static_cast<int32_t>(float_of(bits_of(series) + up));
}

RCFAST_HD int32_t exp_units(float logit, float greatest) {
    return logit == greatest ? 1 << kFine : exp_units(add(logit, -greatest));
}

// What makes units of a probability of units of e^d, which sum to `sum`. Eight units short of 1, so that
// three roundings of 2^-24 cannot make a row sum to more than 1.
RCFAST_HD float share_scale(int64_t sum) {
    return static_cast<float>(divide(static_cast<double>(kUnits - 8), static_cast<double>(sum)));
}

RCFAST_HD int32_t share(int32_t exponential, float scale) {
    return static_cast<int32_t>(mul(static_cast<float>(exponential), scale));
}

}  // namespace
}  // namespace rcfast::core
