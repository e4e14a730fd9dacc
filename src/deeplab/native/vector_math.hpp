// Vectors of numbers, and exponentials and logarithms of whole vectors.
//
// In float32 by polynomials (relative error of exp at most 1.2e-7, absolute error of log at most 2e-7), in float64
// number by number from the standard library.

#pragma once

#include <cmath>
#include <cstdint>

namespace {

#ifdef __AVX512F__
constexpr int VECTOR_BYTES = 64;
#else
constexpr int VECTOR_BYTES = 32;
#endif

typedef float Floats __attribute__((vector_size(VECTOR_BYTES)));
typedef double Doubles __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t Ints __attribute__((vector_size(VECTOR_BYTES)));
typedef int64_t Longs __attribute__((vector_size(VECTOR_BYTES)));

template <class T>
struct Vector;
template <>
struct Vector<float> {
    using Values = Floats;
    using Integer = int32_t;
    using Integers = Ints;
};
template <>
struct Vector<double> {
    using Values = Doubles;
    using Integer = int64_t;
    using Integers = Longs;
};

inline Floats all(float value) { return Floats{} + value; }

// e^x for x <= 0; below -80 it stays at e^-80, which keeps products with it out of the denormal numbers. NaN stays NaN.
inline Floats exp_of_negative(Floats x) {
    constexpr float LEAST = -80.0f, LOG2_E = 1.44269504f, LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;
    constexpr float ROUNDER = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the last bits
    x = x < all(LEAST) ? all(LEAST) : x;
    const Floats shifted = x * LOG2_E + ROUNDER, power = shifted - ROUNDER;
    const Floats r = (x - power * LN2_HIGH) - power * LN2_LOW;  // |r| <= log(2) / 2
    Floats series = 1.381454014e-03f * r + 8.368745109e-03f;
    series = series * r + 4.166839078e-02f;
    series = series * r + 1.666652040e-01f;
    series = series * r + 4.999999343e-01f;
    series = (series * r) * r + r + 1.0f;
    const Ints scale = ((Ints)shifted << 23) + 0x3f800000;
    return series * (Floats)scale;
}

// log(x) for x >= 1; NaN stays NaN.
inline Floats log_of_positive(Floats x) {
    constexpr float LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;
    constexpr int32_t ROOT_HALF = 0x3f3504f3;
    const Ints bits = (Ints)x - ROOT_HALF, exponent = bits >> 23;
    const Ints mantissa = (bits & 0x7fffff) + ROOT_HALF;
    const Floats f = (Floats)mantissa - 1.0f;  // in sqrt(1/2) - 1 .. sqrt(2) - 1
    const Floats power = __builtin_convertvector(exponent, Floats);
    Floats series = 8.672190151e-02f * f - 1.437900845e-01f;
    series = series * f + 1.497799224e-01f;
    series = series * f - 1.656442561e-01f;
    series = series * f + 1.995487580e-01f;
    series = series * f - 2.500169874e-01f;
    series = series * f + 3.333416591e-01f;
    const Floats square = f * f;
    const Floats result = power * LN2_HIGH + (f + (square * f * series - 0.5f * square + power * LN2_LOW));
    return x == x ? result : x;
}

inline Doubles exp_of_negative(Doubles x) {
    for (unsigned i = 0; i < sizeof(x) / sizeof(x[0]); ++i) x[i] = std::exp(x[i]);
    return x;
}

inline Doubles log_of_positive(Doubles x) {
    for (unsigned i = 0; i < sizeof(x) / sizeof(x[0]); ++i) x[i] = std::log(x[i]);
    return x;
}

}  // namespace
