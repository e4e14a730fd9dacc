// Dense convolution at any stride and rate, channels last, and its gradients, as matrix products in registers.
//
// A place is one output position of one image. Which row (column) a tap reads for an output row (column), or -1 for
// padding, comes in as a table, as in depthwise.cpp: nothing is laid out anew for kernels larger than 1x1, each place
// has one pointer a tap. Every sum has a fixed order: results do not depend on the number of threads.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "products.hpp"

namespace {

constexpr int64_t GROUP = 32 * LANES;  // outputs (in the weights' gradient: channels) whose sums stay in L2
// of the weights' gradient: bands of places, and sums up to which there are bands
constexpr int64_t MOST_BANDS = 16, MOST_SUMS = 1 << 17;

struct Shape {
    int64_t images, channels, source_height, source_width, outputs, height, width, kernel_height, kernel_width;

    int64_t taps() const { return kernel_height * kernel_width; }
    int64_t places() const { return images * height * width; }
    // every place reads the pixel at its own position
    bool is_pointwise() const { return taps() == 1 && height == source_height && width == source_width; }
};

struct Tables {
    const int32_t *rows, *columns;
};

// Channels that the taps read for places begin..end: found[tap * step + place - begin]; `zeros` in the padding. Channels
// are `wide` of Number.
template <class Number>
void locate(const Shape& shape, const Tables& tables, const Number* source, int64_t wide, const Number* zeros,
            int64_t first_tap, int64_t last_tap, int64_t begin, int64_t end, int64_t step, const Number** found) {
    if (shape.is_pointwise()) {
        for (int64_t place = begin; place < end; ++place) found[place - begin] = source + place * wide;
        return;
    }
    const int64_t size = shape.source_height * shape.source_width * wide;
    int64_t image = begin / shape.width / shape.height, y = begin / shape.width % shape.height, x = begin % shape.width;
    for (int64_t place = begin; place < end; ++place) {
        const int32_t* const row = tables.rows + y * shape.kernel_height;
        const int32_t* const column = tables.columns + x * shape.kernel_width;
        int64_t ky = first_tap / shape.kernel_width, kx = first_tap % shape.kernel_width;
        for (int64_t tap = first_tap; tap < last_tap; ++tap) {
            found[(tap - first_tap) * step + place - begin] =
                row[ky] < 0 || column[kx] < 0
                    ? zeros
                    : source + image * size + (row[ky] * shape.source_width + column[kx]) * wide;
            if (++kx == shape.kernel_width) kx = 0, ++ky;
        }
        if (++x == shape.width) x = 0, ++y;
        if (y == shape.height) y = 0, ++image;
    }
}

// target[place, o] = ending(sum over tap, c of source[place's tap, c] * weight[tap, c, o] + added[place, o]), weights as
// `pack` has them
template <typename T>
void correlate(const Shape& shape, const Tables& tables, const T* source, const T* packed, const Ending& ending,
               const T* added, int64_t threads, T* target) {
    const int64_t taps = shape.taps(), wide = shape.channels / IN_WORD<T>, tiles = ceil_div(shape.places(), TILE);
    // as many blocks for each thread, of nearly the same size
    const int64_t blocks = threads * ceil_div(tiles * TILE, threads * BLOCK);
    const std::vector<Word<T>> zeros(wide);
    const std::vector<Part> all = parts(taps, wide);
    const Word<T>* const words = reinterpret_cast<const Word<T>*>(source);
#pragma omp parallel
    {
        std::vector<const Word<T>*> places(taps * BLOCK);
        const Room<float> sums(BLOCK * std::min(GROUP, in_panels(shape.outputs)));
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t begin = block * tiles / blocks * TILE;
            const int64_t end = std::min(shape.places(), (block + 1) * tiles / blocks * TILE);
            locate(shape, tables, words, wide, zeros.data(), 0, taps, begin, end, BLOCK, places.data());
            for (int64_t group = 0; group < shape.outputs; group += GROUP)
                for (const Part& part : all)
                    for (int64_t output = group; output < std::min(shape.outputs, group + GROUP); output += PANEL) {
                        const Word<T>* const panel = reinterpret_cast<const Word<T>*>(packed) + output * taps * wide +
                                                     (part.first_tap * wide + part.from) * PANEL;
                        const int64_t at = begin * shape.outputs + output;
                        add_part(part, Rows<Word<T>>{places.data(), zeros.data()}, end - begin, panel,
                                 {ending.bias + output, ending.least, ending.most, ending.swish},
                                 Target<T>{sums.data() + (output - group) * BLOCK, target + at, shape.outputs,
                                           added ? added + at : nullptr},
                                 std::min<int64_t>(PANEL, shape.outputs - output));
                    }
        }
    }
}

// to[panel, tap, c, lane] = weight at strides (output, channel, tap), channels that are multiplied at once behind each
// other; zeros beyond the last output
template <typename T>
void pack(int64_t outputs, int64_t channels, int64_t taps, const int64_t* strides, const T* weight, T* to) {
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < outputs; first += PANEL) {
        const int64_t width = std::min<int64_t>(PANEL, outputs - first);
        const T* const from = weight + first * strides[0];
        T* panel = to + first * taps * channels;
        std::fill(panel, panel + taps * channels * PANEL, T{});
        for (int64_t tap = 0; tap < taps; ++tap)
            for (int64_t channel = 0; channel < channels; channel += IN_WORD<T>, panel += PANEL * IN_WORD<T>)
                for (int64_t lane = 0; lane < width; ++lane)
                    for (int64_t next = 0; next < IN_WORD<T>; ++next)
                        panel[lane * IN_WORD<T> + next] =
                            from[lane * strides[0] + (channel + next) * strides[1] + tap * strides[2]];
    }
}

