// The separable convolution of a small map that is upsampled, with channels behind it, as v3+'s decoder has one, channels
// last; and the 1x1 convolution behind that, where it is the only reader.
//
// Taps and upsampling keep channels apart, so that the 1x1 convolution can come first: P sum_k w_k up(x) is
// sum_k up(P w_k x), each moved by its tap. There are nine products where there was one, on a map with sixteen times fewer
// places. Rows of these products are made a few at a time, in float32, and kept until no output reads them. Every sum has a
// fixed order: results do not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "one_pass.hpp"
#include "products.hpp"

namespace {

constexpr int K = 3;
constexpr int64_t TOGETHER = 8;         // rows of outputs, which read the same rows of products
constexpr int64_t COLUMNS = 12 * TILE;  // most outputs of a row whose sums stay near the processor
constexpr int64_t LEAST_PLACES = 128;   // of the small map that are multiplied together

// A row or place that is read, and by what it is multiplied.
struct Term {
    const float* from;
    float factor;
};

// What a tap reads along an axis of a map that is upsampled: up to two of its `extent` positions; nothing in the padding.
template <class At>
inline int64_t read_between(int32_t tap, const int32_t* low, const float* far, int64_t extent, const At& at, Term* found) {
    if (tap < 0) return 0;
    const bool between = low[tap] + 1 < extent;
    found[0] = {at(low[tap]), between ? 1 - far[tap] : 1};
    if (between) found[1] = {at(low[tap] + 1), far[tap]};
    return 1 + between;
}

// to[0..PANEL] = begin + the sum of `count` terms, each `offset` further on
inline __attribute__((always_inline)) void add_up(const Term* terms, int64_t count, int64_t offset, const float* begin,
                                                  float* to) {
    const auto add = [&](auto number) __attribute__((always_inline)) {
        Floats sums[VECTORS];
        for (int vector = 0; vector < VECTORS; ++vector) sums[vector] = load(begin + vector * LANES, LANES);
#pragma GCC unroll 6
        for (int64_t term = 0; term < number; ++term)
            for (int vector = 0; vector < VECTORS; ++vector)
                sums[vector] += terms[term].factor * load(terms[term].from + offset + vector * LANES, LANES);
        for (int vector = 0; vector < VECTORS; ++vector) store(sums[vector], to + vector * LANES, LANES);
    };
    // away from the border it is a constant
    if (count == 2 * K)
        add(std::integral_constant<int64_t, 2 * K>{});
    else
        add(count);
}

// The small map times the weights of every tap: [panel of outputs, tap, row, column, output], as many rows as there is room
// for, so that what an output row reads lies together.
template <typename T>
struct Products {
    const Upsampled& small;
    const Word<T>* const weight;  // [tap, panel, word, output]
    const int64_t words, panels, rows, row;
    const std::vector<Part> all;
    const std::vector<float> zeros;
    const Room<float> numbers;

    Products(const Upsampled& small, const T* weight, int64_t outputs, int64_t rows)
        : small(small), weight(reinterpret_cast<const Word<T>*>(weight)), words(small.channels / IN_WORD<T>),
          panels(ceil_div(outputs, PANEL)), rows(rows), row(small.width * PANEL), all(parts(1, words)), zeros(PANEL),
          numbers(panels * K * K * rows * row) {}

    float* at(int64_t panel, int64_t tap, int64_t y) const {
        return numbers.data() + ((panel * K * K + tap) * rows + y % rows) * row;
    }

    // rows first..last of an image, shared out to the threads of a parallel region, which wait for each other
    void make(int64_t image, int64_t first, int64_t last) const {
        // places that follow each other there as here
        std::vector<std::pair<int64_t, int64_t>> blocks;
        for (int64_t y = first; y < last;) {
            const int64_t next = std::min(last, (y / rows + 1) * rows);
            for (int64_t place = y * small.width; place < next * small.width; place += BLOCK)
                blocks.push_back({place, std::min(next * small.width, place + BLOCK)});
            y = next;
        }
        const int64_t count = blocks.size(), map = image * small.height * small.width * words;
        const Room<float> sums(BLOCK * PANEL);
        // the blocks of a tap one after another: its weights are near
#pragma omp for schedule(dynamic, 1)
        for (int64_t item = 0; item < K * K * count; ++item) {
            const auto [begin, end] = blocks[item % count];
            const int64_t tap = item / count;
            const Word<T>* places[BLOCK];
            for (int64_t place = begin; place < end; ++place)
                places[place - begin] = static_cast<const Word<T>*>(small.map) + map + place * words;
            for (int64_t panel = 0; panel < panels; ++panel)
                for (const Part& part : all)
                    multiply(part, places, end - begin,
                             weight + ((tap * panels + panel) * words + part.from) * PANEL,
                             sums.data(), at(panel, tap, begin / small.width) + begin % small.width * PANEL);
        }
    }

