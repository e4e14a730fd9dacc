// What a convolution moves over; the taps of a depthwise kernel at one output position, and their sum.

#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "sums.hpp"

namespace {

// Images, channels last: what is read, and the size of what is written.
struct Shape {
    int64_t images, channels, source_height, source_width, height, width;
};

// The row (column) that each tap reads for each output row (column), or -1 for padding.
struct Tables {
    const int32_t *rows, *columns;
};

// body(size) for a depthwise kernel's, a constant; returns 0, or 1 for one that is not compiled
template <class Body>
int with_kernel(int64_t size, const Body& body) {
    if (size == 3) return body(std::integral_constant<int, 3>{}), 0;
    if (size == 5) return body(std::integral_constant<int, 5>{}), 0;
    return 1;
}

// One tap of one output position: where it reads, and which of the kernel's it is.
template <typename T>
struct Tap {
    const T* source;
    int64_t index;
};

// The taps of an output position that do not fall into the padding; returns their number. Lines are where the taps' rows
// begin, or null; columns -1 in the padding.
template <typename T, int K>
int collect(const T* const* lines, int64_t channels, const int32_t* column, Tap<T>* found) {
    int count = 0;
    for (int ky = 0; ky < K; ++ky)
        for (int kx = 0; kx < K; ++kx)
            if (lines[ky] && column[kx] >= 0) found[count++] = {lines[ky] + column[kx] * channels, ky * K + kx};
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

// Weights and biases: those of LANES channels lie together, [vector, tap and then bias, lane], so that one pointer finds
// them all.
template <int K>
class Filter {
   public:
    // weight is [tap, channel]; no biases are 0
    Filter(const float* weight, const float* bias, int64_t channels)
        : numbers(ceil_div(channels, LANES) * LANES * STEP) {
        std::fill(at(0), at(ceil_div(channels, LANES) * LANES), 0.0f);
        for (int64_t c = 0; c < channels; ++c) {
            float* const to = at(c / LANES * LANES) + c % LANES;
            for (int tap = 0; tap < K * K; ++tap) to[tap * LANES] = weight[tap * channels + c];
            if (bias) to[K * K * LANES] = bias[c];
        }
    }

    // of channel c, a multiple of LANES, and those behind it
    float* at(int64_t c) const { return numbers.data() + c * STEP; }

   private:
    static constexpr int STEP = K * K + 1;

    const Room<float> numbers;
};

// Biases and sums over `count` taps at `lanes` channels from c on, of N outputs whose taps lie `stride` source values
// apart. An inlined call with constants is unrolled.
template <int N, int K, typename T>
inline __attribute__((always_inline)) void sum_taps(const Tap<T>* taps, int count, int64_t stride, const float* weights,
                                                    int64_t c, int64_t lanes, Floats (&sums)[N]) {
    for (int step = 0; step < N; ++step) sums[step] = load(weights + K * K * LANES, LANES);
    for (int tap = 0; tap < count; ++tap) {
        Floats weight = load(weights + taps[tap].index * LANES, LANES);
        hold(weight);
        for (int step = 0; step < N; ++step) sums[step] += weight * load(taps[tap].source + step * stride + c, lanes);
    }
}

// The same of all taps, where neighbouring outputs read the same places, FAR of them apart: each is read once.
template <int N, int K, int FAR, typename T>
inline __attribute__((always_inline)) void sum_shared(const Tap<T>* taps, int64_t stride, const float* weights, int64_t c,
                                                      int64_t lanes, Floats (&sums)[N]) {
    constexpr int PLACES = (N - 1) * FAR + K;
    for (int step = 0; step < N; ++step) sums[step] = load(weights + K * K * LANES, LANES);
    for (int ky = 0; ky < K; ++ky) {
        Floats places[PLACES];
        for (int x = 0; x < PLACES; ++x) {
            places[x] = load(taps[ky * K].source + x * (stride / FAR) + c, lanes);
            hold(places[x]);
        }
        for (int kx = 0; kx < K; ++kx) {
            Floats weight = load(weights + (ky * K + kx) * LANES, LANES);
            hold(weight);
            for (int step = 0; step < N; ++step) sums[step] += weight * places[step * FAR + kx];
        }
    }
}

// to[step, c] = finish(sum) for N outputs and all channels; FAR as sum_shared has it, 0 where nothing is shared
template <int N, int K, int FAR, typename T, typename To, class Finish>
inline __attribute__((always_inline)) void sum_channels(const Tap<T>* taps, int count, int64_t stride,
                                                        const Filter<K>& filter, int64_t channels, const Finish& finish,
                                                        To* to) {
    const auto at = [&](int number, int64_t c, int64_t lanes) __attribute__((always_inline)) {
        Floats sums[N];
        if constexpr (FAR > 0)
            sum_shared<N, K, FAR>(taps, stride, filter.at(c), c, lanes, sums);
        else
            sum_taps<N, K>(taps, number, stride, filter.at(c), c, lanes, sums);
        for (int step = 0; step < N; ++step) store(finish(sums[step]), to + step * channels + c, lanes);
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

// to[x - begin, c] = finish(sum) for outputs begin..end of a row and all channels; runs are what find_runs says
template <int K, typename T, typename To, class Finish>
inline __attribute__((always_inline)) void sum_line(const T* const* lines, int64_t channels, const Filter<K>& filter,
                                                    const int32_t* columns, const char* runs, int64_t begin, int64_t end,
                                                    const Finish& finish, To* to) {
    Tap<T> taps[K * K];
    for (int64_t x = begin; x < end;) {
        const int32_t* const column = columns + x * K;
        const int count = collect<T, K>(lines, channels, column, taps);
        const auto sum = [&](auto steps, auto far, int64_t stride) __attribute__((always_inline)) {
            sum_channels<decltype(steps)::value, K, decltype(far)::value>(taps, count, stride, filter, channels, finish,
                                                                          to + (x - begin) * channels);
            x += decltype(steps)::value;
        };
        const std::integral_constant<int, STEPS> several;
        const std::integral_constant<int, 0> nothing;
        if (!runs[x] || x + STEPS > end) {
            sum(std::integral_constant<int, 1>{}, nothing, 0);
            continue;
        }
        const int64_t step = column[K] - column[0], rate = column[1] - column[0];
        if (count == K * K && step == rate)
            sum(several, std::integral_constant<int, 1>{}, step * channels);
        else if (count == K * K && step == 2 * rate)
            sum(several, std::integral_constant<int, 2>{}, step * channels);
        else
            sum(several, nothing, step * channels);
    }
}

}  // namespace
