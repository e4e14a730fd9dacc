// 3x3 convolution of stride 1 at any rate, channels last, and its gradients, by Winograd's minimal filtering F(4x4, 3x3):
// 36 products for 16 outputs where the sum itself has 144 (Lavin and Gray, Fast Algorithms for Convolutional Neural
// Networks, 2016).
//
// A square is 4x4 outputs, a rate apart, that read 6x6 inputs. Inputs, weights and outputs of squares are transformed
// with the points 0, 5/8, -5/8, 3/2, -3/2 and infinity, whose error in float32 is half that of 0, 1, -1, 2, -2; in
// between are 36 matrix products over the channels, one for each entry of a square. Every sum has a fixed order:
// results do not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "products.hpp"

namespace {

constexpr int SIDE = 4, REACH = 6, ENTRIES = REACH * REACH, TAPS = 3;
// squares and outputs that are worked on together: their 36 entries stay near the processor
constexpr int64_t SQUARES = 8 * TILE, GROUP = 8 * LANES;
// entries of one buffer lie so much more apart than they are long, or all would fall into the same lines of L1
constexpr int64_t APART = 16;

// The points A and B, their squares, and what weights are divided by
constexpr float A = 0.625f, B = 1.5f, P = A * A, Q = B * B;
constexpr float BY_ZERO = 1 / (P * Q), BY_A = 1 / (2 * P * (P - Q)), BY_B = 1 / (2 * Q * (Q - P));

struct Shape {
    int64_t images, channels, source_height, source_width, outputs, height, width, top, left, row_rate, column_rate;
};

// Each transform along one axis; `transposed` ones are for gradients.
inline __attribute__((always_inline)) void transform_input(const Floats (&d)[REACH], Floats (&to)[REACH]) {
    const Floats even_a = d[4] - Q * d[2], odd_a = A * (d[3] - Q * d[1]);
    const Floats even_b = d[4] - P * d[2], odd_b = B * (d[3] - P * d[1]);
    to[0] = P * Q * d[0] - (P + Q) * d[2] + d[4];
    to[1] = even_a + odd_a;
    to[2] = even_a - odd_a;
    to[3] = even_b + odd_b;
    to[4] = even_b - odd_b;
    to[5] = P * Q * d[1] - (P + Q) * d[3] + d[5];
}

inline __attribute__((always_inline)) void transform_output(const Floats (&m)[REACH], Floats (&to)[SIDE]) {
    const Floats even_a = m[1] + m[2], odd_a = A * (m[1] - m[2]), even_b = m[3] + m[4], odd_b = B * (m[3] - m[4]);
    to[0] = m[0] + even_a + even_b;
    to[1] = odd_a + odd_b;
    to[2] = P * even_a + Q * even_b;
    to[3] = P * odd_a + Q * odd_b + m[5];
}

inline __attribute__((always_inline)) void transform_output_transposed(const Floats (&y)[SIDE], Floats (&to)[REACH]) {
    const Floats even_a = y[0] + P * y[2], odd_a = A * (y[1] + P * y[3]);
    const Floats even_b = y[0] + Q * y[2], odd_b = B * (y[1] + Q * y[3]);
    to[0] = y[0];
    to[1] = even_a + odd_a;
    to[2] = even_a - odd_a;
    to[3] = even_b + odd_b;
    to[4] = even_b - odd_b;
    to[5] = y[3];
}

inline __attribute__((always_inline)) void transform_weight(const Floats (&g)[TAPS], Floats (&to)[REACH]) {
    const Floats even_a = BY_A * (g[0] + P * g[2]), odd_a = BY_A * A * g[1];
    const Floats even_b = BY_B * (g[0] + Q * g[2]), odd_b = BY_B * B * g[1];
    to[0] = BY_ZERO * g[0];
    to[1] = even_a + odd_a;
    to[2] = even_a - odd_a;
    to[3] = even_b + odd_b;
    to[4] = even_b - odd_b;
    to[5] = g[2];
}

inline __attribute__((always_inline)) void transform_weight_transposed(const Floats (&u)[REACH], Floats (&to)[TAPS]) {
    const Floats even_a = BY_A * (u[1] + u[2]), odd_a = BY_A * A * (u[1] - u[2]);
    const Floats even_b = BY_B * (u[3] + u[4]), odd_b = BY_B * B * (u[3] - u[4]);
    to[0] = BY_ZERO * u[0] + even_a + even_b;
    to[1] = odd_a + odd_b;
    to[2] = P * even_a + Q * even_b + u[5];
}

// `along` on columns, then on rows: get(row, column) is FROM x FROM, put(row, column, value) TO x TO.
template <int FROM, int TO, class Along, class Get, class Put>
inline __attribute__((always_inline)) void both_axes(const Along& along, const Get& get, const Put& put) {
    Floats between[TO][FROM];
    for (int column = 0; column < FROM; ++column) {
        Floats in[FROM], out[TO];
#pragma GCC unroll 6
        for (int row = 0; row < FROM; ++row) in[row] = get(row, column);
        along(in, out);
#pragma GCC unroll 6
        for (int row = 0; row < TO; ++row) between[row][column] = out[row];
    }
    for (int row = 0; row < TO; ++row) {
        Floats out[TO];
        along(between[row], out);
#pragma GCC unroll 6
        for (int column = 0; column < TO; ++column) put(row, column, out[column]);
    }
}

// First outputs of squares along one axis: every phase of the rate has its own squares.
std::vector<int64_t> starts(int64_t extent, int64_t rate) {
    std::vector<int64_t> found;
    for (int64_t phase = 0; phase < std::min(rate, extent); ++phase)
        for (int64_t start = phase; start < extent; start += SIDE * rate) found.push_back(start);
    return found;
}

struct Squares {
    const Shape& shape;
    const std::vector<int64_t> rows, columns;

