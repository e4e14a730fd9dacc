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

// Where the places of a line lie that the kernel reads, from column `first` on: all channels of a place together, or, of
// `columns` places if that is not 0, BLOCKED channels of all of them before the next ones.
struct Layout {
    int64_t first, columns;
};

// Channels that are summed over whole rows before the next ones: what the next outputs read again stays in L1.
constexpr int64_t BLOCKED = 12 * LANES;

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

// Biases and sums of all taps at `lanes` channels from c on, of N neighbouring outputs in each of R rows, which read the
// same places, FAR of them `apart` from each other; a row reads the lines of the one above without the first, and one
// more. Each place is read once. Lines begin at the first place; null ones are padding.
template <int N, int K, int R, int FAR, typename T>
inline __attribute__((always_inline)) void sum_shared(const T* const* lines, int64_t apart, const float* weights,
                                                      int64_t c, int64_t lanes, Floats (&sums)[R][N]) {
    constexpr int PLACES = (N - 1) * FAR + K;
    for (int row = 0; row < R; ++row)
        for (int step = 0; step < N; ++step) sums[row][step] = load(weights + K * K * LANES, LANES);
#pragma GCC unroll 6
    for (int line = 0; line < K + R - 1; ++line) {
        if (!lines[line]) continue;
        Floats places[PLACES];
        for (int x = 0; x < PLACES; ++x) {
            places[x] = load(lines[line] + x * apart + c, lanes);
            hold(places[x]);
        }
#pragma GCC unroll 2
        for (int row = 0; row < R; ++row)
            for (int kx = 0; kx < K && line >= row && line < row + K; ++kx) {
                Floats weight = load(weights + ((line - row) * K + kx) * LANES, LANES);
                hold(weight);
                for (int step = 0; step < N; ++step) sums[row][step] += weight * places[step * FAR + kx];
            }
    }
}

// The same of one output in each row; taps are where each of each line reads, or null.
template <int K, int R, typename T>
inline __attribute__((always_inline)) void sum_column(const T* const (&taps)[K + R - 1][K], const float* weights, int64_t c,
                                                      int64_t lanes, Floats (&sums)[R][1]) {
    for (int row = 0; row < R; ++row) sums[row][0] = load(weights + K * K * LANES, LANES);
#pragma GCC unroll 6
    for (int line = 0; line < K + R - 1; ++line)
#pragma GCC unroll 5
        for (int kx = 0; kx < K; ++kx) {
            if (!taps[line][kx]) continue;
            Floats place = load(taps[line][kx] + c, lanes);
            hold(place);
#pragma GCC unroll 2
            for (int row = 0; row < R; ++row)
                if (line >= row && line < row + K)
                    sums[row][0] += load(weights + ((line - row) * K + kx) * LANES, LANES) * place;
        }
}

