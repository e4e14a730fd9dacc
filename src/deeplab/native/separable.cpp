// A depthwise convolution with the 1x1 convolution behind it, the 1x1 expansion of MobileNets before it, or both, in one
// pass, channels last: what lies between them stays near the processor, a few rows of a few columns at a time.
//
// Which row (column) a tap reads for an output row (column), or -1 for padding, comes in as a table, as in depthwise.cpp.
// Every sum has a fixed order: results do not depend on the number of threads.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "one_pass.hpp"
#include "products.hpp"

namespace {

// what is between the convolutions, in floats a thread: it stays in L2, of which processors with AVX-512 have 1 MB or more
#ifdef __AVX512F__
constexpr int64_t BETWEEN = 200 << 10;
#else
constexpr int64_t BETWEEN = 100 << 10;
#endif
// that are projected together, where rows are short
constexpr int64_t PLACES = 16 * TILE;

template <int K, typename T>
void convolve(const Shape& shape, const Tables& tables, const T* source, const Pointwise<T>* expand,
              const Upsampled* upsampled, const Depthwise<K>& depthwise, const Pointwise<T>* project, const T* added,
              int64_t threads, T* target) {
    const int64_t hidden = depthwise.channels;
    const Cut<K> cut(shape, tables, hidden, expand || upsampled, BETWEEN, TILE, std::min(PLACES, BETWEEN / hidden), threads);
    const int64_t places = cut.together * cut.width;
#pragma omp parallel
    {
        const Room<float> room(project ? places * hidden : 0), sums(std::max(places, cut.read) * PANEL);
        T* const filtered = reinterpret_cast<T*>(room.data());
        std::vector<const Word<T>*> pixels(places), expanded(cut.read);
        for (int64_t x = 0; x < places; ++x) pixels[x] = reinterpret_cast<const Word<T>*>(filtered + x * hidden);
        const auto expands = [&](const T* from, int64_t count, float* to) {
            // whole tiles, where single rows take as long as a tile: the last pixel again and again
            const int64_t whole = VECTORS < 4 ? ceil_div(count, TILE) * TILE : count;
            for (int64_t place = 0; place < whole; ++place)
                expanded[place] =
                    reinterpret_cast<const Word<T>*>(from + std::min(place, count - 1) * shape.channels);
            expand->run_blocked(expanded.data(), whole, sums.data(), BLOCKED, cut.read, to);
        };
        Lines lines(cut, hidden, source, upsampled, expands);
        cut.share_out([&](int64_t image, const Columns& columns, int64_t first, int64_t last) {
            const int64_t place = (image * shape.height + first) * shape.width + columns.begin;
            T* const to = project ? filtered : target + place * hidden;
            const int64_t below = (project ? cut.width : shape.width) * hidden;
            cut.each(first, last, [&](int64_t y, auto pair) {
                lines.of(image, y, pair, columns, [&](const auto* const* found, const Layout& layout) {
                    depthwise.ending.chosen([&](const auto& finish) {
                        sum_rows<1 + pair>(found, layout, hidden, depthwise.filter, tables.columns, cut.runs.data(),
                                           columns.begin, columns.end, stores(finish), to + (y - first) * below, hidden,
                                           below);
                    });
                });
            });
            if (!project) return;
            // rows of whole maps follow each other
            const int64_t rows = cut.columns.size() == 1 ? last - first : 1;
            for (int64_t y = first; y < last; y += rows) {
                const int64_t at = (place + (y - first) * shape.width) * project->outputs;
                project->run(pixels.data() + (y - first) * cut.width, rows * (columns.end - columns.begin), sums.data(),
                             added ? added + at : nullptr, target + at);
            }
        });
    }
}

}  // namespace

// Expansion and projection: packed weights and biases, or nulls. Endings: least and most of expansion, depthwise
// convolution and projection, and whether it is swish instead. Upsampled: null where nothing is. `half`: maps and packed
// weights are bfloat16. Returns 0, or 1 for a kernel size that is not compiled.
extern "C" int deeplab_separable(const Shape* shape, int64_t hidden, int64_t outputs, int64_t kernel, int64_t threads,
                                 int half, const void* source, const Upsampled* upsampled,
                                 const float* const* expansion, const float* const* depthwise,
                                 const float* const* projection, const float* endings, const void* added,
                                 const int32_t* rows, const int32_t* columns, void* target) {
    const auto ending = [&](const float* bias, int step) {
        const float* const found = endings + 3 * step;
        return Ending{bias, found[0], found[1], found[2] != 0};
    };
    const auto any = [&](auto number) {
        using T = decltype(number);
        const Pointwise<T> expand(expansion, ending(expansion[1], 0), shape->channels, hidden);
        const Pointwise<T> project(projection, ending(projection[1], 2), hidden, outputs);
        return with_kernel(kernel, [&](auto size) {
            constexpr int K = decltype(size)::value;
            const Depthwise<K> filter = {{depthwise[0], depthwise[1], hidden}, ending(nullptr, 1), hidden};
            convolve<K, T>(*shape, {rows, columns}, static_cast<const T*>(source), expansion[0] ? &expand : nullptr,
                           upsampled, filter, projection[0] ? &project : nullptr, static_cast<const T*>(added), threads,
                           static_cast<T*>(target));
        });
    };
#ifdef __AVX512BF16__
    if (half) return any(uint16_t{});
#endif
    return any(float{});
}