    explicit Squares(const Shape& shape)
        : shape(shape), rows(starts(shape.height, shape.row_rate)), columns(starts(shape.width, shape.column_rate)) {}

    int64_t count() const { return shape.images * int64_t(rows.size() * columns.size()); }

    // found[row * side + column]: the pixels of a map that a square's entries are, `outside` beyond the map
    template <class Pixel>
    void locate(int64_t square, int side, int64_t top, int64_t left, int64_t height, int64_t width, int64_t channels,
                Pixel* map, Pixel* outside, Pixel** found) const {
        const int64_t across = columns.size(), down = rows.size();
        map += square / (across * down) * height * width * channels;
        for (int row = 0; row < side; ++row) {
            const int64_t y = rows[square / across % down] - top + row * shape.row_rate;
            for (int column = 0; column < side; ++column) {
                const int64_t x = columns[square % across] - left + column * shape.column_rate;
                const bool inside = y >= 0 && y < height && x >= 0 && x < width;
                found[row * side + column] = inside ? map + (y * width + x) * channels : outside;
            }
        }
    }

    // to[entry * step + c]: the transformed inputs of a square
    void take_inputs(int64_t square, const float* source, const float* zeros, int64_t step, float* to) const {
        const float* from[ENTRIES];
        locate(square, REACH, shape.top, shape.left, shape.source_height, shape.source_width, shape.channels, source,
               zeros, from);
        for (int64_t c = 0; c < shape.channels; c += LANES)
            both_axes<REACH, REACH>(
                [](const auto& in, auto& out) __attribute__((always_inline)) { transform_input(in, out); },
                [&](int row, int column) __attribute__((always_inline)) {
                    const float* const pixel = from[row * REACH + column] + c;
                    // the next square's: six rows of short runs are more than processors foresee
                    __builtin_prefetch(pixel + SIDE * shape.column_rate * shape.channels);
                    return load(pixel, LANES);
                },
                [&](int row, int column, const Floats& value) {
                    store(value, to + (row * REACH + column) * step + c, LANES);
                });
    }

    // to[entry * step + o]: the transformed gradients of a square's outputs
    void take_gradients(int64_t square, const float* gradient, const float* zeros, int64_t step, float* to) const {
        const float* from[SIDE * SIDE];
        locate(square, SIDE, 0, 0, shape.height, shape.width, shape.outputs, gradient, zeros, from);
        for (int64_t o = 0; o < shape.outputs; o += LANES)
            both_axes<SIDE, REACH>(
                [](const auto& in, auto& out) __attribute__((always_inline)) { transform_output_transposed(in, out); },
                [&](int row, int column) { return load(from[row * SIDE + column] + o, LANES); },
                [&](int row, int column, const Floats& value) {
                    store(value, to + (row * REACH + column) * step + o, LANES);
                });
    }

