// Batch norm with the batch's own statistics and the activation behind it, channels last, forward and backward.
//
// A photo's pixels are rows of channels. Sums are taken over a few rows in float32, squares around the chunk's first row so
// that no difference of large ones arises, and beyond that in double, as PyTorch's are; over chunks in order, so results
// do not depend on the number of threads.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "lanes.hpp"

namespace {

constexpr int64_t CHUNK = 256;   // rows whose sums are one thread's
constexpr int64_t TOGETHER = 4;  // rows whose sums are float32

typedef double Doubles __attribute__((vector_size(LANES * 8)));

struct Identity {
    static Floats value(Floats z) { return z; }
    static Floats slope(Floats, Floats gradient) { return gradient; }
};

// Comparisons are such that what is not a number stays one.
struct Relu {
    static Floats value(Floats z) { return z < 0.0f ? Floats{} : z; }
    static Floats slope(Floats z, Floats gradient) { return z <= 0.0f ? Floats{} : gradient; }
};

struct Relu6 {
    static Floats value(Floats z) {
        z = z < 0.0f ? Floats{} : z;
        return z > 6.0f ? Floats{} + 6.0f : z;
    }
    static Floats slope(Floats z, Floats gradient) {
        return (z <= 0.0f) | (z >= 6.0f) ? Floats{} : gradient;
    }
};

struct HardSwish {
    static Floats value(Floats z) { return z * Relu6::value(z + 3.0f) / 6.0f; }
    static Floats slope(Floats z, Floats gradient) {
        const Floats inner = gradient * (z / 3.0f + 0.5f);
        return z < -3.0f ? Floats{} : z > 3.0f ? gradient : inner;
    }
};

// body(c, lanes) for blocks of channels; inlined with constants for all but odd rests
template <class Body>
inline __attribute__((always_inline)) void over_channels(int64_t channels, const Body& body) {
    const int64_t whole = channels / LANES * LANES;
    for (int64_t c = 0; c < whole; c += LANES) body(c, int64_t(LANES));
    if (channels - whole == LANES / 2)
        body(whole, int64_t(LANES / 2));
    else if (whole < channels)
        body(whole, channels - whole);
}

// body(chunk, first row, last row) on all threads
template <class Body>
void over_chunks(int64_t rows, const Body& body) {
    const int64_t chunks = ceil_div(rows, CHUNK);
#pragma omp parallel for schedule(static)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) body(chunk, chunk * CHUNK, std::min(rows, (chunk + 1) * CHUNK));
}

// Two sums a channel over rows begin..end, of what term(row, c, lanes, first, second) adds.
template <class Term>
inline __attribute__((always_inline)) void two_sums(int64_t begin, int64_t end, int64_t channels, double* first,
                                                    double* second, const Term& term) {
    std::fill(first, first + channels, 0.0);
    std::fill(second, second + channels, 0.0);
    for (int64_t row = begin; row < end; row += TOGETHER) {
        const int64_t count = std::min(TOGETHER, end - row);
        over_channels(channels, [&](int64_t c, int64_t lanes) __attribute__((always_inline)) {
            Floats one = {}, other = {};
            if (count == TOGETHER)
                for (int64_t each = 0; each < TOGETHER; ++each) term(row + each, c, lanes, one, other);
            else
                for (int64_t each = 0; each < count; ++each) term(row + each, c, lanes, one, other);
            write(read<Doubles>(first + c, lanes) + __builtin_convertvector(one, Doubles), first + c, lanes);
            write(read<Doubles>(second + c, lanes) + __builtin_convertvector(other, Doubles), second + c, lanes);
        });
    }
}

// mean and biased variance of each channel; partial is room for [chunks, 2, channels]
template <typename T>
void statistics(int64_t rows, int64_t channels, const T* x, double* partial, float* mean, float* variance) {
    over_chunks(rows, [&](int64_t chunk, int64_t begin, int64_t end) {
        const T* const around = x + begin * channels;
        double* const sums = partial + chunk * 2 * channels;
        two_sums(begin, end, channels, sums, sums + channels,
                 [&](int64_t row, int64_t c, int64_t lanes, Floats& sum, Floats& squares)
                     __attribute__((always_inline)) {
                         const Floats away = load(x + row * channels + c, lanes) - load(around + c, lanes);
                         sum += away;
                         squares += away * away;
                     });
    });
    const int64_t chunks = ceil_div(rows, CHUNK);
    std::vector<float> around(chunks * channels);
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
        over_channels(channels, [&](int64_t c, int64_t lanes) {
            store(load(x + chunk * CHUNK * channels + c, lanes), around.data() + chunk * channels + c, lanes);
        });
    std::vector<double> total(channels), spread(channels);
    const auto over_sums = [&](const auto& body) {
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            const double count = double(std::min(CHUNK, rows - chunk * CHUNK));
            const double* const sums = partial + chunk * 2 * channels;
            for (int64_t c = 0; c < channels; ++c) {
                const double away = sums[c] / count, own = around[chunk * channels + c] + away;
                body(c, count, own, sums[channels + c] - away * sums[c]);
            }
        }
    };
    over_sums([&](int64_t c, double count, double own, double) { total[c] += count * own; });
    over_sums([&](int64_t c, double count, double own, double squares) {
        const double away = own - total[c] / double(rows);
        spread[c] += squares + count * away * away;
    });
    for (int64_t c = 0; c < channels; ++c) {
        mean[c] = float(total[c] / double(rows));
        variance[c] = float(std::max(0.0, spread[c] / double(rows)));
    }
}

