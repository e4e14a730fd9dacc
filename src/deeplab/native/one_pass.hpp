// A depthwise convolution, and what is before and behind it, in one pass, channels last: how the outputs are cut, so that
// what lies between stays near the processor, and the rows that the depthwise kernel reads.

#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "sums.hpp"
#include "taps.hpp"

namespace {

constexpr int64_t LEAST_COLUMNS = 24;

template <int K>
struct Depthwise {
    Filter<K> filter;
    Ending ending;
    int64_t channels;
};

// Columns of outputs, and those that they read.
struct Columns {
    int64_t begin, end, first, last;
};

// What is read of a table's outputs begin..end: the least, and one more than the greatest.
template <int K>
std::pair<int64_t, int64_t> reach(const int32_t* table, int64_t begin, int64_t end) {
    int64_t least = INT32_MAX, most = 0;
    for (const int32_t* each = table + begin * K; each < table + end * K; ++each)
        if (*each >= 0) least = std::min<int64_t>(least, *each), most = std::max<int64_t>(most, *each + 1);
    return {std::min(least, most), most};
}

// The outputs of a pass, in pieces: some columns of a band of rows. Columns are so few that a row behind the depthwise
// convolution, and the rows before it where these are made in the same pass, are no more than `floats`, if that leaves some.
template <int K>
struct Cut {
    const Shape& shape;
    const Tables& tables;
    const std::vector<char> runs;
    std::vector<Columns> columns;
    int64_t rows = 0;             // that the kernel reads at once and are made, at most
    int64_t width = 0, read = 0;  // of a piece, at most: outputs, and what is read for them, a multiple of `multiple`
    int64_t pieces, bands, together;
    // rows whose sums, with a line's places, stay in registers, of which AVX2 has 16
    static constexpr bool PAIRS = K == 3;

    // `together`: rows whose outputs follow each other, some `places` of them, are projected together
    Cut(const Shape& shape, const Tables& tables, int64_t channels, bool makes, int64_t floats, int64_t multiple,
        int64_t places, int64_t threads)
        : shape(shape), tables(tables), runs(find_runs<K>(tables.columns, shape.width)) {
        for (int64_t y = 0; makes && y < shape.height; ++y) {
            const auto [least, most] = reach<K>(tables.rows, y, y + 1 + pairs(y));
            rows = std::max({rows, most - least, int64_t(1)});
        }
        const int64_t most = std::max(LEAST_COLUMNS, floats / (channels * (rows + 1)));
        const int64_t each = ceil_div(ceil_div(shape.width, ceil_div(shape.width, most)), multiple) * multiple;
        for (int64_t begin = 0; begin < shape.width; begin += each) {
            const int64_t end = std::min(shape.width, begin + each);
            const auto [first, last] = reach<K>(tables.columns, begin, end);
            columns.push_back({begin, end, first, last});
            width = std::max(width, end - begin);
            read = std::max(read, ceil_div(last - first, multiple) * multiple);
        }
        pieces = shape.images * int64_t(columns.size());
        // rows at the border of bands are made twice
        bands = std::min(shape.height, ceil_div(threads * (makes ? 1 : 4), pieces));
        const int64_t most_together = columns.size() == 1 ? std::max<int64_t>(1, places / shape.width) : 1;
        together = pairs(shape.height / 2) ? ceil_div(most_together, 2) * 2 : most_together;
    }

    // Whether output row y and the next one read the same lines, but for the first and the last, and are summed together.
    bool pairs(int64_t y) const {
        const int32_t* const own = tables.rows + y * K;
        return PAIRS && y + 1 < shape.height && std::equal(own + 1, own + K, own + K);
    }

    // body(row, whether it begins a pair: a constant) for rows first..last
    template <class Body>
    void each(int64_t first, int64_t last, const Body& body) const {
        for (int64_t y = first; y < last; ++y) {
            if constexpr (PAIRS)
                if (y + 1 < last && pairs(y)) {
                    body(y++, std::true_type{});
                    continue;
                }
            body(y, std::false_type{});
        }
    }

    // body(image, columns, first row, last row) for every piece, shared out to the threads of a parallel region; in order
    // within a band
    template <class Body>
    void share_out(const Body& body) const {
#pragma omp for schedule(dynamic, 1)
        for (int64_t piece = 0; piece < pieces * bands; ++piece) {
            const Columns& own = columns[piece / bands % columns.size()];
            const int64_t image = piece / bands / int64_t(columns.size()), band = piece % bands;
            const int64_t end = (band + 1) * shape.height / bands;
            for (int64_t first = band * shape.height / bands; first < end; first += together)
                body(image, own, first, std::min(end, first + together));
        }
    }
};

// A small map that is interpolated bilinearly to the source's size: output i lies `far[i]` of the way from `low[i]` to the
// next one, or on the last one. Its channels come before the source's own.
struct Upsampled {
    const void* map;
    int64_t height, width, channels;
    const int32_t *row_low, *column_low;
    const float *row_far, *column_far;

