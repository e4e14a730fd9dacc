// Convolutions of inference in 8 bits, channels last: float32 in and out, bytes in between, as products of bytes.
//
// Dense ones of any stride and rate; and a depthwise convolution, in float32, with the 1x1 convolution behind it, the 1x1
// expansion before it, or both, in one pass: what lies between them stays near the processor. Which row (column) a tap
// reads for an output row (column), or -1 for padding, comes in as a table, as in depthwise.cpp. Integer sums are exact,
// and every float sum has a fixed order: results do not depend on the number of threads.

#include <type_traits>
#include <vector>

#include "byte_products.hpp"
#include "taps.hpp"

namespace {

constexpr int LARGEST_KERNEL = 5;
constexpr int64_t BETWEEN = 128 << 10;  // floats between the convolutions, a thread: they stay in L2
constexpr int64_t FILTERED = 4 << 10;  // floats behind the depthwise convolution that become bytes together
constexpr int64_t ROUND = 12;          // places that any tile is a part of

struct Tables {
    const int32_t *rows, *columns;
};

struct Shape {
    int64_t images, source_height, source_width, height, width;
};

void convolve(const Layer& layer, const Shape& shape, int64_t kernel_width, const Tables& tables, const float* source,
              const float* added, int64_t threads, float* target) {
    const int64_t places = shape.images * shape.height * shape.width, taps = layer.taps;
    const int64_t bytes = in_quads(layer.channels), pixels = shape.images * shape.source_height * shape.source_width;
    const bool pointwise = taps == 1 && places == pixels;
    // all bytes, and behind them those of padding: zeros of the grid
    const Room<uint8_t> all(pointwise ? 0 : (pixels + 1) * bytes);
    if (!pointwise) {
#pragma omp parallel for schedule(static)
        for (int64_t pixel = 0; pixel < pixels; ++pixel)
            layer.grid.row(source + pixel * layer.channels, layer.channels, all.data() + pixel * bytes);
        std::copy(layer.grid.zero, layer.grid.zero + layer.channels, all.data() + pixels * bytes);
    }
    const int64_t blocks = ceil_div(places, std::min(BLOCK, ceil_div(ceil_div(places, threads), ROUND) * ROUND));
#pragma omp parallel
    {
        const Room<uint8_t> own(pointwise ? BLOCK * bytes : 0);
        std::vector<const uint8_t*> rows(taps * BLOCK);
#pragma omp for schedule(dynamic, 1)
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t begin = block * places / blocks, count = (block + 1) * places / blocks - begin;
            for (int64_t i = 0; i < count; ++i) {
                if (pointwise) {
                    layer.grid.row(source + (begin + i) * layer.channels, layer.channels, own.data() + i * bytes);
                    rows[i] = own.data() + i * bytes;
                    continue;
                }
                const int64_t x = (begin + i) % shape.width, line = (begin + i) / shape.width;
                const int64_t y = line % shape.height, image = line / shape.height;
                for (int64_t tap = 0; tap < taps; ++tap) {
                    const int64_t row = tables.rows[y * (taps / kernel_width) + tap / kernel_width];
                    const int64_t column = tables.columns[x * kernel_width + tap % kernel_width];
                    const int64_t pixel = (image * shape.source_height + row) * shape.source_width + column;
                    rows[tap * BLOCK + i] = all.data() + (row < 0 || column < 0 ? pixels : pixel) * bytes;
                }
            }
            const int64_t at = begin * layer.outputs;
            multiply(layer, rows.data(), BLOCK, count, added ? added + at : nullptr, target + at);
        }
    }
}

// A depthwise convolution in float32.
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

// Rows of a table's outputs begin..end that are read: the least, and one more than the greatest.
template <int K>
void reach(const int32_t* table, int64_t begin, int64_t end, int64_t* least, int64_t* most) {
    *least = INT32_MAX, *most = 0;
    for (const int32_t* each = table + begin * K; each < table + end * K; ++each)
        if (*each >= 0) *least = std::min<int64_t>(*least, *each), *most = std::max<int64_t>(*most, *each + 1);
    *least = std::min(*least, *most);
}

