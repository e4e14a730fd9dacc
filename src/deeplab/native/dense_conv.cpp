// Dense convolution at any stride and rate, channels last, and its gradients, as matrix products in registers.
//
// A place is one output position of one image. Which row (column) a tap reads for an output row (column), or -1 for
// padding, comes in as a table, as in depthwise.cpp: nothing is laid out anew for kernels larger than 1x1, each place
// has one pointer a tap. Every sum has a fixed order: results do not depend on the number of threads.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "lanes.hpp"

namespace {

// TILE x PANEL sums stay in registers: with AVX2, 12 of 16
constexpr int TILE = 6;
constexpr int VECTORS = 2;
constexpr int PANEL = VECTORS * LANES;
constexpr int64_t DEPTH = 512;         // products added up before sums go back to memory
constexpr int64_t BLOCK = 24 * TILE;   // places that a panel of weights is used for: their inputs stay in L2
constexpr int64_t GROUP = 16 * PANEL;  // outputs (in the weights' gradient: channels) whose sums stay in L2
// of the weights' gradient: places laid out together, bands of places, and sums up to which there are bands
constexpr int64_t LAID_OUT = 256, MOST_BANDS = 16, MOST_SUMS = 1 << 17;

struct Shape {
    int64_t images, channels, source_height, source_width, outputs, height, width, kernel_height, kernel_width;

    int64_t taps() const { return kernel_height * kernel_width; }
    int64_t places() const { return images * height * width; }
    // every place reads the pixel at its own position
    bool is_pointwise() const { return taps() == 1 && height == source_height && width == source_width; }
};

struct Tables {
    const int32_t *rows, *columns;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int64_t in_panels(int64_t count) { return ceil_div(count, PANEL) * PANEL; }

// Channels that the taps read for places begin..end: found[tap * step + place - begin]; `zeros` in the padding.
void locate(const Shape& shape, const Tables& tables, const float* source, const float* zeros, int64_t first_tap,
            int64_t last_tap, int64_t begin, int64_t end, int64_t step, const float** found) {
    if (shape.is_pointwise()) {
        for (int64_t place = begin; place < end; ++place) found[place - begin] = source + place * shape.channels;
        return;
    }
    const int64_t size = shape.source_height * shape.source_width * shape.channels;
    int64_t image = begin / shape.width / shape.height, y = begin / shape.width % shape.height, x = begin % shape.width;
    for (int64_t place = begin; place < end; ++place) {
        const int32_t* const row = tables.rows + y * shape.kernel_height;
        const int32_t* const column = tables.columns + x * shape.kernel_width;
        int64_t ky = first_tap / shape.kernel_width, kx = first_tap % shape.kernel_width;
        for (int64_t tap = first_tap; tap < last_tap; ++tap) {
            found[(tap - first_tap) * step + place - begin] =
                row[ky] < 0 || column[kx] < 0
                    ? zeros
                    : source + image * size + (row[ky] * shape.source_width + column[kx]) * shape.channels;
            if (++kx == shape.kernel_width) kx = 0, ++ky;
        }
        if (++x == shape.width) x = 0, ++y;
        if (y == shape.height) y = 0, ++image;
    }
}

// Sums of ROWS places (or outputs) and WIDE vectors, whole ones only: rests would keep them from staying in registers.
template <int ROWS, int WIDE>
struct Sums {
    Floats of[ROWS][WIDE];

    // body(sum, row, first column)
    template <class Body>
    inline __attribute__((always_inline)) void each(const Body& body) {
#pragma GCC unroll 16
        for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 4
            for (int vector = 0; vector < WIDE; ++vector) body(of[row][vector], row, vector * LANES);
    }

