// Mean field of a fully connected CRF with Potts compatibility, on permutohedral lattices.
//
// Sources: Adams, Baek, Davis, "Fast high-dimensional filtering using the permutohedral lattice" (2010);
// Kraehenbuehl and Koltun, "Efficient inference in fully connected CRFs" (2011). lattice.py and torch_engine.py
// say the same in torch; this file differs in how it walks memory:
//
// * the classes of a lattice point lie together, so that every step works on whole vectors;
// * splatting gathers (each lattice point lists its pixels), so threads never write to the same place;
// * blurring goes along chains of neighbours in place: every row is read and written once, and points without a
//   neighbour, which are most of them where colours are finely told apart, cost nothing;
// * normalisation and the weight of a term are folded into the interpolation weights;
// * pixels are worked on tile by tile (terms.py), so that what they share is still in the cache;
// * slicing all terms and the softmax are one pass over the pixels.
//
// Sums run in an order that the data alone fixes: the result does not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "buffer.hpp"
#include "lattice.hpp"
#include "team.hpp"

namespace {

constexpr int LANES = 8;
constexpr int WIDEST = 4;  // vectors kept in registers at once
constexpr float NO_CLASS = -1e30f;

typedef float Vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef float Half __attribute__((vector_size(LANES * 2)));
typedef int32_t VecInt __attribute__((vector_size(LANES * 4)));

// ---- filtering: a block of V vectors of classes at a time ---------------------------------------------------

// sum[v] += weight[k] * values[row[k]], for `count` rows
template <int V>
inline void gather(const float* weight, const int32_t* row, int64_t count, const float* values, int64_t stride,
                   Vec* sum) {
    for (int64_t k = 0; k < count; ++k) {
        const Vec* from = reinterpret_cast<const Vec*>(values + row[k] * stride);
        for (int v = 0; v < V; ++v) sum[v] += weight[k] * from[v];
    }
}

template <int V>
void splat(const Lattice& lattice, const float* pixels, float* values, int64_t stride, Team& team) {
    team.run(lattice.points, 1024, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p) {
            Vec sum[V] = {};
            const int64_t from = lattice.start[p];
            gather<V>(lattice.splat_weight.at(from), lattice.splat_pixel.at(from), lattice.start[p + 1] - from, pixels,
                      stride, sum);
            Vec* to = reinterpret_cast<Vec*>(values + p * stride);
            for (int v = 0; v < V; ++v) to[v] = sum[v];
        }
    });
}

template <int V>
void blur_part(const uint32_t* chain, int64_t begin, int64_t end, float* values, int64_t stride) {
    const auto row = [&](int64_t e) { return reinterpret_cast<Vec*>(values + int64_t(chain[e] & ~FIRST) * stride); };
    Vec previous[V] = {}, current[V] = {};
    for (int64_t e = begin; e < end; ++e) {
        if (e + 12 < end) __builtin_prefetch(row(e + 12), 1);
        Vec* here = row(e);
        if (chain[e] & FIRST)
            for (int v = 0; v < V; ++v) previous[v] = Vec{}, current[v] = here[v];
        const bool last = e + 1 == end || (chain[e + 1] & FIRST);
        const Vec* there = row(last ? e : e + 1);
        for (int v = 0; v < V; ++v) {
            const Vec next = last ? Vec{} : there[v];
            here[v] = current[v] + 0.5f * (previous[v] + next);
            previous[v] = current[v];
            current[v] = next;
        }
    }
}

template <int V>
void blur(const Lattice& lattice, float* values, int64_t stride, Team& team) {
    for (const Axis& axis : lattice.axes) {
        const int64_t parts = int64_t(axis.part.size()) - 1;
        team.run(parts, 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                blur_part<V>(axis.chain.data(), axis.part[i], axis.part[i + 1], values, stride);
            }
        });
    }
}

template <int V>
void splat_and_blur(Lattice& lattice, const float* pixels, int64_t column, int64_t stride, Team& team) {
    float* values = lattice.values.at(column);
    splat<V>(lattice, pixels + column, values, stride, team);
    blur<V>(lattice, values, stride, team);
}