// A small map that is interpolated bilinearly to the source's size: output i lies `far[i]` of the way from `low[i]` to the
// next one, or on the last one. Its channels come before the source's own.
struct Upsampled {
    const float* map;
    int64_t height, width, channels;
    const int32_t *row_low, *column_low;
    const float *row_far, *column_far;

    static void blend(const float* first, const float* second, float far, int64_t count, float* to) {
        for (int64_t c = 0; c < count; c += LANES) {
            const int64_t lanes = std::min<int64_t>(LANES, count - c);
            const Floats low = load(first + c, lanes);
            store(low + far * (load(second + c, lanes) - low), to + c, lanes);
        }
    }

    // The columns that are read of row y, `apart` from each other; `room` is for a row of the map.
    void row(int64_t image, int64_t y, const Columns& columns, int64_t apart, float* room, float* to) const {
        const float* const low = map + (image * height + row_low[y]) * width * channels;
        const float* const high = row_low[y] + 1 < height ? low + width * channels : low;
        const int64_t begin = column_low[columns.first];
        const int64_t end = std::min<int64_t>(width, column_low[columns.last - 1] + 2);
        blend(low + begin * channels, high + begin * channels, row_far[y], (end - begin) * channels, room);
        for (int64_t x = columns.first; x < columns.last; ++x, to += apart) {
            const float* const left = room + (column_low[x] - begin) * channels;
            blend(left, column_low[x] + 1 < end ? left + channels : left, column_far[x], channels, to);
        }
    }
};

// The last few rows that the depthwise kernel reads where they are not the source's: its expansion, or an upsampled map and
// the source behind it, each made when it is first read.
struct Made {
    const Shape& shape;
    const Layer* expand;
    const Upsampled* upsampled;
    int64_t channels, hidden, places;
    std::vector<int64_t> held;
    const Room<float> values, room;
    const Room<uint8_t> bytes;
    std::vector<const uint8_t*> rows;

    Made(const Shape& shape, const Layer* expand, const Upsampled* upsampled, int64_t channels, int64_t hidden,
         int64_t lines, int64_t places)
        : shape(shape), expand(expand), upsampled(upsampled), channels(channels), hidden(hidden), places(places),
          held(lines, -1), values(lines * places * hidden), room(upsampled ? upsampled->width * upsampled->channels : 0),
          bytes(expand ? places * in_quads(channels) : 0), rows(expand ? places : 0) {
        for (size_t place = 0; place < rows.size(); ++place) rows[place] = bytes.data() + place * in_quads(channels);
    }

    // Row y of an image of the source, where `columns` begin; rows are asked for in order, and no further apart than there
    // is room for.
    const float* row(const float* source, int64_t image, int64_t y, const Columns& columns) {
        const int64_t slot = y % int64_t(held.size()), count = columns.last - columns.first;
        float* to = values.data() + slot * places * hidden;
        const float* const found = to;
        if (held[slot] == y || count <= 0) return found;
        held[slot] = y;
        const float* from = source + ((image * shape.source_height + y) * shape.source_width + columns.first) * channels;
        if (expand) {
            for (int64_t place = 0; place < count; ++place)
                expand->grid.row(from + place * channels, channels, bytes.data() + place * in_quads(channels));
            multiply(*expand, rows.data(), 0, count, nullptr, to);
            return found;
        }
        upsampled->row(image, y, columns, hidden, room.data(), to);
        to += upsampled->channels;
        for (int64_t place = 0; place < count; ++place, to += hidden, from += channels)
            std::memcpy(to, from, channels * sizeof(float));
        return found;
    }
};

// Columns so few that what is between the convolutions is no more than BETWEEN, if that leaves some.
template <int K>
std::vector<Columns> columns_of(const Shape& shape, const Tables& tables, int64_t floats_a_column) {
    const int64_t most = std::max<int64_t>(2 * ROUND, BETWEEN / floats_a_column);
    const int64_t each = ceil_div(ceil_div(shape.width, ceil_div(shape.width, most)), ROUND) * ROUND;
    std::vector<Columns> found;
    for (int64_t begin = 0; begin < shape.width; begin += each) {
        Columns columns = {begin, std::min(shape.width, begin + each), 0, 0};
        reach<K>(tables.columns, columns.begin, columns.end, &columns.first, &columns.last);
        found.push_back(columns);
    }
    return found;
}