    // += value(row) * panel[0..]
    template <class Value>
    inline __attribute__((always_inline)) void add(const float* panel, const Value& value) {
        Floats factors[WIDE];
        for (int vector = 0; vector < WIDE; ++vector) factors[vector] = load(panel + vector * LANES, LANES);
        for (int row = 0; row < ROWS; ++row) {
            const float factor = value(row);
            for (int vector = 0; vector < WIDE; ++vector) of[row][vector] += factor * factors[vector];
        }
    }
};

// What happens to finished sums; as many biases as the panels have outputs.
struct Ending {
    const float* bias;
    float least, most;
};

// A part of every sum: taps first..last, channels from..to; the whole sum goes through all parts in order.
struct Part {
    int64_t first_tap, last_tap, from, to;
    bool begins, ends;
};

std::vector<Part> parts(int64_t taps, int64_t channels) {
    std::vector<Part> found;
    const int64_t together = std::max<int64_t>(1, DEPTH / channels), pieces = ceil_div(channels, DEPTH);
    for (int64_t tap = 0; tap < taps; tap += together) {
        const int64_t last = std::min(taps, tap + together);
        for (int64_t piece = 0; piece < pieces; ++piece)
            found.push_back({tap, last, piece * channels / pieces, (piece + 1) * channels / pieces,
                             tap == 0 && piece == 0, last == taps && piece + 1 == pieces});
    }
    return found;
}

// Where sums lie between their parts, rows of PANEL, and where they go when finished, rows `stride` apart.
struct Target {
    float *sums, *finished;
    int64_t stride;
};

// One part of the sums of ROWS places and WIDE vectors of outputs.
template <int ROWS, int WIDE>
inline __attribute__((always_inline)) void add_part(const Part& part, const float* const* places, const float* panel,
                                                    const Ending& ending, const Target& target, int64_t first) {
    Sums<ROWS, WIDE> sums;
    float* const between = target.sums + first * PANEL;
    if (part.begins)
        sums.each([&](Floats& sum, int, int column) __attribute__((always_inline)) {
            sum = load(ending.bias + column, LANES);
        });
    else
        sums.each([&](Floats& sum, int row, int column) __attribute__((always_inline)) {
            sum = load(between + row * PANEL + column, LANES);
        });
    for (int64_t tap = part.first_tap; tap < part.last_tap; ++tap) {
        const float* from[ROWS];
        for (int row = 0; row < ROWS; ++row) from[row] = places[tap * BLOCK + first + row];
        for (int64_t channel = part.from; channel < part.to; ++channel, panel += PANEL)
            sums.add(panel, [&](int row) __attribute__((always_inline)) { return from[row][channel]; });
    }
    if (!part.ends)
        return sums.each([&](Floats& sum, int row, int column) __attribute__((always_inline)) {
            store(sum, between + row * PANEL + column, LANES);
        });
    float* const finished = target.finished + first * target.stride;
    sums.each([&](Floats& sum, int row, int column) __attribute__((always_inline)) {
        // comparisons are such that what is not a number stays one
        sum = sum < ending.least ? Floats{} + ending.least : sum;
        sum = sum > ending.most ? Floats{} + ending.most : sum;
        store(sum, finished + row * target.stride + column, LANES);
    });
}

// One part of the sums of `count` places.
template <int WIDE>
void add_part(const Part& part, const float* const* places, int64_t count, const float* panel, const Ending& ending,
              const Target& target) {
    int64_t place = 0;
    for (; place + TILE <= count; place += TILE) add_part<TILE, WIDE>(part, places, panel, ending, target, place);
    for (; place < count; ++place) add_part<1, WIDE>(part, places, panel, ending, target, place);
}

// The same for `width` outputs: finished sums go by way of a copy where these are no whole vectors.
void add_part(const Part& part, const float* const* places, int64_t count, const float* panel, const Ending& ending,
              const Target& target, int64_t width) {
    if (width == PANEL) return add_part<VECTORS>(part, places, count, panel, ending, target);
    if (width == LANES) return add_part<1>(part, places, count, panel, ending, target);
    add_part<VECTORS>(part, places, count, panel, ending, {target.sums, target.sums, PANEL});
    if (part.ends)
        for (int64_t place = 0; place < count; ++place)
            std::memcpy(target.finished + place * target.stride, target.sums + place * PANEL, width * sizeof(float));
}

// target[place, o] = ending(sum over tap, c of source[place's tap, c] * weight[tap, c, o]), weights as `pack` has them
void correlate(const Shape& shape, const Tables& tables, const float* source, const float* packed, const Ending& ending,
               int64_t threads, float* target) {
    const int64_t taps = shape.taps(), depth = taps * shape.channels, tiles = ceil_div(shape.places(), TILE);
    // as many blocks for each thread, of nearly the same size
    const int64_t blocks = threads * ceil_div(tiles * TILE, threads * BLOCK);
    const std::vector<float> zeros(shape.channels);
    const std::vector<Part> all = parts(taps, shape.channels);
#pragma omp parallel
    {
        std::vector<const float*> places(taps * BLOCK);
        std::vector<float> sums(BLOCK * std::min(GROUP, in_panels(shape.outputs)));
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t begin = block * tiles / blocks * TILE;
            const int64_t end = std::min(shape.places(), (block + 1) * tiles / blocks * TILE);
            locate(shape, tables, source, zeros.data(), 0, taps, begin, end, BLOCK, places.data());
            for (int64_t group = 0; group < shape.outputs; group += GROUP)
                for (const Part& part : all)
                    for (int64_t output = group; output < std::min(shape.outputs, group + GROUP); output += PANEL) {
                        const float* const panel =
                            packed + output * depth + (part.first_tap * shape.channels + part.from) * PANEL;
                        add_part(part, places.data(), end - begin, panel,
                                 {ending.bias + output, ending.least, ending.most},
                                 {sums.data() + (output - group) * BLOCK,
                                  target + begin * shape.outputs + output, shape.outputs},
                                 std::min<int64_t>(PANEL, shape.outputs - output));
                    }
        }
    }
}

// to[panel, tap, c, lane] = weight at strides (output, channel, tap); zeros beyond the last output
void pack(int64_t outputs, int64_t channels, int64_t taps, const int64_t* strides, const float* weight, float* to) {
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < outputs; first += PANEL) {
        const int64_t width = std::min<int64_t>(PANEL, outputs - first);
        const float* const from = weight + first * strides[0];
        float* panel = to + first * taps * channels;
        std::fill(panel, panel + taps * channels * PANEL, 0.0f);
        for (int64_t tap = 0; tap < taps; ++tap)
            for (int64_t channel = 0; channel < channels; ++channel, panel += PANEL)
                for (int64_t lane = 0; lane < width; ++lane)
                    panel[lane] = from[lane * strides[0] + channel * strides[1] + tap * strides[2]];
    }
}