// Ends the sums of outputs begin..end of R rows and all channels: finish(c)(sum, to + row * below + (x - begin) * apart + c,
// number of channels). Lines are the K that the first row reads, and one more for every other row; runs are what find_runs
// says.
template <int R, int K, typename T, typename To, class Finish>
inline __attribute__((always_inline)) void sum_rows(const T* const* lines, const Layout& layout, int64_t channels,
                                                    const Filter<K>& filter, const int32_t* columns, const char* runs,
                                                    int64_t begin, int64_t end, const Finish& finish, To* to,
                                                    int64_t apart, int64_t below) {
    constexpr int LINES = K + R - 1;
    // a single row of places that lie together reads little again
    const int64_t block = R > 1 || layout.columns ? BLOCKED : channels;
    for (int64_t from = 0; from < channels; from += block) {
        const int64_t past = std::min(channels, from + block);
        // of a place
        const int64_t values = layout.columns ? past - from : channels;
        const T* own[LINES];
        for (int line = 0; line < LINES; ++line)
            own[line] = lines[line] ? lines[line] + (layout.columns ? from * (layout.columns - 1) : 0) - layout.first * values
                                    : nullptr;
        for (int64_t x = begin; x < end;) {
            const int32_t* const column = columns + x * K;
            // sum(their weights, first channel, number of channels, sums) for N outputs a row
            const auto outputs = [&](auto number, const auto& sum) __attribute__((always_inline)) {
                constexpr int N = decltype(number)::value;
                To* const out = to + (x - begin) * apart;
                const auto vector = [&](int64_t c, int64_t lanes) __attribute__((always_inline)) {
                    Floats sums[R][N];
                    sum(filter.at(c), c, lanes, sums);
                    const auto ended = finish(c);
                    for (int row = 0; row < R; ++row)
                        for (int step = 0; step < N; ++step)
                            ended(sums[row][step], out + row * below + step * apart + c, lanes);
                };
                const int64_t whole = from + (past - from) / LANES * LANES;
                for (int64_t c = from; c < whole; c += LANES) vector(c, LANES);
                // half a vector is what most networks' widths leave over; where parts are read by masks, it is as any other
                if (LANES < 16 && past - whole == LANES / 2)
                    vector(whole, LANES / 2);
                else if (whole < past)
                    vector(whole, past - whole);
                x += N;
            };
            const auto shared = [&](auto far, int64_t rate) __attribute__((always_inline)) {
                const T* first[LINES];
                for (int line = 0; line < LINES; ++line) first[line] = own[line] ? own[line] + column[0] * values : nullptr;
                outputs(std::integral_constant<int, STEPS>{}, [&](const float* weights, int64_t c, int64_t lanes,
                                                                  Floats(&sums)[R][STEPS]) __attribute__((always_inline)) {
                    sum_shared<STEPS, K, R, decltype(far)::value>(first, rate * values, weights, c, lanes, sums);
                });
            };
            const auto unshared = [&](auto number, int64_t step) __attribute__((always_inline)) {
                constexpr int N = decltype(number)::value;
                if constexpr (R > 1) {
                    const T* taps[LINES][K];
                    for (int line = 0; line < LINES; ++line)
                        for (int kx = 0; kx < K; ++kx)
                            taps[line][kx] = own[line] && column[kx] >= 0 ? own[line] + column[kx] * values : nullptr;
                    outputs(number, [&](const float* weights, int64_t c, int64_t lanes,
                                        Floats(&sums)[R][N]) __attribute__((always_inline)) {
                        sum_column<K, R>(taps, weights, c, lanes, sums);
                    });
                } else {
                    Tap<T> taps[K * K];
                    const int count = collect<T, K>(own, values, column, taps);
                    outputs(number, [&](const float* weights, int64_t c, int64_t lanes,
                                        Floats(&sums)[R][N]) __attribute__((always_inline)) {
                        // a constant, where it can be one
                        if (count == K * K)
                            sum_taps<N, K>(taps, K * K, step * values, weights, c, lanes, sums[0]);
                        else
                            sum_taps<N, K>(taps, count, step * values, weights, c, lanes, sums[0]);
                    });
                }
            };
            const std::integral_constant<int, 1> one;
            const int64_t step = runs[x] && x + STEPS <= end ? column[K] - column[0] : 0;
            const int64_t rate = step ? column[1] - column[0] : 1;
            // rows that share lines have strides of 1
            if (step == rate)
                shared(one, rate);
            else if (R == 1 && step == 2 * rate)
                shared(std::integral_constant<int, R == 1 ? 2 : 1>{}, rate);
            else if (R == 1 && step)
                unshared(std::integral_constant<int, R == 1 ? STEPS : 1>{}, step);
            else
                unshared(one, 0);
        }
    }
}

// What sum_rows does with sums where they are kept as they are, or as finish(sum) makes them.
template <class Finish>
inline auto stores(const Finish& finish) {
    return [finish](int64_t) __attribute__((always_inline)) {
        return [finish](const Floats& sum, auto* to, int64_t lanes) __attribute__((always_inline)) {
            store(finish(sum), to, lanes);
        };
    };
}

struct AsItIs {
    inline __attribute__((always_inline)) Floats operator()(const Floats& sum) const { return sum; }
};

}  // namespace
