// Convolutions of inference in 8 bits, channels last: float32 in and out, bytes in between, as products of bytes.
//
// Dense ones of any stride and rate; and a depthwise convolution, in float32, with the 1x1 convolution behind it, the 1x1
// expansion before it, or both, in one pass: what lies between them stays near the processor. Which row (column) a tap
// reads for an output row (column), or -1 for padding, comes in as a table, as in depthwise.cpp. Integer sums are exact,
// and every float sum has a fixed order: results do not depend on the number of threads.

#include <type_traits>
#include <vector>

#include "byte_products.hpp"
#include "one_pass.hpp"

namespace {

constexpr int64_t BETWEEN = 128 << 10;  // floats between the convolutions, a thread: they stay in L2
constexpr int64_t ROUND = 12;          // places that any tile is a part of

// Places whose channels a 1x1 layer, if there is one, reads as bytes.
class Places {
   public:
    Places(const Layer* layer, int64_t count)
        : layer(layer), apart(layer ? in_quads(layer->channels) : 0), bytes(count * apart), rows(layer ? count : 0) {
        for (size_t place = 0; place < rows.size(); ++place) rows[place] = bytes.data() + place * apart;
    }

    // bytes of `count` places' values, from place `first` on
    void take(const float* values, int64_t first, int64_t count) const {
        for (int64_t place = 0; place < count; ++place)
            layer->grid.row(values + place * layer->channels, layer->channels, bytes.data() + (first + place) * apart);
    }

    // the layer's values for `count` places from place `first` on
    void multiply(int64_t first, int64_t count, const float* added, float* target) const {
        ::multiply(*layer, rows.data() + first, 0, count, added, target);
    }

    // of the first `count`, in blocks of channels one after another
    void multiply_blocked(int64_t count, int64_t room, float* target) const {
        ::multiply(*layer, rows.data(), 0, count, nullptr, target, BLOCKED, room);
    }

    uint8_t* at(int64_t place) const { return bytes.data() + place * apart; }

    const Layer* const layer;
    const int64_t apart;

   private:
    const Room<uint8_t> bytes;
    std::vector<const uint8_t*> rows;
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
        const Places own(pointwise ? &layer : nullptr, BLOCK);
        std::vector<const uint8_t*> rows(pointwise ? 0 : taps * BLOCK);
#pragma omp for schedule(dynamic, 1)
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t begin = block * places / blocks, count = (block + 1) * places / blocks - begin;
            const int64_t at = begin * layer.outputs;
            if (pointwise) {
                own.take(source + begin * layer.channels, 0, count);
                own.multiply(0, count, added ? added + at : nullptr, target + at);
                continue;
            }
            for (int64_t i = 0; i < count; ++i) {
                const int64_t x = (begin + i) % shape.width, line = (begin + i) / shape.width;
                const int64_t y = line % shape.height, image = line / shape.height;
                for (int64_t tap = 0; tap < taps; ++tap) {
                    const int64_t row = tables.rows[y * (taps / kernel_width) + tap / kernel_width];
                    const int64_t column = tables.columns[x * kernel_width + tap % kernel_width];
                    const int64_t pixel = (image * shape.source_height + row) * shape.source_width + column;
                    rows[tap * BLOCK + i] = all.data() + (row < 0 || column < 0 ? pixels : pixel) * bytes;
                }
            }
            multiply(layer, rows.data(), BLOCK, count, added ? added + at : nullptr, target + at);
        }
    }
}

