// float32 to and from the 16-bit formats, rounded to nearest even, as bits: the same on host and device.
#pragma once
#include "config.h"
#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

namespace rcfast::core {
namespace {

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

RCFAST_HD uint32_t bits_of(float v) {
    union {
        float f;
        uint32_t u;
    } both = {v};
    return both.u;
}

RCFAST_HD float float_of(uint32_t u) {
    union {
        uint32_t u;
        float f;
    } both = {u};
    return both.f;
}

RCFAST_HD float widen(float v) { return v; }
RCFAST_HD float widen(bf16 v) { return float_of(static_cast<uint32_t>(v.bits) << 16); }
RCFAST_HD float widen(f16 v) {
#if defined(__CUDA_ARCH__)
    return __half2float(__ushort_as_half(v.bits));
#else
    const uint32_t sign = (v.bits & 0x8000u) << 16, rest = v.bits & 0x7FFFu;
    if (rest >= 0x7C00u) return float_of(sign | 0x7F800000u | (rest & 0x3FFu) << 13);
    if (rest >= 0x0400u) return float_of(sign | ((rest << 13) + 0x38000000u));
    return float_of(sign | bits_of(static_cast<float>(rest) * 0x1p-24f));  // subnormal: rest is exact
#endif
}

template <class T>
RCFAST_HD T narrow(float v);

template <>
RCFAST_HD float narrow<float>(float v) {
    return v;
}

// Points are finite: no NaN to keep.
template <>
RCFAST_HD bf16 narrow<bf16>(float v) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    bf16 rounded;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(v));
    return rounded;
#else
    const uint32_t u = bits_of(v);
    return {static_cast<uint16_t>((u + 0x7FFFu + (u >> 16 & 1u)) >> 16)};
#endif
}

template <>
RCFAST_HD f16 narrow<f16>(float v) {
#if defined(__CUDA_ARCH__)
    return {__half_as_ushort(__float2half_rn(v))};
#else
    const uint32_t sign = bits_of(v) >> 16 & 0x8000u, u = bits_of(v) & 0x7FFFFFFFu;
    if (u >= 0x477FF000u) return {static_cast<uint16_t>(sign | 0x7C00u)};  // from 65,520: infinity
    if (u >= 0x38800000u)  // normal in half precision, from 2^-14
        return {static_cast<uint16_t>(sign | (u - 0x38000000u + 0x0FFFu + (u >> 13 & 1u)) >> 13)};
    // Subnormal: adding 0.5 puts the 2^-24 grid of half precision at float32's last bit, which rounds it.
    return {static_cast<uint16_t>(sign | (bits_of(float_of(u) + 0.5f) - 0x3F000000u))};
#endif
}

// Two values in one 32-bit word, `low` first in memory: one instruction from sm_80 on, subnormals kept.
template <class T>
RCFAST_HD uint32_t narrow_pair(float low, float high);

template <>
RCFAST_HD uint32_t narrow_pair<bf16>(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#else
    return static_cast<uint32_t>(narrow<bf16>(high).bits) << 16 | narrow<bf16>(low).bits;
#endif
}

template <>
RCFAST_HD uint32_t narrow_pair<f16>(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint32_t both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#else
    return static_cast<uint32_t>(narrow<f16>(high).bits) << 16 | narrow<f16>(low).bits;
#endif
}

}  // namespace
}  // namespace rcfast::core