template <int K>
void separate(const Shape& shape, int64_t channels, const Tables& tables, const float* source, const Layer* expand,
              const Upsampled* upsampled, const Depthwise<K>& depthwise, const Layer* project, const Layer* last,
              const float* added, int64_t threads, float* target) {
    const bool makes = expand || upsampled;
    const int64_t hidden = depthwise.channels, bytes = in_quads(hidden);
    int64_t lines = 0;
    for (int64_t y = 0; y < shape.height && makes; ++y) {
        int64_t least, most;
        reach<K>(tables.rows, y, y + 1, &least, &most);
        lines = std::max(lines, most - least);
    }
    const std::vector<char> runs = find_runs<K>(tables.columns, shape.width);
    const std::vector<Columns> all = columns_of<K>(shape, tables, hidden * (lines + 1));
    int64_t places = 0, width = 0;
    for (const Columns& each : all)
        places = std::max(places, each.last - each.first), width = std::max(width, each.end - each.begin);
    // rows at the border of bands are made twice
    const int64_t pieces = shape.images * int64_t(all.size());
    const int64_t bands = std::min(shape.height, ceil_div(threads * (makes ? 1 : 4), pieces));
    // rows whose outputs follow each other are projected together
    const int64_t together = all.size() == 1 ? std::max<int64_t>(1, BLOCK / shape.width) : 1;
    // outputs that become bytes together: their values stay in L1
    const int64_t steps = std::max<int64_t>(STEPS, FILTERED / hidden / STEPS * STEPS);
#pragma omp parallel
    {
        const Room<float> values(project ? steps * hidden : 0);
        const Room<uint8_t> filtered(project ? together * width * bytes : 0);
        std::vector<const uint8_t*> rows(project ? together * width : 0);
        for (size_t x = 0; x < rows.size(); ++x) rows[x] = filtered.data() + x * bytes;
        // what the last layer reads: the projection's values, and their bytes
        const int64_t ends = last ? in_quads(last->channels) : 0;
        const Room<float> projected(last ? together * width * last->channels : 0);
        const Room<uint8_t> read(together * width * ends);
        std::vector<const uint8_t*> last_rows(last ? together * width : 0);
        for (size_t x = 0; x < last_rows.size(); ++x) last_rows[x] = read.data() + x * ends;
        Made made(shape, expand, upsampled, channels, hidden, std::max<int64_t>(lines, 1), makes ? places : 0);
#pragma omp for schedule(dynamic, 1)
        for (int64_t piece = 0; piece < pieces * bands; ++piece) {
            const Columns& columns = all[piece / bands % all.size()];
            const int64_t image = piece / bands / int64_t(all.size()), band = piece % bands;
            std::fill(made.held.begin(), made.held.end(), -1);
            const int64_t end = (band + 1) * shape.height / bands;
            for (int64_t first = band * shape.height / bands; first < end; first += together) {
                const int64_t stop = std::min(end, first + together);
                for (int64_t y = first; y < stop; ++y) {
                    const float* at[K];
                    for (int ky = 0; ky < K; ++ky) {
                        const int64_t row = tables.rows[y * K + ky];
                        at[ky] = row < 0 ? nullptr
                                 : makes ? made.row(source, image, row, columns) - columns.first * hidden
                                         : source + (image * shape.source_height + row) * shape.source_width * hidden;
                    }
                    const int64_t line = (image * shape.height + y) * shape.width;
                    uint8_t* to = filtered.data() + (y - first) * (columns.end - columns.begin) * bytes;
                    const int64_t most = project ? steps : columns.end - columns.begin;
                    for (int64_t x = columns.begin; x < columns.end; x += most) {
                        const int64_t next = std::min(columns.end, x + most);
                        float* const found = project ? values.data() : target + (line + x) * hidden;
                        depthwise.ending.chosen([&](const auto& finish) {
                            sum_line<K>(at, hidden, depthwise.filter, tables.columns, runs.data(), x, next, finish, found);
                        });
                        for (int64_t place = 0; project && place < next - x; ++place, to += bytes)
                            project->grid.row(found + place * hidden, hidden, to);
                    }
                }
                if (!project) continue;
                const int64_t place = (image * shape.height + first) * shape.width + columns.begin;
                const int64_t count = (stop - first) * (columns.end - columns.begin), at = place * project->outputs;
                if (!last) {
                    multiply(*project, rows.data(), 0, count, added ? added + at : nullptr, target + at);
                    continue;
                }
                multiply(*project, rows.data(), 0, count, nullptr, projected.data());
                for (int64_t i = 0; i < count; ++i)
                    last->grid.row(projected.data() + i * last->channels, last->channels, read.data() + i * ends);
                multiply(*last, last_rows.data(), 0, count, nullptr, target + place * last->outputs);
            }
        }
    }
}