    __attribute__((noinline)) void multiply(const Part& part, const Word<T>* const* places, int64_t count,
                                            const Word<T>* panel, float* sums, float* to) const {
        add_part(part, Rows<Word<T>>{places, nullptr}, count, panel, {zeros.data(), -INFINITY, INFINITY, false},
                 Target<float>{sums, to, PANEL, nullptr}, PANEL);
    }
};

template <typename T>
void decode(const Shape& shape, const Tables& tables, const T* source, const Upsampled& small, const T* taps,
            const Depthwise<K>& depthwise, const Pointwise<T>& project, const Pointwise<T>* classify, int64_t threads,
            T* target) {
    // rows of the small map that output rows read
    const auto reads = [&](int64_t first, int64_t last) {
        const auto [least, most] = reach<K>(tables.rows, first, last);
        if (least == most) return std::pair<int64_t, int64_t>(0, 0);
        return std::pair<int64_t, int64_t>(small.row_low[least],
                                           std::min<int64_t>(small.height, small.row_low[most - 1] + 2));
    };
    int64_t least = 1;
    for (int64_t y = 0; y < shape.height; y += TOGETHER) {
        const auto [first, last] = reads(y, std::min(shape.height, y + TOGETHER));
        least = std::max(least, last - first);
    }
    const int64_t together = ceil_div(std::max(LEAST_PLACES, threads * BLOCK), small.width);
    const Products<T> products(small, taps, project.outputs, std::min(small.height, least + together));
    const std::vector<char> runs = find_runs<K>(tables.columns, shape.width);
    const int64_t pieces = ceil_div(shape.width, COLUMNS), outputs = project.outputs;
    const int64_t width = ceil_div(ceil_div(shape.width, pieces), TILE) * TILE;
    const int64_t hidden = depthwise.channels;
#pragma omp parallel
    {
        const Room<float> filtered_room(TOGETHER * width * hidden), sums(width * PANEL);
        const Room<float> finished_room(classify ? TOGETHER * width * outputs : 0), lines(K * small.width * PANEL);
        T* const filtered = reinterpret_cast<T*>(filtered_room.data());
        T* const finished = reinterpret_cast<T*>(finished_room.data());
        std::vector<const Word<T>*> pixels(width);

        // outputs of rows first..last and columns begin..end
        const auto piece = [&](int64_t image, int64_t first, int64_t last, int64_t begin, int64_t end) {
            const int64_t count = end - begin;
            const auto place = [&](int64_t y) { return (image * shape.height + y) * shape.width + begin; };
            for (int64_t y = first; y < last; ++y) {
                const T* taps[K];
                for (int ky = 0; ky < K; ++ky) {
                    const int64_t row = tables.rows[y * K + ky];
                    const int64_t at = image * shape.source_height + row;
                    taps[ky] = row < 0 ? nullptr : source + at * shape.source_width * shape.channels;
                }
                sum_rows<1>(taps, {}, hidden, depthwise.filter, tables.columns, runs.data(), begin, end,
                            stores(AsItIs{}), filtered + (y - first) * width * hidden, hidden, 0);
            }
            const auto [left, right] = reach<K>(tables.columns, begin, end);
            const int64_t low = left < right ? small.column_low[left] : 0;
            const int64_t high = left < right ? std::min<int64_t>(small.width, small.column_low[right - 1] + 2) : 0;
            for (int64_t output = 0; output < outputs; output += PANEL)
                for (int64_t y = first; y < last; ++y) {
                    for (int kx = 0; kx < K; ++kx) {
                        Term terms[2 * K];
                        int64_t found = 0;
                        for (int ky = 0; ky < K; ++ky)
                            found += read_between(
                                tables.rows[y * K + ky], small.row_low, small.row_far, small.height,
                                [&](int64_t row) { return products.at(output / PANEL, ky * K + kx, row); }, terms + found);
                        for (int64_t x = low; x < high; ++x)
                            add_up(terms, found, x * PANEL, products.zeros.data(),
                                   lines.data() + (kx * small.width + x) * PANEL);
                    }
                    for (int64_t x = begin; x < end; ++x) {
                        Term terms[2 * K];
                        int64_t found = 0;
                        for (int kx = 0; kx < K; ++kx)
                            found += read_between(
                                tables.columns[x * K + kx], small.column_low, small.column_far, small.width,
                                [&](int64_t column) { return lines.data() + (kx * small.width + column) * PANEL; },
                                terms + found);
                        add_up(terms, found, 0, project.ending.bias + output, sums.data() + (x - begin) * PANEL);
                        pixels[x - begin] =
                            reinterpret_cast<const Word<T>*>(filtered + ((y - first) * width + x - begin) * hidden);
                    }
                    T* const to = classify ? finished + (y - first) * width * outputs : target + place(y) * outputs;
                    project.go_on(pixels.data(), count, sums.data(), output, to);
                }
            for (int64_t y = first; classify && y < last; ++y) {
                for (int64_t x = 0; x < count; ++x)
                    pixels[x] = reinterpret_cast<const Word<T>*>(finished + ((y - first) * width + x) * outputs);
                classify->run(pixels.data(), count, sums.data(), static_cast<const T*>(nullptr),
                              target + place(y) * classify->outputs);
            }
        };

        for (int64_t image = 0; image < shape.images; ++image)
            for (int64_t first = 0, made = 0; first < shape.height;) {
                // as many rows as read no more of the small map than there is room for
                int64_t last = std::min(shape.height, first + TOGETHER);
                while (last < shape.height) {
                    const int64_t next = std::min(shape.height, last + TOGETHER);
                    const auto [from, to] = reads(first, next);
                    if (to - from > products.rows) break;
                    last = next;
                }
                const auto [from, to] = reads(first, last);
                products.make(image, std::max(from, made), to);
                made = std::max(made, to);
                const int64_t groups = ceil_div(last - first, TOGETHER);
#pragma omp for schedule(dynamic, 1)
                for (int64_t item = 0; item < groups * pieces; ++item) {
                    const int64_t y = first + item / pieces * TOGETHER, x = item % pieces * width;
                    if (x < shape.width)
                        piece(image, y, std::min(last, y + TOGETHER), x, std::min(shape.width, x + width));
                }
                first = last;
            }
    }
}

}  // namespace

