// Scale, pad, crop and flip in one pass over the pixels of the crop, from bytes to bytes.
//
// Where to look and how much counts comes in tables, one entry a row or column of the crop, so the rules of resizing
// (and the flip, which turns the columns' tables round) stay in one place, deeplab/data/resize.py. Every sum is
// rounded as NumPy rounds it there: first along the row, then down the column, with no fused multiply-add.

#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

namespace {

constexpr int CHANNELS = 3;

// A pixel with one value too many: the next pixel's red.
typedef float Pixel __attribute__((vector_size(16)));

// Where each row or column of the crop looks in the photo, and how much the second neighbour counts.
struct Axis {
    Axis(int64_t count, const int64_t *tables, const float *weights)
        : length(count), low(tables), high(tables + count), nearest(tables + 2 * count), weight(weights) {}

    int64_t length;
    const int64_t *low, *high, *nearest;
    const float *weight;
};

Pixel load(const float *values) {
    Pixel pixel;
    std::memcpy(&pixel, values, sizeof pixel);
    return pixel;
}

// Photo rows resized to the crop's columns; holds the last two, which is what the crop's next row most often needs.
class ResizedRows {
public:
    ResizedRows(const uint8_t *photo, int64_t width, const Axis &columns)
        : photo_(photo), row_values_(width * CHANNELS), columns_(columns), values_(row_values_ + 1) {
        for (auto &row : rows_) row.resize(columns.length * CHANNELS + 1);
    }

    // The photo's row `wanted`; the row `kept` stays valid.
    const float *get(int64_t wanted, int64_t kept) {
        for (int slot : {0, 1})
            if (held_[slot] == wanted) return rows_[slot].data();
        const int slot = held_[0] == kept ? 1 : 0;
        held_[slot] = wanted;
        resize(wanted, rows_[slot].data());
        return rows_[slot].data();
    }

private:
    void resize(int64_t row, float *out) {
        const uint8_t *bytes = photo_ + row * row_values_;
        float *__restrict values = values_.data();
        for (int64_t i = 0; i < row_values_; ++i) values[i] = bytes[i];
        // by value: bytes that are stored might otherwise be the tables' own
        const Axis columns = columns_;
        for (int64_t x = 0; x < columns.length; ++x) {
            const Pixel low = load(values + columns.low[x] * CHANNELS);
            const Pixel high = load(values + columns.high[x] * CHANNELS);
            const Pixel value = (high - low) * columns.weight[x] + low;
            std::memcpy(out + x * CHANNELS, &value, sizeof value);
        }
    }

    const uint8_t *photo_;
    int64_t row_values_;
    const Axis &columns_;
    std::vector<float> values_;
    std::vector<float> rows_[2];
    int64_t held_[2] = {-1, -1};
};

void mix(const float *__restrict low, const float *__restrict high, float weight, int64_t count,
         uint8_t *__restrict out) {
    for (int64_t i = 0; i < count; ++i) {
        const float value = (high[i] - low[i]) * weight + low[i];
        out[i] = static_cast<uint8_t>(static_cast<int32_t>(value + 0.5f));
    }
}

// Copies of one pixel or label around the crop's inner part, which begins `left` columns from the left.
void pad(const uint8_t *value, int64_t bytes, int64_t rows, int64_t columns, int64_t left, int64_t all_rows,
         int64_t all_columns, uint8_t *out) {
    std::vector<uint8_t> line(all_columns * bytes);
    for (int64_t i = 0; i < all_columns * bytes; ++i) line[i] = value[i % bytes];
    const int64_t right = all_columns - left - columns;
    for (int64_t y = 0; y < all_rows; ++y) {
        uint8_t *row = out + y * all_columns * bytes;
        if (y >= rows) {
            std::memcpy(row, line.data(), line.size());
        } else {
            std::memcpy(row, line.data(), left * bytes);
            std::memcpy(row + (left + columns) * bytes, line.data(), right * bytes);
        }
    }
}

void crop_photo(const uint8_t *photo, int64_t width, const Axis &rows, const Axis &columns, int64_t out_bytes,
                uint8_t *out) {
    ResizedRows resized(photo, width, columns);
    for (int64_t y = 0; y < rows.length; ++y) {
        const float *low = resized.get(rows.low[y], -1);
        const float *high = resized.get(rows.high[y], rows.low[y]);
        mix(low, high, rows.weight[y], columns.length * CHANNELS, out + y * out_bytes);
    }
}

void crop_label(const uint8_t *label, int64_t width, const Axis &rows, const Axis &columns, int64_t out_width,
                uint8_t *out) {
    for (int64_t y = 0; y < rows.length; ++y) {
        uint8_t *__restrict line = out + y * out_width;
        if (y && rows.nearest[y] == rows.nearest[y - 1]) {
            std::memcpy(line, line - out_width, columns.length);
            continue;
        }
        const uint8_t *source = label + rows.nearest[y] * width;
        const int64_t *nearest = columns.nearest, count = columns.length;
        for (int64_t x = 0; x < count; ++x) line[x] = source[nearest[x]];
    }
}

}  // namespace

// photo [?, width, 3] and label [?, width] to crop [crop_height, crop_width, 3] and labels [crop_height, crop_width].
// Of these the rows from the top and the columns from `left` that the tables describe show the photo; the others get
// `pad_value`: red, green, blue, label. Tables: [3, count], the first, second and nearest neighbours.
extern "C" void deeplab_fast_crop(const uint8_t *photo, const uint8_t *label, int64_t width, int64_t row_count,
                                  const int64_t *row_tables, const float *row_weights, int64_t column_count,
                                  const int64_t *column_tables, const float *column_weights, int64_t left,
                                  const uint8_t *pad_value, int64_t crop_height, int64_t crop_width, uint8_t *crop,
                                  uint8_t *labels) {
    const Axis rows{row_count, row_tables, row_weights};
    const Axis columns{column_count, column_tables, column_weights};
    crop_photo(photo, width, rows, columns, crop_width * CHANNELS, crop + left * CHANNELS);
    crop_label(label, width, rows, columns, crop_width, labels + left);
    pad(pad_value, CHANNELS, row_count, column_count, left, crop_height, crop_width, crop);
    pad(pad_value + CHANNELS, 1, row_count, column_count, left, crop_height, crop_width, labels);
}
