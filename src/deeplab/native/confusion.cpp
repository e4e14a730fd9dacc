// Pixel counts by (label, prediction): the plain version is in deeplab/evaluation/metrics.py.
//
// Label maps are mostly regions: a GROUP of neighbouring pixels that all fall into one cell of the table is counted at
// once. Else each of them would wait for the count of the one before, so that TABLES tables are filled in turn. Counts
// are integers: no order of adding changes them.

#include <algorithm>
#include <cstdint>
#include <new>
#include <type_traits>
#include <vector>

#include "share_out.hpp"

namespace {

constexpr int TABLES = 4, GROUP = 16;
constexpr int64_t BLOCK = 2048;        // pixels whose cells are found before they are counted
constexpr int64_t PIECE = 64 * BLOCK;  // pixels that a thread takes at once

struct Rules {
    int32_t classes, ignore_label, side;  // predictions from `side` on are refused even where they are ignored
};

// Narrow numbers are compared as int32: vectors hold more of them.
template <class Number>
using Wide = std::conditional_t<sizeof(Number) == 8, int64_t, int32_t>;

// cells[i] = where the row of label i begins: that of its class, or the last if it is ignored; false if it is neither.
template <class Label>
bool rows(const void* labels, int64_t begin, int64_t count, const Rules& rules, int32_t* cells) {
    const Label* const from = static_cast<const Label*>(labels) + begin;
    const int32_t line = rules.classes + 1;
    const Wide<Label> ignored = rules.ignore_label;
    int32_t wrong = 0;
    for (int64_t i = 0; i < count; ++i) {
        const Wide<Label> label = from[i];
        // multiplied, as a choice between two numbers would keep the compiler from using vectors
        const int32_t counts = label != ignored;
        const int32_t row = label < rules.classes ? int32_t(label) : rules.classes;
        wrong |= ((label < 0) | (row == rules.classes)) & counts;
        cells[i] = (rules.classes + (row - rules.classes) * counts) * line;
    }
    return !wrong;
}

// cells[i] += the column of prediction i: its class, or the last if it is none; false if it reaches `side`.
template <class Prediction>
bool columns(const void* predictions, int64_t begin, int64_t count, const Rules& rules, int32_t* cells) {
    const Prediction* const from = static_cast<const Prediction*>(predictions) + begin;
    int32_t wrong = 0;
    for (int64_t i = 0; i < count; ++i) {
        const Wide<Prediction> prediction = from[i];
        wrong |= (prediction < 0) | (prediction >= rules.side);
        cells[i] += prediction < rules.classes ? int32_t(prediction) : rules.classes;
    }
    return !wrong;
}

void count_cells(const int32_t* cells, int64_t count, int64_t size, uint32_t* tables) {
    int64_t i = 0;
    for (; i + GROUP <= count; i += GROUP) {
        int32_t different = 0;
        for (int k = 0; k < GROUP; ++k) different |= cells[i + k] ^ cells[i];
        if (!different) {
            tables[cells[i]] += GROUP;
            continue;
        }
        for (int k = 0; k < GROUP; k += TABLES)
            for (int t = 0; t < TABLES; ++t) ++tables[t * size + cells[i + k + t]];
    }
    for (; i < count; ++i) ++tables[cells[i]];
}

using Reader = bool (*)(const void*, int64_t, int64_t, const Rules&, int32_t*);

Reader rows_of(int64_t bytes) { return bytes == 1 ? rows<uint8_t> : bytes == 2 ? rows<uint16_t> : rows<int64_t>; }

Reader columns_of(int64_t bytes) {
    return bytes == 1 ? columns<uint8_t> : bytes == 2 ? columns<uint16_t> : columns<int64_t>;
}

}  // namespace

// Adds the pixels to counts [classes, classes]. The arrays are of label_bytes and prediction_bytes a value: 1 or 2
// unsigned, 8 signed; fewer than 2^32 pixels; ignore_label must not be negative.
// Returns 0; or without counting any, 1 if some value is no class where it should be one (which value, the plain version
// says), 2 where memory ran out.
extern "C" int deeplab_confusion(const void* labels, const void* predictions, int64_t label_bytes,
                                 int64_t prediction_bytes, int64_t pixels, int64_t classes, int64_t ignore_label,
                                 int64_t side, int64_t threads, int64_t* counts) try {
    const Rules rules{int32_t(classes), int32_t(ignore_label), int32_t(side)};
    const Reader read_rows = rows_of(label_bytes), read_columns = columns_of(prediction_bytes);
    const int64_t pieces = (pixels + PIECE - 1) / PIECE, workers = std::max<int64_t>(1, std::min(threads, pieces));
    const int64_t line = classes + 1, size = line * line;
    std::vector<uint32_t> tables(workers * TABLES * size);
    std::atomic<bool> known{true};
    share_out(pieces, workers, [&](int64_t piece, int worker) {
        uint32_t* const table = &tables[worker * TABLES * size];
        int32_t cells[BLOCK];
        const int64_t end = std::min((piece + 1) * PIECE, pixels);
        for (int64_t begin = piece * PIECE; begin < end && known; begin += BLOCK) {
            const int64_t count = std::min(BLOCK, end - begin);
            // a wrong prediction could lie outside of the tables
            if (read_rows(labels, begin, count, rules, cells) && read_columns(predictions, begin, count, rules, cells))
                count_cells(cells, count, size, table);
            else
                known = false;
        }
    });
    std::vector<int64_t> sums(size);
    for (int64_t i = 0; i < workers * TABLES * size; ++i) sums[i % size] += tables[i];
    for (int64_t row = 0; row < classes; ++row)
        if (sums[row * line + classes]) known = false;
    if (!known) return 1;
    for (int64_t row = 0; row < classes; ++row)
        for (int64_t column = 0; column < classes; ++column) counts[row * classes + column] += sums[row * line + column];
    return 0;
} catch (const std::bad_alloc&) {
    return 2;
}
