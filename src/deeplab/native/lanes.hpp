// A vector register's worth of channels at a time: float32 and bfloat16 (as uint16_t) in memory, float32 in registers.

#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

// wider than the registers, compilers take comparisons apart into single numbers
#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// body(a number of the format that maps are in): bfloat16 where `half`
template <class Body>
inline auto in_format(int half, const Body& body) {
    return half ? body(uint16_t{}) : body(float{});
}

// `count` channels at a time; the rest of the vector is zero
template <typename Vector, typename T>
inline Vector read(const T* from, int64_t count) {
    Vector found = {};
    // a constant size where it can be one: the compiler makes a plain load of it
    if (count == LANES)
        std::memcpy(&found, from, LANES * sizeof(T));
    else
        std::memcpy(&found, from, count * sizeof(T));
    return found;
}

template <typename Vector, typename T>
inline void write(const Vector& values, T* to, int64_t count) {
    if (count == LANES)
        std::memcpy(to, &values, LANES * sizeof(T));
    else
        std::memcpy(to, &values, count * sizeof(T));
}

#ifdef __AVX512F__
// a part of a vector by a mask, where others copy number by number
inline __mmask16 first(int64_t count) { return __mmask16((1u << count) - 1); }

inline Floats load(const float* from, int64_t count) {
    return count == LANES ? read<Floats>(from, LANES) : (Floats)_mm512_maskz_loadu_ps(first(count), from);
}

inline void store(const Floats& values, float* to, int64_t count) {
    if (count == LANES)
        write(values, to, LANES);
    else
        _mm512_mask_storeu_ps(to, first(count), (__m512)values);
}
#else
inline Floats load(const float* from, int64_t count) { return read<Floats>(from, count); }

inline void store(const Floats& values, float* to, int64_t count) { write(values, to, count); }
#endif

inline Floats load(const uint16_t* from, int64_t count) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    const Halves found = count == LANES ? read<Halves>(from, LANES)
                                        : (Halves)_mm256_maskz_loadu_epi16(first(count), from);
#else
    const Halves found = read<Halves>(from, count);
#endif
    return (Floats)(__builtin_convertvector(found, Words) << 16);
}

#ifdef __AVX512BF16__
inline void store(const Floats& values, uint16_t* to, int64_t count) {
    const __m256i nearest = (__m256i)_mm512_cvtneps_pbh((__m512)values);
    if (count == LANES)
        _mm256_storeu_si256((__m256i*)to, nearest);
    else
        _mm256_mask_storeu_epi16(to, first(count), nearest);
}
#else
inline void store(const Floats& values, uint16_t* to, int64_t count) {
    const Words bits = (Words)values;
    const Words nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    // rounding would carry a NaN's bits into the sign
    const Words kept = (Words)(values == values);
    write(__builtin_convertvector((nearest & kept) | (0x7fc0u & ~kept), Halves), to, count);
}
#endif

// The greater (less) one; what is not a number stays one. Compilers make two instructions and a mask of the comparison.
#if defined(__AVX512F__)
inline Floats at_least(const Floats& least, const Floats& value) {
    return (Floats)_mm512_max_ps((__m512)least, (__m512)value);
}
inline Floats at_most(const Floats& most, const Floats& value) {
    return (Floats)_mm512_min_ps((__m512)most, (__m512)value);
}
#elif defined(__AVX2__)
inline Floats at_least(const Floats& least, const Floats& value) {
    return (Floats)_mm256_max_ps((__m256)least, (__m256)value);
}
inline Floats at_most(const Floats& most, const Floats& value) {
    return (Floats)_mm256_min_ps((__m256)most, (__m256)value);
}
#else
inline Floats at_least(const Floats& least, const Floats& value) { return value < least ? least : value; }
inline Floats at_most(const Floats& most, const Floats& value) { return value > most ? most : value; }
#endif

// Keeps a value in its register: compilers would rather read it from memory again wherever it is used.
inline __attribute__((always_inline)) void hold(Floats& value) {
#if defined(__AVX512F__)
    asm("" : "+v"(value));
#elif defined(__AVX2__)
    asm("" : "+x"(value));
#endif
}

}  // namespace