template <int K>
void separate(const Shape& shape, const Tables& tables, const float* source, const Layer* expand,
              const Upsampled* upsampled, const Depthwise<K>& depthwise, const Layer* project, const Layer* last,
              const float* added, int64_t threads, float* target) {
    const int64_t hidden = depthwise.channels;
    const Cut<K> cut(shape, tables, hidden, expand || upsampled, BETWEEN, ROUND, BLOCK, threads);
    const int64_t places = cut.together * cut.width;
#pragma omp parallel
    {
        const Room<float> projected(last ? places * last->channels : 0);
        const Places read(expand, cut.read), filtered(project, places), ends(last, places);
        const auto expands = [&](const float* from, int64_t count, float* to) {
            read.take(from, 0, count);
            read.multiply_blocked(count, cut.read, to);
        };
        Lines lines(cut, hidden, source, upsampled, expands);
        cut.share_out([&](int64_t image, const Columns& columns, int64_t first, int64_t stop) {
            const int64_t width = columns.end - columns.begin;
            const int64_t place = (image * shape.height + first) * shape.width + columns.begin;
            cut.each(first, stop, [&](int64_t y, auto pair) {
                lines.of(image, y, pair, columns, [&](const float* const* found, const Layout& layout) {
                    depthwise.ending.chosen([&](const auto& finish) {
                        const auto sum = [&](const auto& ends, auto* to, int64_t apart, int64_t below) {
                            sum_rows<1 + pair>(found, layout, hidden, depthwise.filter, tables.columns, cut.runs.data(),
                                               columns.begin, columns.end, ends, to + (y - first) * below, apart, below);
                        };
                        if (!project) return sum(stores(finish), target + place * hidden, hidden, shape.width * hidden);
                        const auto bytes = [&, grid = project->grid](int64_t channel) __attribute__((always_inline)) {
                            return [=](const Floats& sum, uint8_t* to, int64_t lanes) __attribute__((always_inline)) {
                                write(grid.of(finish(sum), channel), to, lanes);
                            };
                        };
                        sum(bytes, filtered.at(0), filtered.apart, width * filtered.apart);
                    });
                });
            });
            if (!project) return;
            // rows of whole maps follow each other
            const int64_t rows = cut.columns.size() == 1 ? stop - first : 1, count = rows * width;
            for (int64_t y = 0; y < stop - first; y += rows) {
                const int64_t at = place + y * shape.width, outputs = project->outputs;
                if (!last) {
                    filtered.multiply(y * width, count, added ? added + at * outputs : nullptr, target + at * outputs);
                    continue;
                }
                filtered.multiply(y * width, count, nullptr, projected.data());
                ends.take(projected.data(), 0, count);
                ends.multiply(0, count, nullptr, target + at * last->outputs);
            }
        });
    }
}

// As Python has it: pointers and numbers of a layer, none where weight is null.
struct Given {
    const int8_t* weight;
    const float *factor, *bias, *inverse, *zero;
    float least, most;
    int64_t swish, taps, channels, outputs;

    Layer layer() const {
        return {weight, factor, {inverse, zero}, {bias, least, most, swish != 0}, taps, channels, outputs};
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

extern "C" void deeplab_int8_dense(const Shape* shape, int64_t kernel_width, int64_t threads, const float* source,
                                   const Given* layer, const float* added, const int32_t* rows, const int32_t* columns,
                                   float* target) {
    convolve(layer->layer(), *shape, kernel_width, {rows, columns}, source, added, threads, target);
}

// Expansion, projection and the layer behind it may have no weights, upsampled may be null. Returns 0, or 1 for a kernel
// size that is not compiled.
extern "C" int deeplab_int8_separable(const Shape* shape, int64_t hidden, int64_t kernel, int64_t threads,
                                      const float* source, const Upsampled* upsampled, const Given* expansion,
                                      const float* weight, const float* bias, const float* ending,
                                      const Given* projection, const Given* behind, const float* added,
                                      const int32_t* rows, const int32_t* columns, float* target) {
    const Layer expand = expansion->layer(), project = projection->layer(), last = behind->layer();
    return with_kernel(kernel, [&](auto size) {
        separate<decltype(size)::value>(
            *shape, {rows, columns}, source, expand.weight ? &expand : nullptr, upsampled,
            {{weight, bias, hidden}, {nullptr, ending[0], ending[1], ending[2] != 0}, hidden},
            project.weight ? &project : nullptr, last.weight ? &last : nullptr, added, threads, target);
    });
}