// body(to, stride, whole vectors) for `rows` rows of `width` sums at `to`, `stride` apart, by way of a copy where they are
// not TILE rows of whole vectors
template <class Body>
inline __attribute__((always_inline)) void in_tile(float* to, int64_t stride, int64_t rows, int64_t width,
                                                   const Body& body) {
    if (rows == TILE && width == PANEL) return body(to, stride, std::integral_constant<int, VECTORS>{});
    if (rows == TILE && width == LANES) return body(to, stride, std::integral_constant<int, 1>{});
    float copy[TILE * PANEL] = {};
    for (int64_t row = 0; row < rows; ++row) std::memcpy(copy + row * PANEL, to + row * stride, width * sizeof(float));
    body(copy, int64_t(PANEL), std::integral_constant<int, VECTORS>{});
    for (int64_t row = 0; row < rows; ++row) std::memcpy(to + row * stride, copy + row * PANEL, width * sizeof(float));
}

// found[o, c] += sum over `count` places of slopes[place, TILE] * panel[place, PANEL]
template <int WIDE>
inline __attribute__((always_inline)) void add_products(int64_t count, const float* slopes, const float* panel,
                                                        float* found, int64_t stride) {
    Sums<TILE, WIDE> sums = {};
    for (int64_t place = 0; place < count; ++place, slopes += TILE)
        sums.add(panel + place * PANEL, [&](int row) __attribute__((always_inline)) { return slopes[row]; });
    sums.each([&](Floats& sum, int row, int column) __attribute__((always_inline)) {
        float* const to = found + row * stride + column;
        store(load(to, LANES) + sum, to, LANES);
    });
}

// to[place, columns] = columns `first` to `first + width` of each place's row, zeros beyond
template <int COLUMNS, class Row>
void lay_out(int64_t count, int64_t first, int64_t width, const Row& row, float* to) {
    for (int64_t place = 0; place < count; ++place, to += COLUMNS) {
        if (width == COLUMNS) {
            std::memcpy(to, row(place) + first, COLUMNS * sizeof(float));
            continue;
        }
        std::memset(to, 0, COLUMNS * sizeof(float));
        std::memcpy(to, row(place) + first, width * sizeof(float));
    }
}

// A part of the weights' gradient: taps, channels and outputs from..to, over one band of places.
struct Share {
    int64_t first_tap, last_tap, first_channel, last_channel, first_output, last_output, band;
};

// Bands have sums of their own, so that every place is read once; where sums are many, they are shared out instead.
int64_t bands(const Shape& shape) {
    if (shape.taps() * shape.channels * shape.outputs > MOST_SUMS) return 1;
    return std::min(MOST_BANDS, ceil_div(shape.places(), LAID_OUT));
}

std::vector<Share> shares(const Shape& shape, int64_t threads) {
    std::vector<Share> found;
    const int64_t count = bands(shape);
    if (count > 1) {
        for (int64_t band = 0; band < count; ++band)
            found.push_back({0, shape.taps(), 0, shape.channels, 0, shape.outputs, band});
        return found;
    }
    const int64_t groups = shape.taps() * ceil_div(shape.channels, GROUP), tiles = ceil_div(shape.outputs, TILE);
    const int64_t pieces = std::min(tiles, ceil_div(threads * 2, groups));
    for (int64_t tap = 0; tap < shape.taps(); ++tap)
        for (int64_t channel = 0; channel < shape.channels; channel += GROUP)
            for (int64_t piece = 0; piece < pieces; ++piece)
                found.push_back({tap, tap + 1, channel, std::min(shape.channels, channel + GROUP),
                                 piece * tiles / pieces * TILE,
                                 std::min(shape.outputs, (piece + 1) * tiles / pieces * TILE), 0});
    return found;
}

