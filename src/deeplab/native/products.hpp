// Matrix products whose sums stay in registers: of rows that lie anywhere, one pointer each, and of packed weights.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "sums.hpp"

namespace {

// TILE x PANEL sums stay in registers: 12 of 16, with AVX-512 24 of 32
constexpr int TILE = 6;
#ifdef __AVX512F__
constexpr int VECTORS = 4;
#else
constexpr int VECTORS = 2;
#endif
constexpr int PANEL = VECTORS * LANES;
constexpr int64_t AHEAD = 32;         // channels whose weights are fetched ahead
constexpr int64_t DEPTH = 512;       // products added up before sums go back to memory
constexpr int64_t BLOCK = 24 * TILE;  // most places that a panel of weights is used for: their inputs stay in L2
constexpr int64_t LAID_OUT = 256;     // most places laid out together for sums over places

// places whose sums of few vectors are added up together, or registers would stay empty
template <int WIDE>
constexpr int MANY = VECTORS >= 4 && WIDE <= 2 ? 12 : TILE;

inline int64_t in_panels(int64_t count) { return ceil_div(count, PANEL) * PANEL; }

// What is multiplied at once: a number, or two bfloat16 that follow each other, the first in the lower half.
typedef uint32_t Pair;
template <typename T>
struct Multiplied {
    using Word = float;
};
template <>
struct Multiplied<uint16_t> {
    using Word = Pair;
};
template <typename T>
using Word = typename Multiplied<T>::Word;
// numbers in one
template <typename T>
constexpr int64_t IN_WORD = sizeof(Word<T>) / sizeof(T);

inline __attribute__((always_inline)) Floats product(const Floats& sum, float factor, const Floats& factors) {
    return sum + factor * factors;
}

#ifdef __AVX512BF16__
constexpr bool HALVES = true;

// sums and products in float32, without denormal numbers
inline __attribute__((always_inline)) Floats product(const Floats& sum, Pair factor, const Words& factors) {
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(int(factor)), (__m512bh)factors);
}
#else
constexpr bool HALVES = false;
#endif

inline Floats factors_at(const float* from) { return load(from, LANES); }
inline Words factors_at(const Pair* from) { return read<Words>(from, LANES); }

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
    template <class Number, class Value>
    inline __attribute__((always_inline)) void add(const Number* panel, const Value& value) {
        decltype(factors_at(panel)) factors[WIDE];
        for (int vector = 0; vector < WIDE; ++vector) factors[vector] = factors_at(panel + vector * LANES);
        for (int row = 0; row < ROWS; ++row) {
            const Number factor = value(row);
            for (int vector = 0; vector < WIDE; ++vector) of[row][vector] = product(of[row][vector], factor, factors[vector]);
        }
    }
};

// A part of every sum: taps first..last, channels (or pairs of them) from..to; the whole sum goes through all parts in order.
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
template <typename To>
struct Target {
    float* sums;
    To* finished;
    int64_t stride;
    const To* added;
};

// Rows that are summed over: of[tap * BLOCK + place]; `zeros` is the row of zeros that stands for padding, if any.
template <class Number>
struct Rows {
    const Number* const* of;
    const Number* zeros;
};

// One part of the sums of ROWS places, of `count`, and WIDE vectors of outputs, the last of which has `last` numbers.
template <int ROWS, int WIDE, class Number, typename To>
inline __attribute__((always_inline)) void add_part(const Part& part, const Rows<Number>& rows, const Number* panel,
                                                    const Ending& ending, const Target<To>& target, int64_t last,
                                                    int64_t first, int64_t count) {
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
    if (target.added && part.ends)
        for (int row = 0; row < ROWS; ++row)
            for (int column = 0; column < WIDE * LANES; column += LANES)
                __builtin_prefetch(target.added + (first + row) * target.stride + column);
    for (int64_t tap = part.first_tap; tap < part.last_tap; ++tap) {
        const Number* from[ROWS];
        bool nothing = true;
        for (int row = 0; row < ROWS; ++row) {
            from[row] = rows.of[tap * BLOCK + first + row];
            nothing &= from[row] == rows.zeros;
        }
        // the next places' rows: so many short runs are more than processors foresee
        if (part.to - part.from >= 2 * LINE && first + 2 * ROWS <= count)
            for (int row = 0; row < ROWS; ++row) {
                const Number* const next = rows.of[tap * BLOCK + first + ROWS + row];
                for (int64_t at = part.from; at < part.to; at += LINE) __builtin_prefetch(next + at);
            }
        if (nothing) {
            panel += (part.to - part.from) * PANEL;
            continue;
        }
        for (int64_t channel = part.from; channel < part.to; ++channel, panel += PANEL) {
            // where weights are many they come from far
            for (int vector = 0; vector < WIDE; ++vector) __builtin_prefetch(panel + AHEAD * PANEL + vector * LANES);
            sums.add(panel, [&](int row) __attribute__((always_inline)) { return from[row][channel]; });
        }
    }
    if (!part.ends)
        return sums.each([&](Floats& sum, int row, int column) __attribute__((always_inline)) {
            store(sum, between + row * PANEL + column, LANES);
        });
    const auto lanes = [&](int column) __attribute__((always_inline)) {
        return column + LANES < WIDE * LANES ? LANES : last;
    };
    if (target.added) {
        const To* const added = target.added + first * target.stride;
        sums.each([&](Floats& sum, int row, int column) __attribute__((always_inline)) {
            sum += load(added + row * target.stride + column, lanes(column));
        });
    }
    To* const finished = target.finished + first * target.stride;
    sums.each([&](Floats& sum, int row, int column) __attribute__((always_inline)) {
        store(ending.finish(sum), finished + row * target.stride + column, lanes(column));
    });
}