// to = from + the messages of all terms, for one pixel
template <int V>
void slice(const std::vector<Lattice>& lattices, int64_t pixel, const float* from, int64_t column, int64_t stride,
           float* to) {
    Vec sum[V];
    std::memcpy(sum, from + column, sizeof sum);
    for (const Lattice& lattice : lattices) {
        const int64_t first = pixel * lattice.corners;
        gather<V>(lattice.weight.at(first), lattice.point.at(first), lattice.corners, lattice.values.at(column), stride,
                  sum);
    }
    std::memcpy(to + column, sum, sizeof sum);
}

// Calls action.run<V>(column) for blocks that cover `stride` floats.
template <typename Action>
inline void by_blocks(int64_t stride, const Action& action) {
    for (int64_t column = 0; column < stride; column += WIDEST * LANES) {
        switch (std::min<int64_t>(WIDEST, (stride - column) / LANES)) {
            case 1: action.template run<1>(column); break;
            case 2: action.template run<2>(column); break;
            case 3: action.template run<3>(column); break;
            default: action.template run<4>(column);
        }
    }
}

struct Filter {
    Lattice& lattice;
    const float* pixels;
    int64_t stride;
    Team& team;
    template <int V>
    void run(int64_t column) const { splat_and_blur<V>(lattice, pixels, column, stride, team); }
};

struct Slice {
    const std::vector<Lattice>& lattices;
    int64_t pixel;
    const float* from;
    int64_t stride;
    float* to;
    template <int V>
    void run(int64_t column) const { slice<V>(lattices, pixel, from, column, stride, to); }
};

// Symmetric normalisation and the term's weight go into the interpolation weights of both directions.
void normalise(Lattice& lattice, float term_weight, Team& team) {
    Buffer<float> scale, values;
    values.allocate(lattice.points * LANES);
    team.run(lattice.points, 8192, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p) {
            float sum = 0;
            for (int64_t e = lattice.start[p]; e < lattice.start[p + 1]; ++e) sum += lattice.splat_weight[e];
            std::fill(values.at(p * LANES), values.at((p + 1) * LANES), sum);
        }
    });
    blur<1>(lattice, values.at(0), LANES, team);
    scale.allocate(lattice.pixels);
    team.run(lattice.pixels, 8192, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            float reach = 0;
            for (int64_t e = i * lattice.corners; e < (i + 1) * lattice.corners; ++e)
                reach += lattice.weight[e] * values[int64_t(lattice.point[e]) * LANES];
            scale[i] = 1.0f / std::sqrt(reach + 1e-20f);
            for (int64_t e = i * lattice.corners; e < (i + 1) * lattice.corners; ++e)
                lattice.weight[e] *= term_weight * scale[i];
        }
    });
    const int64_t total = lattice.pixels * lattice.corners;
    team.run(total, 8192, [&](int64_t begin, int64_t end) {
        for (int64_t e = begin; e < end; ++e) {
            lattice.splat_weight[e] *= scale[lattice.splat_pixel[e]];
        }
    });
}

// ---- softmax ------------------------------------------------------------------------------------------------

