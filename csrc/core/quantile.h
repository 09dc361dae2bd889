// A variate of a symmetric distribution from one 32-bit word, by inversion. Exponential: bit 31 is the sign,
// bit 30 tells the half of the magnitudes that are below their median ("central") from the tail, and the
// other 30 bits, as f = k + 1/2, the place in that half. The tail is cut into octaves of its probability f,
// by the exponent of f as a float32, and each is a polynomial in the mantissa; the central half is one more.
// So the table has 32 columns. Normal: a rational function of the word in the middle, octaves beyond. No word
// needs a logarithm: a few additions and multiplications, each rounded on its own, the same on every machine.
#pragma once
#include "numbers.h"
#include "region.h"

namespace rcfast::core {
namespace {

constexpr int kQuantileTerms = 10;       // a polynomial's coefficients, the highest power first
constexpr int kQuantileColumns = 32;     // of the exponent's last five bits
constexpr uint32_t kCentral = 157u;      // the exponent, biased, of no tail: f < 2^30
constexpr float kLast = 0x1.fffffep29f;  // below 2^30, to which the last places round
constexpr float kMiddleScale = 0x1p-31f;
constexpr uint32_t kPlace = 0x3FFFFFFFu, kIsCentral = 0x40000000u, kIsNegative = 0x80000000u;

#include "quantile_tables.h"

using QuantileTable = float[kQuantileTerms][kQuantileColumns];

RCFAST_HD float polynomial(const QuantileTable& table, uint32_t column, float t) {
    float pair[kQuantileTerms / 2];  // by pairs of powers: a chain of ten would be twice as slow
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (int i = 0; i < kQuantileTerms / 2; ++i)
        pair[i] = add(mul(table[2 * i][column], t), table[2 * i + 1][column]);
    const float square = mul(t, t), fourth = mul(square, square);
    const float low = add(mul(pair[3], square), pair[4]);
    const float high = add(mul(pair[0], fourth), add(mul(pair[1], square), pair[2]));
    return add(mul(high, fourth), low);
}

RCFAST_HD float octave_place(float f) {
    return add(float_of((bits_of(f) & 0x007FFFFFu) | 0x3F800000u), -1.5f);
}

RCFAST_HD float exponential_quantile(const QuantileTable& table, uint32_t word) {
    const float place = add(static_cast<float>(static_cast<int32_t>(word & kPlace)), 0.5f);
    const float f = place < kLast ? place : kLast;
    const bool central = (word & kIsCentral) != 0;
    const uint32_t column = (central ? kCentral : bits_of(f) >> 23) % kQuantileColumns;
    const float v = polynomial(table, column, central ? mul(f, 0x1p-30f) : octave_place(f));
    return float_of(bits_of(v) ^ (word & kIsNegative));
}

// The normal's word, its last bit set, is in two's complement 2^31 q, q = P(|Z| < z) with z's sign. In the
// middle, u = edge - q^2 >= 0, z is q times a rational function of u whose coefficients are positive: no sum
// cancels. One word in 128 is farther out. O holds the operations of one element or of a vector.
template <class O>
RCFAST_HD typename O::F normal_middle(typename O::F q, typename O::F& u) {
    u = O::minus_square(kMiddleEdge, q);
    typename O::F over = O::raise(O::all(kMiddleOver6), u, kMiddleOver5), under = O::plus(u, kMiddleUnder5);
    over = O::raise(over, u, kMiddleOver4), under = O::raise(under, u, kMiddleUnder4);
    over = O::raise(over, u, kMiddleOver3), under = O::raise(under, u, kMiddleUnder3);
    over = O::raise(over, u, kMiddleOver2), under = O::raise(under, u, kMiddleUnder2);
    over = O::raise(over, u, kMiddleOver1), under = O::raise(under, u, kMiddleUnder1);
    over = O::raise(over, u, kMiddleOver0), under = O::raise(under, u, kMiddleUnder0);
    return O::times_ratio(q, over, under);
}

struct OneFloat {
    using F = float;
    static RCFAST_HD F minus_square(float c, F q) { return fma(-q, q, c); }
    static RCFAST_HD F all(float c) { return c; }
    static RCFAST_HD F plus(F u, float c) { return add(u, c); }
    static RCFAST_HD F raise(F sum, F u, float c) { return fma(sum, u, c); }
    static RCFAST_HD F times_ratio(F q, F over, F under) { return mul(q, divide(over, under)); }
};

// u < 0: by the number of words that are farther out on the same side, with all their bits.
RCFAST_HD float normal_tail(const QuantileTable& table, uint32_t word) {
    const uint32_t farther = (word & kIsNegative ? word : ~word) & 0x7FFFFFFFu;
    const float f = add(static_cast<float>(static_cast<int32_t>(farther)), 0.5f);
    const float v = polynomial(table, (bits_of(f) >> 23) % kQuantileColumns, octave_place(f));
    return float_of(bits_of(v) ^ (word & kIsNegative));
}

RCFAST_HD float normal_middle(uint32_t word, float& u) {
    return normal_middle<OneFloat>(mul(static_cast<float>(static_cast<int32_t>(word | 1u)), kMiddleScale), u);
}

RCFAST_HD float normal_quantile(const QuantileTable& table, uint32_t word) {
    float u;
    const float v = normal_middle(word, u);
    return u < 0.0f ? normal_tail(table, word) : v;
}

RCFAST_HD float quantile(const QuantileTable& table, bool exponential, uint32_t word) {
    return exponential ? exponential_quantile(table, word) : normal_quantile(table, word);
}

}  // namespace
}  // namespace rcfast::core
