// A permutohedral lattice around given feature vectors: its points, interpolation weights and neighbours.
//
// Source: Adams, Baek, Davis, "Fast high-dimensional filtering using the permutohedral lattice" (2010), sections
// 3.1 and 3.2. lattice.py builds the same in torch.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "buffer.hpp"
#include "team.hpp"

namespace {

constexpr int MOST = 64;               // dimensions of a feature vector
constexpr uint32_t FIRST = 0x80000000u;  // marks the first point of a chain
constexpr int64_t CHAIN_PART = 2048;   // points that a thread takes at a time, about
constexpr int64_t CHUNK = 4096;        // pixels whose points a thread numbers at a time

struct Axis {
    std::vector<uint32_t> chain;   // points in the order of their chains, chains of one left out
    std::vector<int64_t> part;     // where a thread may start: always the first point of a chain
};

struct Lattice {
    int corners = 0;
    int64_t pixels = 0, points = 0;
    Buffer<int32_t> point;         // [pixels, corners]
    Buffer<float> weight;          // [pixels, corners]
    Buffer<int64_t> start;         // [points + 1] into the two below
    Buffer<int32_t> splat_pixel;   // [pixels * corners]
    Buffer<float> splat_weight;
    std::vector<Axis> axes;
    Buffer<float> values;          // [points, stride]
};

struct Table {  // open addressing from key to point, in the order of first sight
    static constexpr int32_t NONE = -1;
    struct Slot { uint64_t key; int32_t point; };
    Buffer<Slot> slots;
    std::vector<uint64_t> keys;
    uint64_t mask = 0;
    int shift = 0;