// A part of the weights' gradient: taps, channels and outputs from..to, over one band of places.
struct Share {
    int64_t first_tap, last_tap, first_channel, last_channel, first_output, last_output, band;
};

// Bands have sums of their own, so that every place is read once; where sums are many, they are shared out instead.
int64_t bands(const Shape& shape) {
    if (shape.taps() * shape.channels * shape.outputs > MOST_SUMS) return 1;
    return std::min(MOST_BANDS, ceil_div(shape.places(), LAID_OUT));
}

std::vector<Share> shares(const Shape& shape, int64_t threads) {
    std::vector<Share> found;
    const int64_t count = bands(shape);
    if (count > 1) {
        for (int64_t band = 0; band < count; ++band)
            found.push_back({0, shape.taps(), 0, shape.channels, 0, shape.outputs, band});
        return found;
    }
    const int64_t groups = shape.taps() * ceil_div(shape.channels, GROUP), tiles = ceil_div(shape.outputs, TILE);
    const int64_t pieces = std::min(tiles, ceil_div(threads * 2, groups));
    for (int64_t tap = 0; tap < shape.taps(); ++tap)
        for (int64_t channel = 0; channel < shape.channels; channel += GROUP)
            for (int64_t piece = 0; piece < pieces; ++piece)
                found.push_back({tap, tap + 1, channel, std::min(shape.channels, channel + GROUP),
                                 piece * tiles / pieces * TILE,
                                 std::min(shape.outputs, (piece + 1) * tiles / pieces * TILE), 0});
    return found;
}

// found[band, o, tap, c] += sum over the band's places of gradient[place, o] * source[place's tap, c]
void weight_gradient(const Shape& shape, const Tables& tables, const float* source, const float* gradient,
                     int64_t threads, float* found) {
    const int64_t stride = shape.taps() * shape.channels, count = bands(shape);
    const std::vector<float> zeros(shape.channels);
    const std::vector<Share> all = shares(shape, threads);
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t index = 0; index < all.size(); ++index) {
        const Share& share = all[index];
        std::vector<const float*> places(LAID_OUT);
        const Room<float> panels(LAID_OUT * std::min(GROUP, in_panels(shape.channels))), slopes(LAID_OUT * TILE);
        const int64_t end = (share.band + 1) * shape.places() / count;
        for (int64_t begin = share.band * shape.places() / count; begin < end; begin += LAID_OUT) {
            const int64_t here = std::min(LAID_OUT, end - begin);
            for (int64_t tap = share.first_tap; tap < share.last_tap; ++tap) {
                locate(shape, tables, source, shape.channels, zeros.data(), tap, tap + 1, begin, begin + here, LAID_OUT,
                       places.data());
                float* const to = found + share.band * shape.outputs * stride + tap * shape.channels;
                for (int64_t channel = share.first_channel; channel < share.last_channel; channel += GROUP)
                    add_outer({share.first_output, share.last_output, channel,
                               std::min(share.last_channel, channel + GROUP)},
                              places.data(), here, gradient + begin * shape.outputs, shape.outputs, panels.data(),
                              slopes.data(), to, stride);
            }
        }
    }
}

Shape shape_of(const int64_t* sizes) {
    return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7], sizes[8]};
}

}  // namespace

// Outputs are packed in panels of so many.
extern "C" int64_t deeplab_dense_panel() { return PANEL; }

// Whether it multiplies bfloat16, for which channels have to be even.
extern "C" int deeplab_dense_halves() { return HALVES; }

extern "C" void deeplab_dense_pack(int64_t outputs, int64_t channels, int64_t taps, const int64_t* strides, int half,
                                   const void* weight, void* packed) {
    in_format(half, [&](auto number) {
        using T = decltype(number);
        pack(outputs, channels, taps, strides, static_cast<const T*>(weight), static_cast<T*>(packed));
    });
}

extern "C" void deeplab_dense(const int64_t* sizes, int64_t threads, int half, const void* source, const void* packed,
                              const float* bias, const void* added, float least, float most, int swish,
                              const int32_t* rows, const int32_t* columns, void* target) {
    const auto run = [&](auto number) {
        using T = decltype(number);
        correlate(shape_of(sizes), {rows, columns}, static_cast<const T*>(source), static_cast<const T*>(packed),
                  {bias, least, most, swish != 0}, static_cast<const T*>(added), threads, static_cast<T*>(target));
    };
#ifdef __AVX512BF16__
    if (half) return run(uint16_t{});
#endif
    run(float{});
}

extern "C" int64_t deeplab_dense_bands(const int64_t* sizes) { return bands(shape_of(sizes)); }

// found begins as zeros
extern "C" void deeplab_dense_weight(const int64_t* sizes, int64_t threads, const float* source, const float* gradient,
                                     const int32_t* rows, const int32_t* columns, float* found) {
    weight_gradient(shape_of(sizes), {rows, columns}, source, gradient, threads, found);
}