// y = activation(x * scale + offset)
template <typename T, class Activation>
void normalise(int64_t rows, int64_t channels, const T* x, const float* scale, const float* offset, T* y) {
    over_chunks(rows, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
            over_channels(channels, [&](int64_t c, int64_t lanes) __attribute__((always_inline)) {
                const Floats z = load(x + row * channels + c, lanes) * load(scale + c, lanes) + load(offset + c, lanes);
                store(Activation::value(z), y + row * channels + c, lanes);
            });
    });
}

// What backward needs of the forward pass: z = x * scale + offset is computed again.
struct Forward {
    const float *scale, *offset, *mean;
};

// to_offset = sum of slopes, to_scale = sum of slopes * (x - mean), where slopes are the gradient before the activation
template <typename T, class Activation>
void gradient_sums(int64_t rows, int64_t channels, const T* x, const T* gradient, const Forward& forward, double* partial,
                   float* to_offset, float* to_scale) {
    over_chunks(rows, [&](int64_t chunk, int64_t begin, int64_t end) {
        double* const sums = partial + chunk * 2 * channels;
        two_sums(begin, end, channels, sums, sums + channels,
                 [&](int64_t row, int64_t c, int64_t lanes, Floats& sum, Floats& products)
                     __attribute__((always_inline)) {
                         const int64_t at = row * channels + c;
                         const Floats value = load(x + at, lanes);
                         const Floats z = value * load(forward.scale + c, lanes) + load(forward.offset + c, lanes);
                         const Floats slope = Activation::slope(z, load(gradient + at, lanes));
                         sum += slope;
                         products += slope * (value - load(forward.mean + c, lanes));
                     });
    });
    std::vector<double> total(2 * channels);
    for (int64_t chunk = 0; chunk * CHUNK < rows; ++chunk)
        for (int64_t i = 0; i < 2 * channels; ++i) total[i] += partial[chunk * 2 * channels + i];
    std::copy(total.begin(), total.begin() + channels, to_offset);
    std::copy(total.begin() + channels, total.end(), to_scale);
}

// to_x = slope * scale + (x - mean) * by_value + constant
template <typename T, class Activation>
void gradient_of_x(int64_t rows, int64_t channels, const T* x, const T* gradient, const Forward& forward,
                   const float* by_value, const float* constant, T* to_x) {
    over_chunks(rows, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
            over_channels(channels, [&](int64_t c, int64_t lanes) __attribute__((always_inline)) {
                const int64_t at = row * channels + c;
                const Floats value = load(x + at, lanes), scale = load(forward.scale + c, lanes);
                const Floats z = value * scale + load(forward.offset + c, lanes);
                const Floats slope = Activation::slope(z, load(gradient + at, lanes));
                const Floats rest = (value - load(forward.mean + c, lanes)) * load(by_value + c, lanes);
                store(slope * scale + rest + load(constant + c, lanes), to_x + at, lanes);
            });
    });
}

// body(T{}, Activation{}) for the number format and the activation by number
template <class Body>
int chosen(int half, int activation, const Body& body) {
    return in_format(half, [&](auto number) {
        switch (activation) {
            case 0: return body(number, Identity{}), 0;
            case 1: return body(number, Relu{}), 0;
            case 2: return body(number, Relu6{}), 0;
            case 3: return body(number, HardSwish{}), 0;
            default: return 1;
        }
    });
}

}  // namespace

// Rows of a chunk: every `partial` is room for two sums a channel and chunk.
extern "C" int64_t deeplab_norm_chunk() { return CHUNK; }

extern "C" void deeplab_norm_statistics(int64_t rows, int64_t channels, int half, const void* x, double* partial,
                                        float* mean, float* variance) {
    in_format(half, [&](auto number) {
        statistics(rows, channels, static_cast<const decltype(number)*>(x), partial, mean, variance);
    });
}

// Those below return 0, or 1 for an activation that is not compiled.
extern "C" int deeplab_norm_act(int64_t rows, int64_t channels, int half, int activation, const void* x,
                                const float* scale, const float* offset, void* y) {
    return chosen(half, activation, [&](auto number, auto form) {
        using T = decltype(number);
        normalise<T, decltype(form)>(rows, channels, static_cast<const T*>(x), scale, offset, static_cast<T*>(y));
    });
}

extern "C" int deeplab_norm_act_sums(int64_t rows, int64_t channels, int half, int activation, const void* x,
                                     const void* gradient, const float* scale, const float* offset, const float* mean,
                                     double* partial, float* to_offset, float* to_scale) {
    return chosen(half, activation, [&](auto number, auto form) {
        using T = decltype(number);
        gradient_sums<T, decltype(form)>(rows, channels, static_cast<const T*>(x), static_cast<const T*>(gradient),
                                         {scale, offset, mean}, partial, to_offset, to_scale);
    });
}

extern "C" int deeplab_norm_act_back(int64_t rows, int64_t channels, int half, int activation, const void* x,
                                     const void* gradient, const float* scale, const float* offset, const float* mean,
                                     const float* by_value, const float* constant, void* to_x) {
    return chosen(half, activation, [&](auto number, auto form) {
        using T = decltype(number);
        gradient_of_x<T, decltype(form)>(rows, channels, static_cast<const T*>(x), static_cast<const T*>(gradient),
                                         {scale, offset, mean}, by_value, constant, static_cast<T*>(to_x));
    });
}