// exp of values <= 0: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2], relative error below 2e-7
inline Vec exp_of_negative(Vec x) {
    const Vec lowest = Vec{} - 87.0f;
    x = x < lowest ? lowest : x;
    const Vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    const Vec f = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vec p = f * (1.0f / 5040) + 1.0f / 720;
    for (const float c : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = p * f + c;
    const VecInt power = (__builtin_convertvector(n, VecInt) + 127) << 23;
    Vec two_to_n;
    std::memcpy(&two_to_n, &power, sizeof power);
    return p * two_to_n;
}

inline Half larger(Half a, Half b) { return a > b ? a : b; }

template <int V>
void softmax(float* row) {
    Vec vectors[V];
    std::memcpy(vectors, row, sizeof vectors);
    Vec largest = vectors[0], sums = {};
    for (int v = 1; v < V; ++v) largest = vectors[v] > largest ? vectors[v] : largest;
    Half halves[2];
    std::memcpy(halves, &largest, sizeof largest);
    const Half four = larger(halves[0], halves[1]);
    const float top = std::max(std::max(four[0], four[1]), std::max(four[2], four[3]));
    for (int v = 0; v < V; ++v) sums += vectors[v] = exp_of_negative(vectors[v] - top);
    std::memcpy(halves, &sums, sizeof sums);
    const Half rest = halves[0] + halves[1];
    const float share = 1 / ((rest[0] + rest[1]) + (rest[2] + rest[3]));
    for (int v = 0; v < V; ++v) vectors[v] *= share;
    std::memcpy(row, vectors, sizeof vectors);
}

void softmax_of_any(float* row, int64_t stride) {
    const float top = *std::max_element(row, row + stride);
    float sum = 0;
    for (int64_t c = 0; c < stride; c += LANES) {
        Vec values;
        std::memcpy(&values, row + c, sizeof values);
        values = exp_of_negative(values - top);
        std::memcpy(row + c, &values, sizeof values);
        for (int lane = 0; lane < LANES; ++lane) sum += values[lane];
    }
    for (int64_t c = 0; c < stride; ++c) row[c] /= sum;
}

void softmax(float* row, int64_t stride) {
    switch (stride / LANES) {
        case 1: return softmax<1>(row);
        case 2: return softmax<2>(row);
        case 3: return softmax<3>(row);
        case 4: return softmax<4>(row);
        default: softmax_of_any(row, stride);
    }
}

// ---- mean field ---------------------------------------------------------------------------------------------

struct MeanField {
    int64_t pixels, classes, stride;
    const int32_t* order;
    Team& team;
    std::vector<Lattice> lattices;
    Buffer<float> scores, marginals;  // [pixels, stride]

    void read_energies(const float* energies) {
        scores.allocate(pixels * stride);
        team.run(pixels, 8192, [&](int64_t begin, int64_t end) {
            for (int64_t block = begin; block < end; block += 64) {
                const int64_t stop = std::min(block + 64, pixels);
                for (int64_t c = 0; c < stride; ++c)
                    for (int64_t i = block; i < stop; ++i)
                        scores[i * stride + c] = c < classes ? -energies[c * pixels + order[i]] : NO_CLASS;
            }
        });
    }
    void update(bool with_messages) {
        team.run(pixels, 512, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const float* from = scores.at(i * stride);
                float* to = marginals.at(i * stride);
                if (with_messages) by_blocks(stride, Slice{lattices, i, from, stride, to});
                else std::memcpy(to, from, sizeof(float) * stride);
                softmax(to, stride);
                std::fill(to + classes, to + stride, 0.0f);
            }
        });
    }
    void iterate() {
        for (Lattice& lattice : lattices) by_blocks(stride, Filter{lattice, marginals.at(0), stride, team});
        update(true);
    }
    void write_marginals(float* out) const {
        team.run(pixels, 8192, [&](int64_t begin, int64_t end) {
            for (int64_t block = begin; block < end; block += 64) {
                const int64_t stop = std::min(block + 64, pixels);
                for (int64_t c = 0; c < classes; ++c)
                    for (int64_t i = block; i < stop; ++i) out[c * pixels + order[i]] = marginals[i * stride + c];
            }
        });
    }
};

}  // namespace

// energies, out: [classes, pixels]; order: [pixels], in which pixels are worked on; features[t]: [pixels,
// dimensions[t]] in that order, already divided by the standard deviations; multiplier: of keys, at least as many as
// the largest number of dimensions.
// Returns 0, or 1 when memory does not suffice.
extern "C" int deeplab_crf_mean_field(int64_t pixels, int64_t classes, const float* energies,
                                      const int32_t* order, int terms,
                                      const int* dimensions, const double* const* features, const float* weights,
                                      const uint64_t* multiplier, int iterations, int threads, float* out) {
    try {
        Team team(threads);
        const int64_t stride = (classes + LANES - 1) / LANES * LANES;
        MeanField field{pixels, classes, stride, order, team, std::vector<Lattice>(terms), {}, {}};
        for (int t = 0; t < terms; ++t) {
            std::vector<uint64_t> own(multiplier, multiplier + dimensions[t]);
            own.resize(dimensions[t] + 2, 0);
            Lattice& lattice = field.lattices[t];
            build(lattice, pixels, dimensions[t], features[t], own.data(), team);
            normalise(lattice, weights[t], team);
            lattice.values.allocate(lattice.points * stride);
        }
        field.read_energies(energies);
        field.marginals.allocate(pixels * stride);
        field.update(false);
        for (int i = 0; i < iterations; ++i) field.iterate();
        field.write_marginals(out);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}