    explicit Table(int64_t expected) {
        int bits = 10;
        while ((int64_t(1) << bits) < 2 * expected) ++bits;
        resize(bits);
    }
    void resize(int bits) {
        shift = 64 - bits;
        mask = (uint64_t(1) << bits) - 1;
        slots.allocate(int64_t(1) << bits);
        std::fill(slots.at(0), slots.at(int64_t(1) << bits), Slot{0, NONE});
        for (size_t i = 0; i < keys.size(); ++i) *find(keys[i]) = Slot{keys[i], int32_t(i)};
    }
    uint64_t home(uint64_t key) const { return (key * 0x9E3779B97F4A7C15ull) >> shift; }
    Slot* find(uint64_t key) {
        uint64_t i = home(key);
        while (slots[i].point != NONE && slots[i].key != key) i = (i + 1) & mask;
        return slots.at(i);
    }
    void prefetch(uint64_t key) const { __builtin_prefetch(slots.at(home(key))); }
    int32_t insert(uint64_t key) {
        Slot* slot = find(key);
        if (slot->point != NONE) return slot->point;
        const int32_t point = int32_t(keys.size());
        *slot = Slot{key, point};
        keys.push_back(key);
        if (2 * keys.size() > mask) resize(64 - shift + 1);
        return point;
    }
};

// Writes the keys and barycentric weights of the d + 1 corners of the simplex around one feature vector. In double:
// weights are what is left of coordinates that grow with the photo, and rounding them moves pixels between simplices.
template <int D>
void enclosing_simplex(const double* feature, const double* scale, const uint64_t* multiplier, int dimensions,
                       double* elevated, double* rest, int* rank, double* weight, uint64_t* key) {
    const int d = D ? D : dimensions;
    double sum = 0;
    for (int j = d; j > 0; --j) {
        const double c = feature[j - 1] * scale[j - 1];
        elevated[j] = sum - j * c;
        sum += c;
    }
    elevated[0] = sum;
    int excess = 0;
    for (int i = 0; i <= d; ++i) {
        const double nearest = std::nearbyint(elevated[i] / (d + 1));
        excess += int(nearest);
        rest[i] = nearest * (d + 1);
        rank[i] = 0;
    }
    for (int i = 0; i < d; ++i)
        for (int j = i + 1; j <= d; ++j) {
            const bool less = elevated[i] - rest[i] < elevated[j] - rest[j];
            rank[i] += less;
            rank[j] += !less;
        }
    uint64_t step[D ? D + 1 : MOST + 1];
    uint64_t origin = 0, all = 0;
    for (int i = 0; i <= d + 1; ++i) weight[i] = 0;
    for (int i = 0; i <= d; ++i) {
        const int moved = rank[i] + excess;
        const int turn = moved < 0 ? 1 : moved > d ? -1 : 0;
        const int place = moved + turn * (d + 1);
        rest[i] += turn * (d + 1);
        const double share = (elevated[i] - rest[i]) / (d + 1);
        weight[d - place] += share;
        weight[d - place + 1] -= share;
        step[place] = multiplier[i];
        origin += multiplier[i] * uint64_t(int64_t(rest[i]));
        all += multiplier[i];
    }
    weight[0] += 1 + weight[d + 1];
    key[0] = origin;
    for (int k = 1; k <= d; ++k) key[k] = key[k - 1] + all - uint64_t(d + 1) * step[d + 1 - k];
}

// The lattice points around some pixels: numbered among themselves first, so that threads do it at the same time and
// in a table that fits the cache.
struct Chunk {
    std::vector<uint64_t> keys;    // by own number
    std::vector<int32_t> count;    // of corners at each point
    std::vector<int32_t> point;    // number in the lattice
    std::vector<int64_t> place;    // of the point's next corner in the lattice's list
};

template <int D>
Chunk number_corners(Lattice& lattice, const double* features, const double* scale, const uint64_t* multiplier,
                     int64_t begin, int64_t end) {
    constexpr int SIZE = D ? D + 1 : MOST + 1;
    const int d = D ? D : lattice.corners - 1;
    double elevated[SIZE], rest[SIZE], weight[SIZE + 1];
    int rank[SIZE];
    uint64_t key[SIZE], before[SIZE] = {};
    Chunk chunk;
    Table table(end - begin);
    for (int64_t i = begin; i < end; ++i) {
        enclosing_simplex<D>(features + i * d, scale, multiplier, d, elevated, rest, rank, weight, key);
        std::copy(weight, weight + d + 1, lattice.weight.at(i * (d + 1)));
        int32_t* point = lattice.point.at(i * (d + 1));
        for (int k = 0; k <= d; ++k) {
            point[k] = i > begin && key[k] == before[k] ? point[k - d - 1] : table.insert(key[k]);
            before[k] = key[k];
        }
    }
    chunk.count.assign(table.keys.size(), 0);
    for (int64_t e = begin * (d + 1); e < end * (d + 1); ++e) ++chunk.count[lattice.point[e]];
    chunk.keys = std::move(table.keys);
    return chunk;
}

// Gives all points their numbers, in the order of first sight, and lays out the list of each point's corners.
Table merge(Lattice& lattice, std::vector<Chunk>& chunks) {
    int64_t most = 0;
    for (const Chunk& chunk : chunks) most += int64_t(chunk.keys.size());
    Table table(most);
    table.keys.reserve(most);
    std::vector<int64_t> corners;
    corners.reserve(most);
    for (Chunk& chunk : chunks) {
        const size_t own = chunk.keys.size(), ahead = 16;
        chunk.point.resize(own);
        chunk.place.resize(own);
        for (size_t p = 0; p < own; ++p) {
            if (p + ahead < own) table.prefetch(chunk.keys[p + ahead]);
            const int32_t point = table.insert(chunk.keys[p]);
            if (size_t(point) == corners.size()) corners.push_back(0);
            chunk.point[p] = point;
            chunk.place[p] = corners[point];
            corners[point] += chunk.count[p];
        }
    }
    lattice.points = int64_t(corners.size());
    lattice.start.allocate(lattice.points + 1);
    lattice.start[0] = 0;
    for (int64_t p = 0; p < lattice.points; ++p) lattice.start[p + 1] = lattice.start[p] + corners[p];
    return table;
}

// From own numbers to the lattice's, and each corner into the list of its point.
void list_corners(Lattice& lattice, Chunk& chunk, int64_t begin, int64_t end) {
    for (size_t p = 0; p < chunk.point.size(); ++p) chunk.place[p] += lattice.start[chunk.point[p]];
    for (int64_t i = begin; i < end; ++i)
        for (int64_t e = i * lattice.corners; e < (i + 1) * lattice.corners; ++e) {
            const int32_t own = lattice.point[e];
            const int64_t place = chunk.place[own]++;
            lattice.splat_pixel[place] = int32_t(i);
            lattice.splat_weight[place] = lattice.weight[e];
            lattice.point[e] = chunk.point[own];
        }
}

Axis chains(const std::vector<int32_t>& next) {
    const int64_t points = int64_t(next.size());
    std::vector<uint8_t> has_previous(points, 0);
    for (const int32_t p : next)
        if (p != Table::NONE) has_previous[p] = 1;
    Axis axis;
    axis.chain.reserve(points);
    for (int64_t p = 0; p < points; ++p) {
        if (has_previous[p] || next[p] == Table::NONE) continue;
        const int64_t size = int64_t(axis.chain.size());
        if (axis.part.empty() || size - axis.part.back() >= CHAIN_PART) axis.part.push_back(size);
        axis.chain.push_back(uint32_t(p) | FIRST);
        for (int32_t q = next[p]; q != Table::NONE; q = next[q]) axis.chain.push_back(uint32_t(q));
    }
    axis.part.push_back(int64_t(axis.chain.size()));
    return axis;
}

// A step along axis j adds d to coordinate j and takes 1 from all others: a constant added to the key.
void follow_axes(Lattice& lattice, Table& table, const uint64_t* multiplier, Team& team) {
    const int d = lattice.corners - 1;
    uint64_t all = 0;
    for (int i = 0; i <= d; ++i) all += multiplier[i];
    lattice.axes.resize(d + 1);
    std::vector<std::vector<int32_t>> next(d + 1, std::vector<int32_t>(lattice.points));
    team.run(lattice.points, 8192, [&](int64_t begin, int64_t end) {
        const int64_t ahead = 16;
        for (int j = 0; j <= d; ++j) {
            const uint64_t step = uint64_t(d + 1) * multiplier[j] - all;
            for (int64_t p = begin; p < end; ++p) {
                if (p + ahead < end) table.prefetch(table.keys[p + ahead] + step);
                next[j][p] = table.find(table.keys[p] + step)->point;
            }
        }
    });
    team.run(d + 1, 1, [&](int64_t j, int64_t) { lattice.axes[j] = chains(next[j]); });
}

void build(Lattice& lattice, int64_t pixels, int d, const double* features, const uint64_t* multiplier, Team& team) {
    lattice.pixels = pixels;
    lattice.corners = d + 1;
    lattice.point.allocate(pixels * (d + 1));
    lattice.weight.allocate(pixels * (d + 1));
    lattice.splat_pixel.allocate(pixels * (d + 1));
    lattice.splat_weight.allocate(pixels * (d + 1));
    // the blur has standard deviation 1 in feature units after this scaling (Adams et al., section 3.1)
    std::vector<double> scale(d);
    for (int i = 0; i < d; ++i) scale[i] = (d + 1) * std::sqrt(2.0 / 3.0) / std::sqrt((i + 1.0) * (i + 2.0));
    const auto number = d == 5 ? number_corners<5> : d == 2 ? number_corners<2> : number_corners<0>;
    std::vector<Chunk> chunks((pixels + CHUNK - 1) / CHUNK);
    team.run(pixels, CHUNK, [&](int64_t begin, int64_t end) {
        chunks[begin / CHUNK] = number(lattice, features, scale.data(), multiplier, begin, end);
    });
    Table table = merge(lattice, chunks);
    team.run(pixels, CHUNK, [&](int64_t begin, int64_t end) {
        list_corners(lattice, chunks[begin / CHUNK], begin, end);
    });
    follow_axes(lattice, table, multiplier, team);
}

}  // namespace