    // Outputs from..to of a square, from sums[entry * step + o - from] and what is added to them, if anything.
    void put_outputs(int64_t square, const float* sums, int64_t step, int64_t from, int64_t to, const Ending& ending,
                     const float* added, float* target, float* unwanted) const {
        float* places[SIDE * SIDE];
        locate(square, SIDE, 0, 0, shape.height, shape.width, shape.outputs, target, unwanted, places);
        for (int64_t o = from; o < to; o += LANES)
            both_axes<REACH, SIDE>(
                [](const auto& in, auto& out) __attribute__((always_inline)) { transform_output(in, out); },
                [&](int row, int column) { return load(sums + (row * REACH + column) * step + o - from, LANES); },
                [&](int row, int column, Floats value) {
                    float* const place = places[row * SIDE + column] + o;
                    value += load(ending.bias + o, LANES);
                    if (added && places[row * SIDE + column] != unwanted) value += load(added + (place - target), LANES);
                    store(ending.finish(value), place, LANES);
                });
    }
};

// The convolution of source, plus `added` if anything, bounded.
void correlate(const Shape& shape, const float* source, const float* packed, const Ending& ending, const float* added,
               int64_t threads, float* target) {
    const Squares squares(shape);
    const int64_t tiles = ceil_div(squares.count(), TILE), chunks = threads * ceil_div(tiles * TILE, threads * SQUARES);
    const int64_t most = TILE * ceil_div(tiles, chunks), width = std::min(GROUP, in_panels(shape.outputs));
    const int64_t step = most * shape.channels + APART, between = most * width + APART;
    const std::vector<float> zeros(std::max(shape.channels, in_panels(shape.outputs)));
    const std::vector<Part> all = parts(1, shape.channels);
    const Ending none = {zeros.data(), -INFINITY, INFINITY, false};
#pragma omp parallel
    {
        const Room<float> inputs(ENTRIES * step), products(ENTRIES * between), sums(most * width), unwanted(shape.outputs);
        std::vector<const float*> rows(most);
#pragma omp for schedule(static)
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            const int64_t begin = chunk * tiles / chunks * TILE;
            const int64_t end = std::min(squares.count(), (chunk + 1) * tiles / chunks * TILE);
            const int64_t count = ceil_div(end - begin, TILE) * TILE;
            for (int64_t square = begin; square < end; ++square)
                squares.take_inputs(square, source, zeros.data(), step,
                                    inputs.data() + (square - begin) * shape.channels);
            for (int64_t group = 0; group < shape.outputs; group += GROUP) {
                const int64_t last = std::min(shape.outputs, group + GROUP);
                for (int64_t entry = 0; entry < ENTRIES; ++entry) {
                    // whole tiles, the last square again and again: single rows take as long as a tile
                    for (int64_t row = 0; row < count; ++row)
                        rows[row] = inputs.data() + entry * step + std::min(row, end - begin - 1) * shape.channels;
                    const float* const weights = packed + entry * in_panels(shape.outputs) * shape.channels;
                    for (const Part& part : all)
                        for (int64_t output = group; output < last; output += PANEL)
                            add_part(part, Rows<float>{rows.data(), nullptr}, count,
                                     weights + output * shape.channels + part.from * PANEL, none,
                                     Target<float>{sums.data() + (output - group) * most,
                                                   products.data() + entry * between + output - group, width,
                                                   nullptr},
                                     std::min<int64_t>(PANEL, shape.outputs - output));
                }
                for (int64_t square = begin; square < end; ++square)
                    squares.put_outputs(square, products.data() + (square - begin) * width, between, group, last,
                                        ending, added, target, unwanted.data());
            }
        }
    }
}

// to[entry, panel, c, lane] = transformed weight at strides (output, channel, tap); zeros beyond the last output
void pack(int64_t outputs, int64_t channels, const int64_t* strides, const float* weight, float* to) {
    const int64_t step = in_panels(outputs) * channels;
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < outputs; first += PANEL) {
        const int64_t width = std::min<int64_t>(PANEL, outputs - first);
        float* const panel = to + first * channels;
        // channels that share lines of memory, turned so that outputs lie together
        constexpr int64_t TOGETHER = 16;
        float taps[TOGETHER][TAPS * TAPS][PANEL] = {};
        for (int64_t begin = 0; begin < channels; begin += TOGETHER) {
            const int64_t count = std::min(TOGETHER, channels - begin);
            for (int64_t lane = 0; lane < width; ++lane)
                for (int tap = 0; tap < TAPS * TAPS; ++tap) {
                    const float* const from =
                        weight + (first + lane) * strides[0] + begin * strides[1] + tap * strides[2];
                    for (int64_t c = 0; c < count; ++c) taps[c][tap][lane] = from[c * strides[1]];
                }
            for (int64_t c = 0; c < count; ++c)
                for (int lane = 0; lane < PANEL; lane += LANES)
                    both_axes<TAPS, REACH>(
                        [](const auto& in, auto& out) __attribute__((always_inline)) { transform_weight(in, out); },
                        [&](int row, int column) { return load(taps[c][row * TAPS + column] + lane, LANES); },
                        [&](int row, int column, const Floats& value) {
                            store(value, panel + (row * REACH + column) * step + (begin + c) * PANEL + lane, LANES);
                        });
        }
    }
}

