// A depthwise convolution with the 1x1 convolution behind it, the 1x1 expansion of MobileNets before it, or both, in one
// pass, channels last: what lies between them stays near the processor, a few rows of a few columns at a time.
//
// Which row (column) a tap reads for an output row (column), or -1 for padding, comes in as a table, as in depthwise.cpp.
// Every sum has a fixed order: results do not depend on the number of threads.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "products.hpp"
#include "taps.hpp"

namespace {

constexpr int LARGEST_KERNEL = 5;
// what is between the convolutions, in floats a thread: it stays in L2, of which processors with AVX-512 have 1 MB or more
#ifdef __AVX512F__
constexpr int64_t BETWEEN = 200 << 10;
#else
constexpr int64_t BETWEEN = 80 << 10;
#endif
// that are projected together, where rows are short
constexpr int64_t PLACES = 16 * TILE;

struct Shape {
    int64_t images, channels, source_height, source_width, hidden, outputs, height, width;
};

struct Tables {
    const int32_t *rows, *columns;
};

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
                add_part(part, Rows<Word<T>>{places, nullptr}, count, weight + output * words + part.from * PANEL,
                         {ending.bias + output, ending.least, ending.most, ending.swish},
                         Target<To>{sums, target + output, outputs, added ? added + output : nullptr},
                         std::min<int64_t>(PANEL, outputs - output));
    }
};

template <int K>
struct Depthwise {
    Filter<K> filter;
    Ending ending;
};

// Columns of outputs, and those that they read.
struct Columns {
    int64_t begin, end, first, last;

    // whole tiles, where single rows take as long as a tile
    int64_t read() const { return VECTORS < 4 ? ceil_div(last - first, TILE) * TILE : last - first; }
};

// Rows of a table's outputs begin..end that are read: the least, and one more than the greatest.
template <int K>
void reach(const int32_t* table, int64_t begin, int64_t end, int64_t* least, int64_t* most) {
    *least = INT32_MAX, *most = 0;
    for (const int32_t* each = table + begin * K; each < table + end * K; ++each)
        if (*each >= 0) *least = std::min<int64_t>(*least, *each), *most = std::max<int64_t>(*most, *each + 1);
    *least = std::min(*least, *most);
}

template <int K>
int64_t span(const Tables& tables, int64_t height) {
    int64_t found = 1;
    for (int64_t y = 0; y < height; ++y) {
        int64_t least, most;
        reach<K>(tables.rows, y, y + 1, &least, &most);
        found = std::max(found, most - least);
    }
    return found;
}

// Columns so few that what is between the convolutions is no more than BETWEEN, if that leaves some.
template <int K>
std::vector<Columns> columns_of(const Shape& shape, const Tables& tables, int64_t lines) {
    const int64_t most = std::max<int64_t>(4 * TILE, BETWEEN / (shape.hidden * lines));
    const int64_t each = ceil_div(ceil_div(shape.width, ceil_div(shape.width, most)), TILE) * TILE;
    std::vector<Columns> found;
    for (int64_t begin = 0; begin < shape.width; begin += each) {
        Columns columns = {begin, std::min(shape.width, begin + each), 0, 0};
        reach<K>(tables.columns, columns.begin, columns.end, &columns.first, &columns.last);
        found.push_back(columns);
    }
    return found;
}

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

// What the depthwise kernel reads where that is not the source itself: the last few rows of the source's expansion, or of
// an upsampled map and the source behind it, each made when it is first read; in float32, as they never leave the
// processor.
template <typename T>
class Made {
   public:
    Made(const Shape& shape, const Pointwise<T>* expand, const Upsampled* upsampled, int64_t rows, int64_t places)
        : shape(shape), expand(expand), upsampled(upsampled), held(rows, -1), places(places),
          values(rows * places * shape.hidden), sums(places * PANEL),
          room(upsampled ? upsampled->width * upsampled->channels : 0), pixels(places) {}

    // Row y of an image of the source, where `columns` begin; rows are asked for in order, and no further apart than there
    // is room for.
    const float* row(const T* source, int64_t image, int64_t y, const Columns& columns) {
        const int64_t slot = y % int64_t(held.size());
        float* const to = values.data() + slot * places * shape.hidden;
        if (held[slot] == y || columns.first >= columns.last) return to;
        held[slot] = y;
        const T* const from =
            source + ((image * shape.source_height + y) * shape.source_width + columns.first) * shape.channels;
        if (expand)
            make_expanded(from, columns, to);
        else
            make_joined(from, image, y, columns, to);
        return to;
    }

    void forget() { std::fill(held.begin(), held.end(), -1); }

   private:
    void make_expanded(const T* from, const Columns& columns, float* to) {
        // the last pixel again and again where a tile goes on
        for (int64_t place = 0; place < columns.read(); ++place)
            pixels[place] = reinterpret_cast<const Word<T>*>(
                from + std::min(place, columns.last - columns.first - 1) * shape.channels);
        expand->template run<float>(pixels.data(), columns.read(), sums.data(), nullptr, to);
    }

    void make_joined(const T* from, int64_t image, int64_t y, const Columns& columns, float* to) {
        upsampled->template row<T>(image, y, columns, shape.hidden, room.data(), to);
        to += upsampled->channels;
        for (int64_t x = columns.first; x < columns.last; ++x, to += shape.hidden, from += shape.channels)
            for (int64_t c = 0; c < shape.channels; c += LANES) {
                const int64_t lanes = std::min<int64_t>(LANES, shape.channels - c);
                store(load(from + c, lanes), to + c, lanes);
            }
    }

