// A variate of a symmetric distribution from one 32-bit word, by inversion: bit 31 is the sign, bit 30 tells
// the half of the magnitudes that are below their median ("central") from the tail, and the other 30 bits, as
// f = k + 1/2, the place in that half. The tail is cut into octaves of its probability f, by the exponent of
// f as a float32, and each is a polynomial in the mantissa; the central half is one more. So the table has 32
// columns, and a word needs no logarithm: a few additions and multiplications, each rounded on its own, the
// same on every machine.
#pragma once
#include "numbers.h"
#include "region.h"

namespace rcfast::core {
namespace {

constexpr int kQuantileTerms = 10;       // a polynomial's coefficients, the highest power first
constexpr int kQuantileColumns = 32;     // of the exponent's last five bits
constexpr uint32_t kCentral = 157u;      // the exponent, biased, of no tail: f < 2^30
constexpr float kLast = 0x1.fffffep29f;  // below 2^30, to which the last places round
constexpr uint32_t kPlace = 0x3FFFFFFFu, kIsCentral = 0x40000000u, kIsNegative = 0x80000000u;

#include "quantile_tables.h"

using QuantileTable = float[kQuantileTerms][kQuantileColumns];

RCFAST_HD float quantile(const QuantileTable& table, uint32_t word) {
    const float place = add(static_cast<float>(static_cast<int32_t>(word & kPlace)), 0.5f);
    const float f = place < kLast ? place : kLast;
    const uint32_t bits = bits_of(f);
    const bool central = (word & kIsCentral) != 0;
    const uint32_t column = (central ? kCentral : bits >> 23) % kQuantileColumns;
    const float t = central ? mul(f, 0x1p-30f) : add(float_of((bits & 0x007FFFFFu) | 0x3F800000u), -1.5f);
    float pair[kQuantileTerms / 2];  // by pairs of powers: a chain of ten would be twice as slow
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (int i = 0; i < kQuantileTerms / 2; ++i)
        pair[i] = add(mul(table[2 * i][column], t), table[2 * i + 1][column]);
    const float square = mul(t, t), fourth = mul(square, square);
    const float low = add(mul(pair[3], square), pair[4]);
    const float high = add(mul(pair[0], fourth), add(mul(pair[1], square), pair[2]));
    const float v = add(mul(high, fourth), low);
    return float_of(bits_of(v) ^ (word & kIsNegative));
}

}  // namespace
}  // namespace rcfast::core