// found[o, tap, c] = sum over places of gradient[place, o] * source[place's tap, c]; entries is room for 36 x o x c, zeros
void weight_gradient(const Shape& shape, const float* source, const float* gradient, float* entries, float* found) {
    const Squares squares(shape);
    const int64_t most = std::min(LAID_OUT, squares.count()), size = shape.outputs * shape.channels;
    const int64_t step = most * shape.channels + APART, between = most * shape.outputs + APART;
    const int64_t group = 32 * LANES;
    const std::vector<float> zeros(std::max(shape.channels, shape.outputs));
    const Room<float> inputs(ENTRIES * step), gradients(ENTRIES * between);
#pragma omp parallel
    {
        std::vector<const float*> rows(most);
        const Room<float> panels(LAID_OUT * std::min(group, in_panels(shape.channels))), slopes(LAID_OUT * TILE);
        for (int64_t begin = 0; begin < squares.count(); begin += most) {
            const int64_t here = std::min(most, squares.count() - begin);
#pragma omp for schedule(static)
            for (int64_t square = 0; square < here; ++square) {
                squares.take_inputs(begin + square, source, zeros.data(), step,
                                    inputs.data() + square * shape.channels);
                squares.take_gradients(begin + square, gradient, zeros.data(), between,
                                       gradients.data() + square * shape.outputs);
            }
#pragma omp for schedule(dynamic, 1)
            for (int64_t entry = 0; entry < ENTRIES; ++entry) {
                for (int64_t row = 0; row < here; ++row) rows[row] = inputs.data() + entry * step + row * shape.channels;
                for (int64_t channel = 0; channel < shape.channels; channel += group)
                    add_outer({0, shape.outputs, channel, std::min(shape.channels, channel + group)}, rows.data(), here,
                              gradients.data() + entry * between, shape.outputs, panels.data(), slopes.data(),
                              entries + entry * size, shape.channels);
            }
        }
#pragma omp for schedule(static)
        for (int64_t output = 0; output < shape.outputs; ++output)
            for (int64_t c = 0; c < shape.channels; c += LANES)
                both_axes<REACH, TAPS>(
                    [](const auto& in, auto& out) __attribute__((always_inline)) { transform_weight_transposed(in, out); },
                    [&](int row, int column) {
                        return load(entries + (row * REACH + column) * size + output * shape.channels + c, LANES);
                    },
                    [&](int row, int column, const Floats& value) {
                        store(value, found + (output * TAPS * TAPS + row * TAPS + column) * shape.channels + c, LANES);
                    });
    }
}

Shape shape_of(const int64_t* sizes) {
    return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7], sizes[8], sizes[9], sizes[10]};
}

}  // namespace

// How many numbers packed weights are.
extern "C" int64_t deeplab_winograd_packed(int64_t outputs, int64_t channels) {
    return ENTRIES * in_panels(outputs) * channels;
}

extern "C" void deeplab_winograd_pack(int64_t outputs, int64_t channels, const int64_t* strides, const float* weight,
                                      float* packed) {
    pack(outputs, channels, strides, weight, packed);
}

extern "C" void deeplab_winograd(const int64_t* sizes, int64_t threads, const float* source, const float* packed,
                                 const float* bias, const float* added, float least, float most, int swish,
                                 float* target) {
    correlate(shape_of(sizes), source, packed, {bias, least, most, swish != 0}, added, threads, target);
}

extern "C" void deeplab_winograd_weight(const int64_t* sizes, const float* source, const float* gradient, float* entries,
                                        float* found) {
    weight_gradient(shape_of(sizes), source, gradient, entries, found);
}
