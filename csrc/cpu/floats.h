// Eight float32 at a time, for the convolutions. A fused product rounds once, so that instruction sets differ
// in last bits here, as networks do.
#pragma once
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#endif

namespace rcfast::cpu {
namespace {

constexpr int kFloats = 8;

#if defined(__AVX2__) && defined(__FMA__)
using Floats = __m256;
inline Floats load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Floats v) { _mm256_storeu_ps(p, v); }
inline Floats all(float v) { return _mm256_set1_ps(v); }
inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
// NaN stays NaN, as in torch: the instruction returns its second operand where either is one.
inline Floats positive(Floats a) { return _mm256_max_ps(_mm256_setzero_ps(), a); }
// a, and 0 where gate is at most 0
inline Floats gated(Floats a, Floats gate) {
    return _mm256_andnot_ps(_mm256_cmp_ps(gate, _mm256_setzero_ps(), _CMP_LE_OQ), a);
}
inline Floats larger(Floats a, Floats b) {
    return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
#else
struct Floats {
    float v[kFloats];
};
template <class F>
inline Floats each(F f) {
    Floats out;
    for (int i = 0; i < kFloats; ++i) out.v[i] = f(i);
    return out;
}
inline Floats load(const float* p) {
    return each([=](int i) { return p[i]; });
}
inline void store(float* p, const Floats& a) {
    for (int i = 0; i < kFloats; ++i) p[i] = a.v[i];
}
inline Floats all(float v) {
    return each([=](int) { return v; });
}
inline Floats add(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline Floats sub(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline Floats fma(const Floats& a, const Floats& b, const Floats& c) {
    return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline Floats positive(const Floats& a) {
    return each([&](int i) { return a.v[i] < 0.0f ? 0.0f : a.v[i]; });
}
inline Floats gated(const Floats& a, const Floats& gate) {
    return each([&](int i) { return gate.v[i] <= 0.0f ? 0.0f : a.v[i]; });
}
inline Floats larger(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.v[i] > b.v[i] || a.v[i] != a.v[i] ? a.v[i] : b.v[i]; });
}
#endif

}  // namespace
}  // namespace rcfast::cpu