    // to[c] = first[c] + far * (second[c] - first[c]) for `count` channels
    template <typename T>
    static void blend(const T* first, const T* second, float far, int64_t count, float* to) {
        for (int64_t c = 0; c < count; c += LANES) {
            const int64_t lanes = std::min<int64_t>(LANES, count - c);
            const Floats low = load(first + c, lanes);
            store(low + far * (load(second + c, lanes) - low), to + c, lanes);
        }
    }

    // The columns that are read of row y, `apart` from each other; `room` is for a row of the map.
    template <typename T>
    void row(int64_t image, int64_t y, const Columns& columns, int64_t apart, float* room, float* to) const {
        const T* const low = static_cast<const T*>(map) + (image * height + row_low[y]) * width * channels;
        const T* const high = row_low[y] + 1 < height ? low + width * channels : low;
        const int64_t begin = column_low[columns.first];
        const int64_t end = std::min<int64_t>(width, column_low[columns.last - 1] + 2);
        blend(low + begin * channels, high + begin * channels, row_far[y], (end - begin) * channels, room);
        for (int64_t x = columns.first; x < columns.last; ++x, to += apart) {
            const float* const left = room + (column_low[x] - begin) * channels;
            blend(left, column_low[x] + 1 < end ? left + channels : left, column_far[x], channels, to);
        }
    }
};

// The rows that the depthwise kernel reads: the source's, or made when they are first read, and the last few held: what
// expand(source's pixels, their number, to) makes of them, or an upsampled map with the source behind it. These are in
// float32, as they never leave the processor.
template <int K, typename T, class Expand>
class Lines {
   public:
    Lines(const Cut<K>& cut, int64_t channels, const T* source, const Upsampled* upsampled, const Expand& expand)
        : cut(cut), shape(cut.shape), channels(channels), source(source), upsampled(upsampled), expand(expand),
          held(cut.rows, -1), values(cut.rows * cut.read * channels),
          room(upsampled ? upsampled->width * upsampled->channels : 0) {}

    // body(where the lines begin that the taps of output row y read, null in the padding, and the next one of a pair; how
    // they lie); rows are asked for in order
    template <class Body>
    void of(int64_t image, int64_t y, bool pair, const Columns& columns, const Body& body) {
        const auto with = [&](const Layout& layout, auto begin) {
            decltype(begin(0)) lines[K + 1];
            for (int line = 0; line < K + pair; ++line) {
                const int64_t row = cut.tables.rows[y * K + line + (line < K ? 0 : K - 1)];
                lines[line] = row < 0 ? nullptr : begin(row);
            }
            body(lines, layout);
        };
        if (!held.empty())
            return with({columns.first, upsampled ? 0 : cut.read}, [&](int64_t row) { return made(image, row, columns); });
        // what the next output row reads last, into L2: so many short runs as then are more than processors foresee; not a
        // function of its own, as compilers would leave out calls that do nothing else
        for (int64_t below = y + 1 + pair; below <= std::min(y + 1 + 2 * pair, shape.height - 1); ++below) {
            const int64_t next = cut.tables.rows[(below + 1) * K - 1];
            if (next < 0) continue;
            for (const T* each = at(image, next, columns.first); each < at(image, next, columns.last);
                 each += LINE * sizeof(float) / sizeof(T))
                __builtin_prefetch(each, 0, 2);
        }
        with({}, [&](int64_t row) { return at(image, row, 0); });
    }

   private:
    const T* at(int64_t image, int64_t row, int64_t column) const {
        return source + ((image * shape.source_height + row) * shape.source_width + column) * shape.channels;
    }

    const float* made(int64_t image, int64_t row, const Columns& columns) {
        if (image != held_image || columns.begin != held_begin) std::fill(held.begin(), held.end(), -1);
        held_image = image, held_begin = columns.begin;
        const int64_t slot = row % int64_t(held.size());
        float* const to = values.data() + slot * cut.read * channels;
        if (held[slot] == row || columns.first >= columns.last) return to;
        held[slot] = row;
        if (upsampled)
            join(image, row, columns, to);
        else
            expand(at(image, row, columns.first), columns.last - columns.first, to);
        return to;
    }

    void join(int64_t image, int64_t row, const Columns& columns, float* to) {
        upsampled->template row<T>(image, row, columns, channels, room.data(), to);
        to += upsampled->channels;
        const T* from = at(image, row, columns.first);
        for (int64_t x = columns.first; x < columns.last; ++x, to += channels, from += shape.channels)
            for (int64_t c = 0; c < shape.channels; c += LANES) {
                const int64_t lanes = std::min<int64_t>(LANES, shape.channels - c);
                store(load(from + c, lanes), to + c, lanes);
            }
    }

    const Cut<K>& cut;
    const Shape& shape;
    const int64_t channels;
    const T* const source;
    const Upsampled* const upsampled;
    const Expand& expand;
    std::vector<int64_t> held;
    int64_t held_image = -1, held_begin = -1;
    const Room<float> values, room;
};

}  // namespace
