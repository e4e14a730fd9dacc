// Products of bytes, values 0..255 with weights of 8 bits (or 7, see BITS), whose 32-bit sums stay in registers.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "sums.hpp"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef int8_t Weights __attribute__((vector_size(LANES * 4)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));

// Without dot products pairs are summed in 16 bits, which 255 times two weights of 8 bits overflow.
#if defined(__AVX2__) && !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
constexpr int BITS = 7;
#else
constexpr int BITS = 8;
#endif

constexpr int QUAD = 4;    // products that one instruction adds up
constexpr int WIDEST = 4;  // vectors of outputs, at most, that are summed together
#ifdef __AVX512F__
constexpr int MOST_SUMS = 24;  // of 32 registers
#else
constexpr int MOST_SUMS = 12;  // of 16
#endif
constexpr int64_t BLOCK = 96;  // most places that a panel of weights is used for: their bytes stay in L2

// sum[lane] += four values times the lane's four weights
inline __attribute__((always_inline)) Ints add_dots(const Ints& sum, int32_t four, const Weights& weights) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(four), (__m512i)weights);
#elif defined(__AVX512BW__)
    const __m512i pairs = _mm512_maddubs_epi16(_mm512_set1_epi32(four), (__m512i)weights);
    return sum + (Ints)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif defined(__AVXVNNI__)
    return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sum, _mm256_set1_epi32(four), (__m256i)weights);
#elif defined(__AVX2__)
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi32(four), (__m256i)weights);
    return sum + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
    uint8_t values[QUAD];
    std::memcpy(values, &four, QUAD);
    Ints found = sum;
    for (int lane = 0; lane < LANES; ++lane)
        for (int i = 0; i < QUAD; ++i) found[lane] += values[i] * weights[lane * QUAD + i];
    return found;
#endif
}

// bytes of a place's channels: whole quads
inline int64_t in_quads(int64_t channels) { return ceil_div(channels, QUAD) * QUAD; }

// What byte a value is: value * inverse + zero of its channel, to the nearest whole number, ties to even, within 0..255.
// There are as many of both as whole vectors of channels hold.
struct Grid {
    const float *inverse, *zero;

    inline __attribute__((always_inline)) Bytes of(const Floats& values, int64_t channel) const {
        const Floats exact = values * load(inverse + channel, LANES) + load(zero + channel, LANES);
        // what is not a number becomes 0
        const Floats found = at_most(Floats{} + 255.0f, at_least(Floats{}, exact));
        // compilers take such a conversion apart into single numbers
#if defined(__AVX512F__)
        return (Bytes)_mm512_cvtepi32_epi8(_mm512_cvtps_epi32((__m512)found));
#elif defined(__AVX2__)
        const __m256i whole = _mm256_cvtps_epi32((__m256)found);
        const __m128i shorts = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        const int64_t bytes = _mm_cvtsi128_si64(_mm_packus_epi16(shorts, shorts));
        return (Bytes)bytes;
#else
        // above 2^23 floats are whole numbers, and their last bits these
        return __builtin_convertvector((Words)(found + 8388608.0f), Bytes);
#endif
    }

    void row(const float* from, int64_t channels, uint8_t* to) const {
        int64_t c = 0;
        for (; c + LANES <= channels; c += LANES) write(of(load(from + c, LANES), c), to + c, LANES);
        if (c < channels) write(of(load(from + c, channels - c), c), to + c, channels - c);
    }
};

// A convolution's weights in panels of up to WIDEST vectors of outputs: [tap][quad of channels][output][QUAD], and by
// output what its sum is multiplied by before it ends; as many as the vectors hold.
struct Layer {
    const int8_t* weight;
    const float* factor;
    Grid grid;
    Ending ending;
    int64_t taps, channels, outputs;

    int64_t depth() const { return taps * in_quads(channels); }
};