    const Shape& shape;
    const Pointwise<T>* expand;
    const Upsampled* upsampled;
    std::vector<int64_t> held;
    int64_t places;
    const Room values, sums, room;
    std::vector<const Word<T>*> pixels;
};

template <int K, typename T>
void convolve(const Shape& shape, const Tables& tables, const T* source, const Pointwise<T>* expand,
              const Upsampled* upsampled, const Depthwise<K>& depthwise, const Pointwise<T>* project, const T* added,
              int64_t threads, T* target) {
    const bool makes = expand || upsampled;
    const int64_t rows = makes ? span<K>(tables, shape.height) : 0;
    const std::vector<char> runs = find_runs<K>(tables.columns, shape.width);
    const std::vector<Columns> all = columns_of<K>(shape, tables, rows + 1);
    int64_t places = 0, width = 0;
    for (const Columns& each : all)
        places = std::max(places, each.read()), width = std::max(width, each.end - each.begin);
    // rows at the border of bands are made twice
    const int64_t pieces = shape.images * int64_t(all.size());
    const int64_t bands = std::min(shape.height, ceil_div(threads * (makes ? 1 : 4), pieces));
    // rows whose outputs follow each other are projected together, or each would leave a part of a tile
    const int64_t most = std::min(PLACES, BETWEEN / shape.hidden);
    const int64_t together = all.size() == 1 ? std::max<int64_t>(1, most / shape.width) : 1;
#pragma omp parallel
    {
        const Room room(project ? together * width * shape.hidden : 0), sums(together * width * PANEL);
        T* const filtered = reinterpret_cast<T*>(room.data());
        std::vector<const Word<T>*> pixels(together * width);
        for (size_t x = 0; x < pixels.size(); ++x)
            pixels[x] = reinterpret_cast<const Word<T>*>(filtered + x * shape.hidden);
        Made<T> made(shape, expand, upsampled, rows, places);
#pragma omp for schedule(dynamic, 1)
        for (int64_t piece = 0; piece < pieces * bands; ++piece) {
            const Columns& columns = all[piece / bands % all.size()];
            const int64_t image = piece / bands / int64_t(all.size()), band = piece % bands;
            made.forget();
            const int64_t end = (band + 1) * shape.height / bands;
            for (int64_t first = band * shape.height / bands; first < end; first += together) {
                const int64_t last = std::min(end, first + together);
                for (int64_t y = first; y < last; ++y) {
                    const int64_t at = ((image * shape.height + y) * shape.width + columns.begin) * shape.hidden;
                    // line(row): where a row's channels are
                    const auto filter = [&](auto line) {
                        decltype(line(0)) lines[K];
                        for (int ky = 0; ky < K; ++ky) {
                            const int64_t row = tables.rows[y * K + ky];
                            lines[ky] = row < 0 ? nullptr : line(row);
                        }
                        const Ending ending = depthwise.ending;
                        sum_line<K>(lines, shape.hidden, depthwise.filter, tables.columns, runs.data(), columns.begin,
                                    columns.end,
                                    [ending](const Floats& sum) __attribute__((always_inline)) { return ending.finish(sum); },
                                    project ? filtered + (y - first) * width * shape.hidden : target + at);
                    };
                    if (makes)
                        filter([&](int64_t row) {
                            return made.row(source, image, row, columns) - columns.first * shape.hidden;
                        });
                    else
                        filter([&](int64_t row) {
                            return source + (image * shape.source_height + row) * shape.source_width * shape.hidden;
                        });
                }
                if (!project) continue;
                const int64_t at = ((image * shape.height + first) * shape.width + columns.begin) * shape.outputs;
                project->run(pixels.data(), (last - first) * (columns.end - columns.begin), sums.data(),
                            added ? added + at : nullptr, target + at);
            }
        }
    }
}

}  // namespace

// Expansion and projection: packed weights and biases, or nulls. Endings: least and most of expansion, depthwise
// convolution and projection, and whether it is swish instead. Upsampled: null where nothing is. `half`: maps and packed
// weights are bfloat16. Returns 0, or 1 for a kernel size that is not compiled.
extern "C" int deeplab_separable(const int64_t* sizes, int64_t kernel, int64_t threads, int half, const void* source,
                                 const Upsampled* upsampled, const float* const* expansion, const float* const* depthwise,
                                 const float* const* projection, const float* endings, const void* added,
                                 const int32_t* rows, const int32_t* columns, void* target) {
    const Shape shape = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7]};
    const auto ending = [&](const float* bias, int step) {
        const float* const found = endings + 3 * step;
        return Ending{bias, found[0], found[1], found[2] != 0};
    };
    const auto run = [&](auto size, auto number) {
        constexpr int K = decltype(size)::value;
        using T = decltype(number);
        const Pointwise<T> expand(expansion, ending(expansion[1], 0), shape.channels, shape.hidden);
        const Pointwise<T> project(projection, ending(projection[1], 2), shape.hidden, shape.outputs);
        const Depthwise<K> filter = {{depthwise[0], depthwise[1], shape.hidden}, ending(depthwise[1], 1)};
        convolve<K, T>(shape, {rows, columns}, static_cast<const T*>(source), expansion[0] ? &expand : nullptr,
                       upsampled, filter, projection[0] ? &project : nullptr, static_cast<const T*>(added), threads,
                       static_cast<T*>(target));
        return 0;
    };
    const auto any = [&](auto number) {
        if (kernel == 3) return run(std::integral_constant<int, 3>{}, number);
        if (kernel == LARGEST_KERNEL) return run(std::integral_constant<int, LARGEST_KERNEL>{}, number);
        return 1;
    };
#ifdef __AVX512BF16__
    if (half) return any(uint16_t{});
#endif
    return any(float{});
}
