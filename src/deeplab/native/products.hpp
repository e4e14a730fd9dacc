// Matrix products whose sums stay in registers: of rows that lie anywhere, one pointer each, and of packed weights.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "lanes.hpp"

namespace {

// TILE x PANEL sums stay in registers: with AVX2, 12 of 16
constexpr int TILE = 6;
constexpr int VECTORS = 2;
constexpr int PANEL = VECTORS * LANES;
constexpr int64_t DEPTH = 512;       // products added up before sums go back to memory
constexpr int64_t BLOCK = 24 * TILE;  // most places that a panel of weights is used for: their inputs stay in L2
constexpr int64_t LAID_OUT = 256;     // most places laid out together for sums over places

// Numbers that are written before they are read: nothing to clear.
class Room {
   public:
    explicit Room(int64_t count) : numbers(new float[count]) {}
    float* data() const { return numbers.get(); }

   private:
    std::unique_ptr<float[]> numbers;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int64_t in_panels(int64_t count) { return ceil_div(count, PANEL) * PANEL; }

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
    bool swish;  // x * relu6(x + 3) / 6, instead of bounds

    template <class Number>
    static inline __attribute__((always_inline)) Number between(Number value, float least, float most) {
        // comparisons are such that what is not a number stays one
        value = value < least ? Number{} + least : value;
        return value > most ? Number{} + most : value;
    }

    template <class Number>
    inline __attribute__((always_inline)) Number finish(Number sum) const {
        if (swish) return sum * between(sum + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f);
        return between(sum, least, most);
    }

    // Nothing but the same biases.
    Ending linear() const {
        constexpr float INFINITE = std::numeric_limits<float>::infinity();
        return {bias, -INFINITE, INFINITE, false};
    }
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

// Where sums lie between their parts, rows of PANEL, and where they go when finished, rows `stride` apart, as is what is
// added to them then, if anything.
struct Target {
    float *sums, *finished;
    int64_t stride;
    const float* added;
};

// Rows that are summed over: of[tap * BLOCK + place]; `zeros` is the row of zeros that stands for padding, if any.
struct Rows {
    const float* const* of;
    const float* zeros;
};

// One part of the sums of ROWS places and WIDE vectors of outputs.
template <int ROWS, int WIDE>
inline __attribute__((always_inline)) void add_part(const Part& part, const Rows& rows, const float* panel,
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
        bool nothing = true;
        for (int row = 0; row < ROWS; ++row) {
            from[row] = rows.of[tap * BLOCK + first + row];
            nothing &= from[row] == rows.zeros;
        }
        if (nothing) {
            panel += (part.to - part.from) * PANEL;
            continue;
        }
        for (int64_t channel = part.from; channel < part.to; ++channel, panel += PANEL)
            sums.add(panel, [&](int row) __attribute__((always_inline)) { return from[row][channel]; });
    }
    if (!part.ends)
        return sums.each([&](Floats& sum, int row, int column) __attribute__((always_inline)) {
            store(sum, between + row * PANEL + column, LANES);
        });
    if (target.added) {
        const float* const added = target.added + first * target.stride;
        sums.each([&](Floats& sum, int row, int column) __attribute__((always_inline)) {
            sum += load(added + row * target.stride + column, LANES);
        });
    }
    float* const finished = target.finished + first * target.stride;
    sums.each([&](Floats& sum, int row, int column) __attribute__((always_inline)) {
        store(ending.finish(sum), finished + row * target.stride + column, LANES);
    });
}

// One part of the sums of `count` places.
template <int WIDE>
void add_part(const Part& part, const Rows& rows, int64_t count, const float* panel, const Ending& ending,
              const Target& target) {
    int64_t place = 0;
    for (; place + TILE <= count; place += TILE) add_part<TILE, WIDE>(part, rows, panel, ending, target, place);
    // fewer rows take nearly as long as a tile
    for (; place + 3 <= count; place += 3) add_part<3, WIDE>(part, rows, panel, ending, target, place);
    for (; place < count; ++place) add_part<1, WIDE>(part, rows, panel, ending, target, place);
}

// The same for `width` outputs: finished sums go one by one where these are no whole vectors.
void add_part(const Part& part, const Rows& rows, int64_t count, const float* panel, const Ending& ending,
              const Target& target, int64_t width) {
    if (width == PANEL) return add_part<VECTORS>(part, rows, count, panel, ending, target);
    if (width == LANES) return add_part<1>(part, rows, count, panel, ending, target);
    add_part<VECTORS>(part, rows, count, panel, ending.linear(), {target.sums, target.sums, PANEL, nullptr});
    if (!part.ends) return;
    for (int64_t place = 0; place < count; ++place)
        for (int64_t column = 0; column < width; ++column) {
            const int64_t at = place * target.stride + column;
            const float sum = target.sums[place * PANEL + column] + (target.added ? target.added[at] : 0.0f);
            target.finished[at] = ending.finish(sum);
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

// Outputs and channels from..to.
struct Outer {
    int64_t first_output, last_output, first_channel, last_channel;
};

// found[o, c] += sum over `count` places of gradient[place, o] * places[place][c], for a part of outputs and channels;
// panels and slopes are room for both, laid out
void add_outer(const Outer& part, const float* const* places, int64_t count, const float* gradient, int64_t outputs,
               float* panels, float* slopes, float* found, int64_t stride) {
    const int64_t first = part.first_channel, last = part.last_channel;
    for (int64_t channel = first; channel < last; channel += PANEL)
        lay_out<PANEL>(count, channel, std::min<int64_t>(PANEL, last - channel),
                       [&](int64_t place) { return places[place]; }, panels + (channel - first) * LAID_OUT);
    for (int64_t output = part.first_output; output < part.last_output; output += TILE) {
        const int64_t rows = std::min<int64_t>(TILE, part.last_output - output);
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

}  // namespace
