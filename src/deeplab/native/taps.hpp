// The taps of a depthwise kernel at one output position, and their sum.

#pragma once

#include <cstdint>
#include <vector>

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

constexpr int STEPS = 4;  // neighbouring outputs that are summed together: their taps' weights are read once

// Which outputs begin STEPS neighbours that read no padding, each as far from the last as the first two.
template <int K>
std::vector<char> find_runs(const int32_t* columns, int64_t width) {
    std::vector<char> found(width);
    for (int64_t x = 0; x + STEPS <= width; ++x) {
        const int32_t* const first = columns + x * K;
        const int32_t step = first[K] - first[0];
        found[x] = 1;
        for (int i = 0; i < STEPS * K; ++i)
            found[x] &= first[i] >= 0 && first[i] == first[i % K] + i / K * step;
    }
    return found;
}

// Sums over `count` taps at `lanes` channels from c on, of N outputs whose taps lie `stride` source values apart. An inlined
// call with constants is unrolled.
template <int N, typename T>
inline __attribute__((always_inline)) void sum_taps(const Tap<T, const float>* taps, int count, int64_t stride,
                                                    const float* bias, int64_t c, int64_t lanes, Floats (&sums)[N]) {
    for (int step = 0; step < N; ++step) sums[step] = bias ? load(bias + c, lanes) : Floats{};
    for (int tap = 0; tap < count; ++tap) {
        const Floats weight = load(taps[tap].weight + c, lanes);
        for (int step = 0; step < N; ++step) sums[step] += weight * load(taps[tap].source + step * stride + c, lanes);
    }
}

// put(step, c, lanes, sum) for N outputs and all channels
template <int N, int K, typename T, class Put>
inline __attribute__((always_inline)) void sum_channels(const Tap<T, const float>* taps, int count, int64_t stride,
                                                        const float* bias, int64_t channels, const Put& put) {
    const auto at = [&](int number, int64_t c, int64_t lanes) __attribute__((always_inline)) {
        Floats sums[N];
        sum_taps<N>(taps, number, stride, bias, c, lanes, sums);
        for (int step = 0; step < N; ++step) put(step, c, lanes, sums[step]);
    };
    const int64_t whole = channels / LANES * LANES;
    if (count == K * K)
        for (int64_t c = 0; c < whole; c += LANES) at(K * K, c, LANES);
    else
        for (int64_t c = 0; c < whole; c += LANES) at(count, c, LANES);
    // half a vector is what most networks' widths leave over
    if (channels - whole == LANES / 2)
        at(count, whole, LANES / 2);
    else if (whole < channels)
        at(count, whole, channels - whole);
}

// put(x, c, lanes, sum) for outputs begin..end of a row and all channels; runs are what find_runs says
template <int K, typename T, class Put>
inline __attribute__((always_inline)) void sum_line(const T* const* lines, int64_t channels, const float* weight,
                                                    const float* bias, const int32_t* columns, const char* runs,
                                                    int64_t begin, int64_t end, const Put& put) {
    Tap<T, const float> taps[K * K];
    for (int64_t x = begin; x < end;) {
        const int32_t* const column = columns + x * K;
        const int count = collect<T, const float, K>(lines, channels, weight, column, taps);
        const auto each = [&](int step, int64_t c, int64_t lanes, const Floats& sum)
            __attribute__((always_inline)) { put(x + step, c, lanes, sum); };
        if (runs[x] && x + STEPS <= end) {
            sum_channels<STEPS, K>(taps, count, (column[K] - column[0]) * channels, bias, channels, each);
            x += STEPS;
        } else {
            sum_channels<1, K>(taps, count, 0, bias, channels, each);
            ++x;
        }
    }
}

}  // namespace
