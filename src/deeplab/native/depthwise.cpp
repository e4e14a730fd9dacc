// Depthwise convolution at any stride and rate, channels last, forward and backward.
//
// Which row (column) a tap reads for an output row (column), or -1 for padding, comes in as a table, so that padding
// rules, rates and strides need no code here, and the gradient of the input is the same loop with tables turned round.
// Every sum has a fixed order: results do not depend on the number of threads.

#include <cstdint>
#include <cstring>

#include "taps.hpp"

namespace {

constexpr int RUN = 8;  // outputs whose gradients are kept in registers

// Where the rows of a plane begin that an output row's taps read; null in the padding.
template <typename T, int K>
void find_lines(const Shape& shape, const T* plane, const int32_t* row, const T** lines) {
    for (int ky = 0; ky < K; ++ky)
        lines[ky] = row[ky] < 0 ? nullptr : plane + row[ky] * shape.source_width * shape.channels;
}

// target[n, y, x, c] = bias[c] + sum over taps of weight[tap, c] * source[n, rows[y, ky], columns[x, kx], c]
template <typename T, int K>
void correlate(const Shape& shape, const T* source, const float* weight, const float* bias, const int32_t* rows,
               const int32_t* columns, T* target) {
    const int64_t channels = shape.channels;
    const std::vector<char> runs = find_runs<K>(columns, shape.width);
    const Filter<K> filter(weight, bias, channels);
#pragma omp parallel for schedule(static)
    for (int64_t line = 0; line < shape.images * shape.height; ++line) {
        const T* const plane = source + line / shape.height * shape.source_height * shape.source_width * channels;
        const T* lines[K];
        find_lines<T, K>(shape, plane, rows + line % shape.height * K, lines);
        T* const out = target + line * shape.width * channels;
        sum_rows<1>(lines, {}, channels, filter, columns, runs.data(), 0, shape.width,
                    stores(AsItIs{}), out, channels, 0);
    }
}

// to[tap, c] += slope * source over `steps` neighbouring outputs whose taps lie `stride` source values apart
template <typename T>
inline __attribute__((always_inline)) void add_products(const Tap<T>* taps, int count, const T* slopes, int64_t steps,
                                                        int64_t stride, int64_t channels, int64_t c, int64_t lanes,
                                                        float* to) {
    Floats slope[RUN];
    for (int64_t step = 0; step < steps; ++step) slope[step] = load(slopes + step * channels + c, lanes);
    for (int tap = 0; tap < count; ++tap) {
        float* const own = to + taps[tap].index * channels + c;
        Floats sum = load(own, lanes);
        for (int64_t step = 0; step < steps; ++step)
            sum += slope[step] * load(taps[tap].source + step * stride + c, lanes);
        store(sum, own, lanes);
    }
}

// One line of outputs into sums[tap, c].
template <typename T, int K>
void line_products(const Shape& shape, const T* plane, const T* slopes, const int32_t* row, const int32_t* columns,
                   float* sums) {
    const int64_t channels = shape.channels, whole = channels / LANES * LANES;
    const T* lines[K];
    find_lines<T, K>(shape, plane, row, lines);
    for (int64_t x = 0; x < shape.width;) {
        Tap<T> taps[K * K];
        const int32_t* const column = columns + x * K;
        const int count = collect<T, K>(lines, channels, column, taps);
        // a run of outputs with the same taps, each as far from the last as the first two
        const bool runs = x + RUN <= shape.width && column[0] >= 0 && columns[(x + RUN) * K - 1] >= 0;
        const int64_t steps = runs ? RUN : 1, stride = runs ? (column[K] - column[0]) * channels : 0;
        const T* const from = slopes + x * channels;
        if (runs && count == K * K)
            for (int64_t c = 0; c < whole; c += LANES)
                add_products(taps, K * K, from, RUN, stride, channels, c, LANES, sums);
        else
            for (int64_t c = 0; c < whole; c += LANES)
                add_products(taps, count, from, steps, stride, channels, c, LANES, sums);
        if (channels - whole == LANES / 2)
            add_products(taps, count, from, steps, stride, channels, whole, LANES / 2, sums);
        else if (whole < channels)
            add_products(taps, count, from, steps, stride, channels, whole, channels - whole, sums);
        x += steps;
    }
}

// partial[n * bands + band, tap, c] = sum over the band's y, and x, of gradient[n, y, x, c] * source[n, rows[y, ky],
// columns[x, kx], c]; `line` is room for a line's sums, as long sums of float32 lose digits
template <typename T, int K>
void weight_gradient(const Shape& shape, const T* source, const T* gradient, const int32_t* rows,
                     const int32_t* columns, int64_t bands, float* partial, float* line) {
    const int64_t channels = shape.channels, sums = K * K * channels;
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t task = 0; task < shape.images * bands; ++task) {
        const int64_t image = task / bands, band = task % bands;
        const T* const plane = source + image * shape.source_height * shape.source_width * channels;
        float* const total = partial + task * sums;
        float* const own = line + task * sums;
        std::memset(total, 0, sums * sizeof(float));
        for (int64_t y = band * shape.height / bands; y < (band + 1) * shape.height / bands; ++y) {
            std::memset(own, 0, sums * sizeof(float));
            const T* const slopes = gradient + (image * shape.height + y) * shape.width * channels;
            line_products<T, K>(shape, plane, slopes, rows + y * K, columns, own);
            for (int64_t i = 0; i < sums; ++i) total[i] += own[i];
        }
    }
}

}  // namespace

// Both return 0, or 1 for a kernel size that is not compiled.
extern "C" int deeplab_depthwise(const Shape* shape, int kernel, int half, const void* source, const float* weight,
                                 const float* bias, const int32_t* rows, const int32_t* columns, void* target) {
    return with_kernel(kernel, [&](auto size) {
        constexpr int K = decltype(size)::value;
        in_format(half, [&](auto number) {
            using T = decltype(number);
            correlate<T, K>(*shape, static_cast<const T*>(source), weight, bias, rows, columns, static_cast<T*>(target));
        });
    });
}

extern "C" int deeplab_depthwise_weight(const Shape* shape, int kernel, int half, const void* source,
                                        const void* gradient, const int32_t* rows, const int32_t* columns,
                                        int64_t bands, float* partial, float* line) {
    return with_kernel(kernel, [&](auto size) {
        constexpr int K = decltype(size)::value;
        in_format(half, [&](auto number) {
            using T = decltype(number);
            weight_gradient<T, K>(*shape, static_cast<const T*>(source), static_cast<const T*>(gradient), rows, columns,
                                  bands, partial, line);
        });
    });
}
