// The taps of a depthwise kernel at one output position, and their sum.

#pragma once

#include <cstdint>

#include "lanes.hpp"

namespace {

// One tap of one output position: where it reads, and its weights (or their gradient).
template <typename T, typename W>
struct Tap {
    const T* source;
    W* weight;
};

// The taps of an output position that do not fall into the padding; returns their number. Lines are where the taps' rows
// begin, or null; columns -1 in the padding.
template <typename T, typename W, int K>
int collect(const T* const* lines, int64_t channels, W* weight, const int32_t* column, Tap<T, W>* found) {
    int count = 0;
    for (int ky = 0; ky < K; ++ky)
        for (int kx = 0; kx < K; ++kx)
            if (lines[ky] && column[kx] >= 0)
                found[count++] = {lines[ky] + column[kx] * channels, weight + (ky * K + kx) * channels};
    return count;
}

// The sum over `count` taps at `lanes` channels from c on. An inlined call with constants is unrolled.
template <typename T>
inline __attribute__((always_inline)) Floats sum_taps(const Tap<T, const float>* taps, int count, const float* bias,
                                                      int64_t c, int64_t lanes) {
    Floats sum = bias ? load(bias + c, lanes) : Floats{};
    for (int tap = 0; tap < count; ++tap)
        sum += load(taps[tap].weight + c, lanes) * load(taps[tap].source + c, lanes);
    return sum;
}

// put(c, lanes, sum) for all channels
template <typename T, int K, class Put>
inline __attribute__((always_inline)) void sum_channels(const Tap<T, const float>* taps, int count, const float* bias,
                                                        int64_t channels, const Put& put) {
    const int64_t whole = channels / LANES * LANES;
    if (count == K * K)
        for (int64_t c = 0; c < whole; c += LANES) put(c, int64_t(LANES), sum_taps(taps, K * K, bias, c, LANES));
    else
        for (int64_t c = 0; c < whole; c += LANES) put(c, int64_t(LANES), sum_taps(taps, count, bias, c, LANES));
    // half a vector is what most networks' widths leave over
    if (channels - whole == LANES / 2)
        put(whole, int64_t(LANES / 2), sum_taps(taps, count, bias, whole, LANES / 2));
    else if (whole < channels)
        put(whole, channels - whole, sum_taps(taps, count, bias, whole, channels - whole));
}

}  // namespace