// A convolution of stride 1 whose taps have no ending. `taps`: packed weights of every tap's 1x1 convolution of the small
// map, whole panels of outputs each. `projection`: packed weights of that of the source, and the biases of both.
// `classifier`: the same of the convolution behind, or nulls. `half`: maps and packed weights are bfloat16.
extern "C" void deeplab_upsampled(const Shape* shape, int64_t outputs, int64_t classes, int64_t threads, int half,
                                  const void* source, const Upsampled* small, const void* taps,
                                  const float* const* depthwise, const float* const* projection,
                                  const float* const* classifier, float least, float most, int swish,
                                  const int32_t* rows, const int32_t* columns, void* target) {
    const int64_t hidden = shape->channels;
    const auto any = [&](auto number) {
        using T = decltype(number);
        const Pointwise<T> project(projection, {projection[1], least, most, swish != 0}, hidden, outputs);
        const Pointwise<T> classify(classifier, {classifier[1], -INFINITY, INFINITY, false}, outputs, classes);
        const Depthwise<K> filter = {{depthwise[0], depthwise[1], hidden}, {nullptr, 0, 0, false}, hidden};
        decode<T>(*shape, {rows, columns}, static_cast<const T*>(source), *small,
                  static_cast<const T*>(taps), filter, project,
                  classifier[0] ? &classify : nullptr, threads, static_cast<T*>(target));
    };
#ifdef __AVX512BF16__
    if (half) return any(uint16_t{});
#endif
    any(float{});
}