// found[o, c] += what `count` places add: gradient[place, o] * places[place][c], for a share's outputs and channels
// first..last; panels and slopes are room for both, laid out
void add_outer(const Share& share, int64_t first, int64_t last, const float* const* places, int64_t count,
               const float* gradient, int64_t outputs, float* panels, float* slopes, float* found, int64_t stride) {
    for (int64_t channel = first; channel < last; channel += PANEL)
        lay_out<PANEL>(count, channel, std::min<int64_t>(PANEL, last - channel),
                       [&](int64_t place) { return places[place]; }, panels + (channel - first) * LAID_OUT);
    for (int64_t output = share.first_output; output < share.last_output; output += TILE) {
        const int64_t rows = std::min<int64_t>(TILE, share.last_output - output);
        lay_out<TILE>(count, output, rows, [&](int64_t place) { return gradient + place * outputs; }, slopes);
        for (int64_t channel = first; channel < last; channel += PANEL) {
            const int64_t width = std::min<int64_t>(PANEL, last - channel);
            const float* const panel = panels + (channel - first) * LAID_OUT;
            const auto add = [&](float* to, int64_t apart, auto wide) __attribute__((always_inline)) {
                add_products<decltype(wide)::value>(count, slopes, panel, to, apart);
            };
            in_tile(found + output * stride + channel, stride, rows, width, add);
        }
    }
}

// found[band, o, tap, c] += sum over the band's places of gradient[place, o] * source[place's tap, c]
void weight_gradient(const Shape& shape, const Tables& tables, const float* source, const float* gradient,
                     int64_t threads, float* found) {
    const int64_t stride = shape.taps() * shape.channels, count = bands(shape);
    const std::vector<float> zeros(shape.channels);
    const std::vector<Share> all = shares(shape, threads);
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t index = 0; index < all.size(); ++index) {
        const Share& share = all[index];
        std::vector<const float*> places(LAID_OUT);
        std::vector<float> panels(LAID_OUT * std::min(GROUP, in_panels(shape.channels))), slopes(LAID_OUT * TILE);
        const int64_t end = (share.band + 1) * shape.places() / count;
        for (int64_t begin = share.band * shape.places() / count; begin < end; begin += LAID_OUT) {
            const int64_t here = std::min(LAID_OUT, end - begin);
            for (int64_t tap = share.first_tap; tap < share.last_tap; ++tap) {
                locate(shape, tables, source, zeros.data(), tap, tap + 1, begin, begin + here, LAID_OUT, places.data());
                float* const to = found + share.band * shape.outputs * stride + tap * shape.channels;
                for (int64_t channel = share.first_channel; channel < share.last_channel; channel += GROUP)
                    add_outer(share, channel, std::min(share.last_channel, channel + GROUP), places.data(), here,
                              gradient + begin * shape.outputs, shape.outputs, panels.data(), slopes.data(), to,
                              stride);
            }
        }
    }
}

Shape shape_of(const int64_t* sizes) {
    return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7], sizes[8]};
}

}  // namespace

// Outputs are packed in panels of so many.
extern "C" int64_t deeplab_dense_panel() { return PANEL; }

extern "C" void deeplab_dense_pack(int64_t outputs, int64_t channels, int64_t taps, const int64_t* strides,
                                   const float* weight, float* packed) {
    pack(outputs, channels, taps, strides, weight, packed);
}

extern "C" void deeplab_dense(const int64_t* sizes, int64_t threads, const float* source, const float* packed,
                              const float* bias, float least, float most, const int32_t* rows, const int32_t* columns,
                              float* target) {
    correlate(shape_of(sizes), {rows, columns}, source, packed, {bias, least, most}, threads, target);
}

extern "C" int64_t deeplab_dense_bands(const int64_t* sizes) { return bands(shape_of(sizes)); }

// found begins as zeros
extern "C" void deeplab_dense_weight(const int64_t* sizes, int64_t threads, const float* source, const float* gradient,
                                     const int32_t* rows, const int32_t* columns, float* found) {
    weight_gradient(shape_of(sizes), {rows, columns}, source, gradient, threads, found);
}