// As Python has it: pointers and numbers of a layer, none where weight is null.
struct Given {
    const int8_t* weight;
    const float *factor, *bias, *inverse, *zero;
    float least, most;
    int64_t swish, taps, channels, outputs;

    Layer layer() const {
        return {weight, factor, bias, {inverse, zero}, {least, most, swish != 0}, taps, channels, outputs};
    }
};

}  // namespace

extern "C" int64_t deeplab_int8_bits() { return BITS; }

extern "C" int64_t deeplab_int8_lanes() { return LANES; }

// weight: [output, tap, channel]; packed: room for whole vectors of outputs and whole quads of channels, zeros.
extern "C" void deeplab_int8_pack(int64_t outputs, int64_t taps, int64_t channels, const int8_t* weight, int8_t* packed) {
    const int64_t quads = in_quads(channels), depth = taps * quads;
    for (int64_t output = 0; output < outputs; ++output) {
        const int64_t first = output / (WIDEST * LANES) * WIDEST * LANES;
        const int64_t wide = std::min<int64_t>(WIDEST * LANES, ceil_div(outputs - first, LANES) * LANES);
        for (int64_t tap = 0; tap < taps; ++tap)
            for (int64_t c = 0; c < channels; ++c) {
                const int64_t quad = (tap * quads + c) / QUAD, within = (output - first) * QUAD + c % QUAD;
                packed[first * depth + quad * wide * QUAD + within] = weight[(output * taps + tap) * channels + c];
            }
    }
}

// sizes: images, source height, source width, height, width, kernel width.
extern "C" void deeplab_int8_dense(const int64_t* sizes, int64_t threads, const float* source, const Given* layer,
                                   const float* added, const int32_t* rows, const int32_t* columns, float* target) {
    convolve(layer->layer(), {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]}, sizes[5], {rows, columns}, source, added,
             threads, target);
}

// sizes: images, source height, source width, height, width, channels, hidden channels. Expansion, projection and the layer
// behind it may have no weights, upsampled may be null. Returns 0, or 1 for a kernel size that is not compiled.
extern "C" int deeplab_int8_separable(const int64_t* sizes, int64_t kernel, int64_t threads, const float* source,
                                      const Upsampled* upsampled, const Given* expansion, const float* weight,
                                      const float* bias, const float* ending, const Given* projection,
                                      const Given* behind, const float* added, const int32_t* rows, const int32_t* columns, float* target) {
    const Layer expand = expansion->layer(), project = projection->layer(), last = behind->layer();
    const auto run = [&](auto size) {
        constexpr int K = decltype(size)::value;
        separate<K>({sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]}, sizes[5], {rows, columns}, source,
                    expand.weight ? &expand : nullptr, upsampled,
                    {{weight, bias, sizes[6]}, {ending[0], ending[1], ending[2] != 0}, sizes[6]},
                    project.weight ? &project : nullptr, last.weight ? &last : nullptr, added, threads, target);
    };
    if (kernel == 3) return run(std::integral_constant<int, 3>{}), 0;
    if (kernel == LARGEST_KERNEL) return run(std::integral_constant<int, LARGEST_KERNEL>{}), 0;
    return 1;
}
