// A permutohedral lattice around given feature vectors: its points, interpolation weights and neighbours.
//
// Source: Adams, Baek, Davis, "Fast high-dimensional filtering using the permutohedral lattice" (2010), sections
// 3.1 and 3.2. lattice.py builds the same in torch.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "team.hpp"

namespace {

constexpr int MOST = 64;               // dimensions of a feature vector
constexpr uint32_t FIRST = 0x80000000u;  // marks the first point of a chain
constexpr int64_t CHAIN_PART = 2048;   // points that a thread takes at a time, about

template <typename T>
struct Buffer {  // memory that nobody clears first
    std::unique_ptr<T[]> data;
    void allocate(int64_t size) { data.reset(new T[size]); }
    T& operator[](int64_t i) { return data[i]; }
    const T& operator[](int64_t i) const { return data[i]; }
    T* at(int64_t i) { return data.get() + i; }
    const T* at(int64_t i) const { return data.get() + i; }
};

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
    std::vector<Slot> slots;
    std::vector<uint64_t> keys;
    int shift;

    explicit Table(int64_t expected) {
        int bits = 10;
        while ((int64_t(1) << bits) < 2 * expected) ++bits;
        resize(bits);
    }
    void resize(int bits) {
        shift = 64 - bits;
        slots.assign(size_t(1) << bits, Slot{0, NONE});
        for (size_t i = 0; i < keys.size(); ++i) *find(keys[i]) = Slot{keys[i], int32_t(i)};
    }
    uint64_t home(uint64_t key) const { return (key * 0x9E3779B97F4A7C15ull) >> shift; }
    Slot* find(uint64_t key) {
        const uint64_t mask = slots.size() - 1;
        uint64_t i = home(key);
        while (slots[i].point != NONE && slots[i].key != key) i = (i + 1) & mask;
        return &slots[i];
    }
    void prefetch(uint64_t key) const { __builtin_prefetch(&slots[home(key)]); }
    int32_t insert(uint64_t key) {
        Slot* slot = find(key);
        if (slot->point != NONE) return slot->point;
        const int32_t point = int32_t(keys.size());
        *slot = Slot{key, point};
        keys.push_back(key);
        if (2 * keys.size() > slots.size()) resize(64 - shift + 1);
        return point;
    }
};

// Writes the keys and barycentric weights of the d + 1 corners of the simplex around one feature vector.
template <int D>
void enclosing_simplex(const float* feature, const float* scale, const uint64_t* multiplier, int dimensions,
                       float* elevated, float* rest, int* rank, float* weight, uint64_t* key) {
    const int d = D ? D : dimensions;
    float sum = 0;
    for (int j = d; j > 0; --j) {
        const float c = feature[j - 1] * scale[j - 1];
        elevated[j] = sum - j * c;
        sum += c;
    }
    elevated[0] = sum;
    int excess = 0;
    for (int i = 0; i <= d; ++i) {
        const float nearest = std::nearbyint(elevated[i] / (d + 1));
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
        rest[i] += float(turn * (d + 1));
        const float share = (elevated[i] - rest[i]) / (d + 1);
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

template <int D>
void all_simplices(Lattice& lattice, const float* features, const float* scale, const uint64_t* multiplier,
                   uint64_t* keys, Team& team) {
    const int d = D ? D : lattice.corners - 1;
    team.run(lattice.pixels, 8192, [&](int64_t begin, int64_t end) {
        constexpr int SIZE = D ? D + 1 : MOST + 1;
        float elevated[SIZE], rest[SIZE], weight[SIZE + 1];
        int rank[SIZE];
        for (int64_t i = begin; i < end; ++i) {
            enclosing_simplex<D>(features + i * d, scale, multiplier, d, elevated, rest, rank, weight,
                                 keys + i * (d + 1));
            std::memcpy(lattice.weight.at(i * (d + 1)), weight, sizeof(float) * (d + 1));
        }
    });
}

void number_points(Lattice& lattice, const uint64_t* keys, Table& table) {
    const int64_t corners = lattice.corners, total = lattice.pixels * corners, ahead = 16 * corners;
    for (int64_t e = 0; e < total; ++e) {
        if (e + ahead < total) table.prefetch(keys[e + ahead]);
        const bool as_before = e >= corners && keys[e] == keys[e - corners];
        lattice.point[e] = as_before ? lattice.point[e - corners] : table.insert(keys[e]);
    }
    lattice.points = int64_t(table.keys.size());
}

void list_pixels(Lattice& lattice) {
    const int64_t total = lattice.pixels * lattice.corners;
    lattice.start.allocate(lattice.points + 1);
    std::fill(lattice.start.at(0), lattice.start.at(lattice.points + 1), 0);
    for (int64_t e = 0; e < total; ++e) ++lattice.start[lattice.point[e] + 1];
    for (int64_t p = 0; p < lattice.points; ++p) lattice.start[p + 1] += lattice.start[p];
    Buffer<int64_t> next;
    next.allocate(lattice.points);
    std::copy(lattice.start.at(0), lattice.start.at(lattice.points), next.at(0));
    lattice.splat_pixel.allocate(total);
    lattice.splat_weight.allocate(total);
    for (int64_t i = 0, e = 0; i < lattice.pixels; ++i)
        for (int k = 0; k < lattice.corners; ++k, ++e) {
            const int64_t place = next[lattice.point[e]]++;
            lattice.splat_pixel[place] = int32_t(i);
            lattice.splat_weight[place] = lattice.weight[e];
        }
}

// A step along axis j adds d to coordinate j and takes 1 from all others: a constant added to the key.
Axis follow_axis(Table& table, uint64_t step) {
    const int64_t points = int64_t(table.keys.size()), ahead = 16;
    std::vector<int32_t> next(points);
    std::vector<uint8_t> has_previous(points, 0);
    for (int64_t p = 0; p < points; ++p) {
        if (p + ahead < points) table.prefetch(table.keys[p + ahead] + step);
        next[p] = table.find(table.keys[p] + step)->point;
        if (next[p] != Table::NONE) has_previous[next[p]] = 1;
    }
    Axis axis;
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

void build(Lattice& lattice, int64_t pixels, int d, const float* features, const uint64_t* multiplier,
           Team& team) {
    lattice.pixels = pixels;
    lattice.corners = d + 1;
    lattice.point.allocate(pixels * (d + 1));
    lattice.weight.allocate(pixels * (d + 1));
    // the blur has standard deviation 1 in feature units after this scaling (Adams et al., section 3.1)
    std::vector<float> scale(d);
    for (int i = 0; i < d; ++i) scale[i] = float((d + 1) * std::sqrt(2.0 / 3.0) / std::sqrt((i + 1.0) * (i + 2.0)));
    Buffer<uint64_t> keys;
    keys.allocate(pixels * (d + 1));
    if (d == 5) all_simplices<5>(lattice, features, scale.data(), multiplier, keys.at(0), team);
    else if (d == 2) all_simplices<2>(lattice, features, scale.data(), multiplier, keys.at(0), team);
    else all_simplices<0>(lattice, features, scale.data(), multiplier, keys.at(0), team);
    Table table(pixels / 2);
    number_points(lattice, keys.at(0), table);
    lattice.axes.resize(d + 1);
    uint64_t all = 0;
    for (int i = 0; i <= d; ++i) all += multiplier[i];
    team.run(d + 2, 1, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) {
            if (task == 0) list_pixels(lattice);
            else lattice.axes[task - 1] = follow_axis(table, uint64_t(d + 1) * multiplier[task - 1] - all);
        }
    });
}

}  // namespace