// Sums of `count` of ROWS places and WIDE vectors, of which `width` outputs are there. rows[tap * step] are the first
// place's bytes; targets, and what is added if anything is, lie `stride` apart.
template <int ROWS, int WIDE, class Finish>
inline __attribute__((always_inline)) void add_tile(const Layer& layer, int64_t first, int64_t width,
                                                    const uint8_t* const* rows, int64_t step, int64_t count,
                                                    const float* added, const Finish& finish, int64_t stride,
                                                    float* target) {
    Ints sums[ROWS][WIDE] = {};
    const int8_t* panel = layer.weight + first * layer.depth();
    const int64_t channels = in_quads(layer.channels);
    for (int64_t tap = 0; tap < layer.taps; ++tap) {
        const uint8_t* from[ROWS];
        // the last place again and again, where there are fewer
        for (int row = 0; row < ROWS; ++row) from[row] = rows[tap * step + std::min<int64_t>(row, count - 1)];
        for (int64_t c = 0; c < channels; c += QUAD, panel += WIDE * LANES * QUAD) {
            Weights weights[WIDE];
#pragma GCC unroll 4
            for (int vector = 0; vector < WIDE; ++vector)
                std::memcpy(&weights[vector], panel + vector * LANES * QUAD, LANES * QUAD);
#pragma GCC unroll 12
            for (int row = 0; row < ROWS; ++row) {
                int32_t four;
                std::memcpy(&four, from[row] + c, QUAD);
#pragma GCC unroll 4
                for (int vector = 0; vector < WIDE; ++vector)
                    sums[row][vector] = add_dots(sums[row][vector], four, weights[vector]);
            }
        }
    }
    // whole vectors are told from parts, and places with something added from others, once
    const auto end = [&](auto whole, auto adds) __attribute__((always_inline)) {
#pragma GCC unroll 12
        for (int row = 0; row < ROWS; ++row) {
            if (row >= count) break;
#pragma GCC unroll 4
            for (int vector = 0; vector < WIDE; ++vector) {
                const int64_t column = first + vector * LANES, at = row * stride + vector * LANES;
                const int64_t lanes = whole ? LANES : std::min<int64_t>(LANES, width - vector * LANES);
                Floats sum = __builtin_convertvector(sums[row][vector], Floats) * load(layer.factor + column, LANES) +
                             load(layer.ending.bias + column, LANES);
                if (adds) sum += load(added + at, lanes);
                store(finish(sum), target + at, lanes);
            }
        }
    };
    const bool whole = width == WIDE * LANES;
    if (whole && !added)
        end(std::true_type{}, std::false_type{});
    else if (whole)
        end(std::true_type{}, std::true_type{});
    else if (added)
        end(std::false_type{}, std::true_type{});
    else
        end(std::false_type{}, std::false_type{});
}

template <int WIDE, class Finish>
void add_panel(const Layer& layer, int64_t first, int64_t width, const uint8_t* const* rows, int64_t step,
               int64_t count, const float* added, const Finish& finish, int64_t stride, float* target) {
    constexpr int ROWS = std::min(12, MOST_SUMS / WIDE);
    for (int64_t place = 0; place < count; place += ROWS) {
        const int64_t at = place * stride;
        add_tile<ROWS, WIDE>(layer, first, width, rows + place, step, std::min<int64_t>(ROWS, count - place),
                             added ? added + at : nullptr, finish, stride, target + at);
    }
}

// target[place] = the layer's values for `count` places, whose bytes rows[tap * step + place] point to; in blocks of
// outputs, whole panels, one after another, each of `room` places (where nothing is added), or all in one
void multiply(const Layer& layer, const uint8_t* const* rows, int64_t step, int64_t count, const float* added,
              float* target, int64_t block = INT64_MAX, int64_t room = 0) {
    for (int64_t first = 0; first < layer.outputs; first += WIDEST * LANES) {
        const int64_t width = std::min<int64_t>(WIDEST * LANES, layer.outputs - first);
        const int64_t wide = ceil_div(width, LANES), begin = first / block * block;
        const auto run = [&](auto number) {
            layer.ending.chosen([&](const auto& finish) {
                add_panel<decltype(number)::value>(layer, first, width, rows, step, count, added ? added + first : nullptr,
                                                   finish, std::min(block, layer.outputs - begin),
                                                   target + begin * room + first - begin);
            });
        };
        if (wide == 4) run(std::integral_constant<int, 4>{});
        if (wide == 3) run(std::integral_constant<int, 3>{});
        if (wide == 2) run(std::integral_constant<int, 2>{});
        if (wide == 1) run(std::integral_constant<int, 1>{});
    }
}

}  // namespace