// One part of the sums of `count` places and `width` outputs, a panel's or fewer.
template <int WIDE = VECTORS, class Number, typename To>
void add_part(const Part& part, const Rows<Number>& rows, int64_t count, const Number* panel, const Ending& ending,
              const Target<To>& target, int64_t width) {
    if constexpr (WIDE > 1)
        if (width <= (WIDE - 1) * LANES) return add_part<WIDE - 1>(part, rows, count, panel, ending, target, width);
    const int64_t last = width - (WIDE - 1) * LANES;
    int64_t place = 0;
    for (; place + MANY<WIDE> <= count; place += MANY<WIDE>)
        add_part<MANY<WIDE>, WIDE>(part, rows, panel, ending, target, last, place, count);
    for (; place + TILE <= count; place += TILE)
        add_part<TILE, WIDE>(part, rows, panel, ending, target, last, place, count);
    // with few vectors fewer rows take nearly as long as a tile
    for (; place + 3 <= count; place += 3) add_part<3, WIDE>(part, rows, panel, ending, target, last, place, count);
    if (place + 2 <= count) add_part<2, WIDE>(part, rows, panel, ending, target, last, place, count), place += 2;
    if (place < count) add_part<1, WIDE>(part, rows, panel, ending, target, last, place, count);
}

// A 1x1 convolution of packed weights, for channels of T.
template <typename T>
struct Pointwise {
    const Word<T>* weight;
    Ending ending;
    int64_t words, outputs;
    std::vector<Part> parts;

    // of as many channels as words have
    Pointwise(const float* const* packed, const Ending& ending, int64_t channels, int64_t outputs)
        : weight(reinterpret_cast<const Word<T>*>(packed[0])), ending(ending), words(channels / IN_WORD<T>),
          outputs(outputs), parts(::parts(1, words)) {}

    // target[place] = its values for `count` places, `outputs` apart; `sums` is room for PANEL a place
    template <typename To>
    void run(const Word<T>* const* places, int64_t count, float* sums, const To* added, To* target) const {
        for (int64_t output = 0; output < outputs; output += PANEL)
            for (const Part& part : parts)
                panel(part, places, count, sums, output, added ? added + output : nullptr, target + output, outputs);
    }

    // the same in blocks of outputs, whole panels, one after another, each of `room` places
    void run_blocked(const Word<T>* const* places, int64_t count, float* sums, int64_t block, int64_t room,
                     float* target) const {
        for (int64_t output = 0; output < outputs; output += PANEL) {
            const int64_t first = output / block * block;
            for (const Part& part : parts)
                panel(part, places, count, sums, output, static_cast<const float*>(nullptr),
                      target + first * room + output - first, std::min(block, outputs - first));
        }
    }

    // the same for one panel of outputs, of sums that have begun before
    template <typename To>
    void go_on(const Word<T>* const* places, int64_t count, float* sums, int64_t output, To* target) const {
        for (Part part : parts) {
            part.begins = false;
            panel(part, places, count, sums, output, static_cast<const To*>(nullptr), target + output, outputs);
        }
    }

   private:
    template <typename To>
    void panel(const Part& part, const Word<T>* const* places, int64_t count, float* sums, int64_t output, const To* added,
               To* target, int64_t stride) const {
        add_part(part, Rows<Word<T>>{places, nullptr}, count, weight + output * words + part.from * PANEL,
                 {ending.bias + output, ending.least, ending.most, ending.swish},
                 Target<To>{sums, target, stride, added},
                 std::min<int64_t>(PANEL, outputs - output));
    }
};

// body(to, stride, whole vectors) for `rows` rows of `width` sums at `to`, `stride` apart, by way of a copy where they are
// not TILE rows of whole vectors
template <int WIDE = VECTORS, class Body>
inline __attribute__((always_inline)) void in_tile(float* to, int64_t stride, int64_t rows, int64_t width,
                                                   const Body& body) {
    if constexpr (WIDE > 1)
        if (width <= (WIDE - 1) * LANES) return in_tile<WIDE - 1>(to, stride, rows, width, body);
    const std::integral_constant<int, WIDE> wide;
    if (rows == TILE && width == WIDE * LANES) return body(to, stride, wide);
    float copy[TILE * PANEL] = {};
    for (int64_t row = 0; row < rows; ++row) std::memcpy(copy + row * PANEL, to + row * stride, width * sizeof(float));
    body(copy, int64_t(PANEL), wide);
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
