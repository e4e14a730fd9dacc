// Softmax cross-entropy of bilinearly upsampled logits, and its gradient, without the upsampled logits.
//
// The plain version is in deeplab/train/losses/cross_entropy.py. A cell is what lies between four neighbouring source pixels; here a
// vector holds one pixel each of neighbouring cells, so that
//
// * source pixels, their interpolation and its transpose are whole vectors, whatever the factor of the upsampling;
// * maxima and sums over classes need no shuffling;
// * what belongs to a row of cells stays in the cache until the next one.
//
// Hard-pixel mining keeps one loss a pixel, finds the smallest that counts, and computes the gradient of the pixels that
// count in a second walk.
//
// Threads share out chunks of CHUNK source rows. A chunk writes to its own rows of the gradient, and what it owes to
// the first row of the next chunk is added afterwards: sums run in an order that the data alone fixes, so the result
// does not depend on the number of threads.

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>
#include <vector>

#include "share_out.hpp"
#include "vector_math.hpp"

// Arguments and results; upsample_loss.py has the same. `Real` arrays are float or double.
struct Problem {
    const void* logits;         // Real [batch, classes, height, width] with the strides below
    void* gradient;             // Real zeros with the strides of logits, or null: not wanted
    void* losses;               // Real [batch, out_height, out_width] if hard pixels are mined
    const void* labels;         // [batch, out_height, out_width] of label_bytes: 1 unsigned or 8 signed
    const void* class_weights;  // Real [classes]
    // what each output row and column is interpolated from: (1 - share) * low + share * high
    const int32_t *row_low, *row_high, *column_low, *column_high;
    const void *row_share, *column_share;
    int64_t label_bytes, ignore_label;
    int64_t batch, classes, height, width, out_height, out_width;
    int64_t batch_stride, class_stride, row_stride, column_stride;
    int64_t hard_pixels;  // how many count; negative: all
    int64_t threads;
    double total, divisor;  // results: sum of the losses that count, and what the mean divides by
    int64_t wrong_pixel;    // result: the first pixel whose label is no class and not ignored, or -1
};

namespace {

constexpr int64_t CHUNK = 8;

// What hard-pixel mining keeps: losses above the threshold, and those equal to it up to pixel `last_equal`.
template <class Real>
struct Threshold {
    Real least;
    int64_t last_equal;
    bool keeps(Real loss, int64_t pixel) const { return loss > least || (loss == least && pixel <= last_equal); }
};

struct Tally {
    double total = 0;
    int64_t valid = 0, wrong = std::numeric_limits<int64_t>::max();
};

template <class Real>
class Walk {
    using Values = typename Vector<Real>::Values;
    using Integer = typename Vector<Real>::Integer;
    using Integers = typename Vector<Real>::Integers;
    static constexpr int LANES = VECTOR_BYTES / sizeof(Real);
    using Row = std::vector<Values>;  // a vector for each class

    // One output column of each cell of a group.
    struct Place {
        Values share;      // of the cell's right side
        Integers columns;  // -1 where a cell has no such column
    };
    // What belongs to the left and to the right side of cells.
    struct Sides {
        Row left, right;
        explicit Sides(int64_t classes) : left(classes), right(classes) {}
        void clear() {
            std::fill(left.begin(), left.end(), Values{});
            std::fill(right.begin(), right.end(), Values{});
        }
    };
    // A thread's memory.
    struct Scratch {
        Sides top, bottom;     // logits of the source rows above and below
        Sides here, below;     // gradients of a row of cells: all of it, and the part of the source row below
        Sides carried;         // the part that the previous row of cells left for its source row below
        Row start, slope;      // logits of an output row: at a cell's left side, and from there to the right one
        Row gradient, turned;  // of an output row: all of it, and the part of the right side
        Row exponentials;
        explicit Scratch(int64_t classes)
            : top(classes), bottom(top), here(top), below(top), carried(top), start(classes), slope(start),
              gradient(start), turned(start), exponentials(start) {}
    };

    const Problem& p;
    const Threshold<Real>* const mined;
    const bool wants_gradient;
    const int64_t chunks = (p.height + CHUNK - 1) / CHUNK, pieces = p.batch * chunks;
    const Real* const logits = static_cast<const Real*>(p.logits);
    Real* const losses = static_cast<Real*>(p.losses);
    const std::vector<std::vector<Place>> groups = places(p);  // of LANES neighbouring cells
    std::vector<Real> edges;  // [image, chunk, class, column]: gradients of the next chunk's first row
    std::vector<Tally> tallies;
    std::vector<Scratch> scratch;

public:
    // Without `threshold` every valid pixel counts.
    Walk(const Problem& problem, const Threshold<Real>* threshold, bool gradient)
        : p(problem),
          mined(threshold),
          wants_gradient(gradient),
          edges(gradient ? pieces * p.classes * p.width : 0),
          tallies(pieces),
          scratch(std::min(p.threads, pieces), Scratch(p.classes)) {}

    Tally run() {
        share_out(pieces, p.threads, [&](int64_t piece, int worker) {
            for (int64_t group = 0; group < int64_t(groups.size()); ++group)
                walk_chunk(piece / chunks, piece % chunks, group, scratch[worker], tallies[piece]);
        });
        if (wants_gradient) add_edges();
        Tally sum;
        for (const Tally& each : tallies) {
            sum.total += each.total;
            sum.valid += each.valid;
            sum.wrong = std::min(sum.wrong, each.wrong);
        }
        return sum;
    }

private:
    static std::vector<std::vector<Place>> places(const Problem& p) {
        std::vector<std::vector<Place>> groups((p.width + LANES - 1) / LANES);
        std::vector<size_t> found(p.width);
        for (int64_t x = 0; x < p.out_width; ++x) {
            const int64_t cell = p.column_low[x];
            std::vector<Place>& group = groups[cell / LANES];
            const size_t index = found[cell]++;
            if (index == group.size()) group.push_back({Values{}, Integers{} - 1});
            group[index].share[cell % LANES] = static_cast<const Real*>(p.column_share)[x];
            group[index].columns[cell % LANES] = x;
        }
        return groups;
    }

    // The rows of cells of a chunk from top to bottom.
    void walk_chunk(int64_t image, int64_t chunk, int64_t group, Scratch& s, Tally& tally) {
        const int64_t begin = chunk * CHUNK, end = std::min(begin + CHUNK, p.height);
        int64_t y = std::lower_bound(p.row_low, p.row_low + p.out_height, begin) - p.row_low;
        load(image, begin, group, s.top);
        s.carried.clear();
        for (int64_t row = begin; row < end; ++row) {
            load(image, std::min(row + 1, p.height - 1), group, s.bottom);
            s.here.clear();
            s.below.clear();
            for (; y < p.out_height && p.row_low[y] == row; ++y) output_row(image, y, group, s, tally);
            if (wants_gradient) {
                for (int64_t c = 0; c < p.classes; ++c) {
                    s.carried.left[c] += s.here.left[c] - s.below.left[c];
                    s.carried.right[c] += s.here.right[c] - s.below.right[c];
                }
                add(s.carried, group, gradient_row(image, row), p.class_stride, p.column_stride);
            }
            std::swap(s.carried, s.below);
            std::swap(s.top, s.bottom);
        }
        // below the last row there is none, and its part is 0
        if (wants_gradient && end < p.height) add(s.carried, group, edge(image, chunk), p.width, 1);
    }

    Real* gradient_row(int64_t image, int64_t row) const {
        return static_cast<Real*>(p.gradient) + image * p.batch_stride + row * p.row_stride;
    }

    Real* edge(int64_t image, int64_t chunk) { return &edges[(image * chunks + chunk) * p.classes * p.width]; }

    void load(int64_t image, int64_t row, int64_t group, Sides& to) const {
        const Real* from = logits + image * p.batch_stride + row * p.row_stride;
        for (int64_t c = 0; c < p.classes; ++c, from += p.class_stride) {
            Real columns[LANES + 1];
            for (int64_t i = 0; i <= LANES; ++i)
                columns[i] = from[std::min(group * LANES + i, p.width - 1) * p.column_stride];
            std::memcpy(&to.left[c], columns, sizeof(Values));
            std::memcpy(&to.right[c], columns + 1, sizeof(Values));
        }
    }

    // Adds gradients to a row.
    void add(const Sides& from, int64_t group, Real* to, int64_t class_stride, int64_t column_stride) const {
        const int64_t columns = std::min<int64_t>(LANES, p.width - group * LANES);
        to += group * LANES * column_stride;
        for (int64_t c = 0; c < p.classes; ++c, to += class_stride) {
            for (int64_t i = 0; i < columns; ++i) to[i * column_stride] += from.left[c][i];
            // what is right of the last column is 0
            for (int64_t i = 1; i <= std::min(columns, p.width - group * LANES - 1); ++i)
                to[i * column_stride] += from.right[c][i - 1];
        }
    }

    void output_row(int64_t image, int64_t y, int64_t group, Scratch& s, Tally& tally) const {
        const Real share = static_cast<const Real*>(p.row_share)[y];
        for (int64_t c = 0; c < p.classes; ++c) {
            s.start[c] = s.top.left[c] + share * (s.bottom.left[c] - s.top.left[c]);
            s.slope[c] = s.top.right[c] + share * (s.bottom.right[c] - s.top.right[c]) - s.start[c];
            s.gradient[c] = s.turned[c] = Values{};
        }
        Values sum{};
        for (const Place& place : groups[group]) sum += losses_at(place, (image * p.out_height + y) * p.out_width, s, tally);
        for (int i = 0; i < LANES; ++i) tally.total += sum[i];
        if (!wants_gradient) return;
        for (int64_t c = 0; c < p.classes; ++c) {
            const Values right = s.turned[c], left = s.gradient[c] - right;
            s.here.left[c] += left;
            s.here.right[c] += right;
            s.below.left[c] += share * left;
            s.below.right[c] += share * right;
        }
    }

    // Losses of one pixel of each cell, of the output row that starts at `first`.
    Values losses_at(const Place& place, int64_t first, Scratch& s, Tally& tally) const {
        Integers labels;
        Values factors;
        const bool any = p.label_bytes == 1 ? read<uint8_t>(place.columns, first, labels, factors, tally)
                                            : read<int64_t>(place.columns, first, labels, factors, tally);
        const Values found = any ? cross_entropy(place.share, labels, factors, s) : Values{};
        if (losses && !mined)
            for (int i = 0; i < LANES; ++i)
                if (place.columns[i] >= 0) losses[first + place.columns[i]] = found[i];
        return found;
    }

    // Labels, -1 for pixels that do not count, and their class weights; false if none counts.
    template <class Label>
    bool read(const Integers& columns, int64_t first, Integers& labels, Values& factors, Tally& tally) const {
        const Label* const from = static_cast<const Label*>(p.labels) + first;
        const Real* const weights = static_cast<const Real*>(p.class_weights);
        bool any = false;
        for (int i = 0; i < LANES; ++i) {
            labels[i] = -1;
            factors[i] = 0;
            if (columns[i] < 0) continue;
            const int64_t label = from[columns[i]], pixel = first + columns[i];
            if (label == p.ignore_label) continue;
            ++tally.valid;
            if (label < 0 || label >= p.classes) {
                tally.wrong = std::min(tally.wrong, pixel);
            } else if (!mined || mined->keeps(losses[pixel], pixel)) {
                labels[i] = label;
                factors[i] = weights[label];
                any = true;
            }
        }
        return any;
    }

    // Losses of a vector of pixels; their gradient is added to s.gradient and s.turned.
    Values cross_entropy(Values share, Integers labels, Values factors, Scratch& s) const {
        Values* const e = s.exponentials.data();
        Values most{}, right{};
        for (int64_t c = 0; c < p.classes; ++c) {
            const Values score = s.start[c] + share * s.slope[c];
            most = c == 0 || score > most ? score : most;
            right = labels == Integers{} + Integer(c) ? score : right;
            e[c] = score;
        }
        Values sum{};
        for (int64_t c = 0; c < p.classes; ++c) sum += e[c] = exp_of_negative(e[c] - most);
        if (wants_gradient) {
            const Values scale = factors / sum;
            for (int64_t c = 0; c < p.classes; ++c) {
                const Values all = e[c] * scale;
                const Values gradient = labels == Integers{} + Integer(c) ? all - factors : all;
                s.gradient[c] += gradient;
                s.turned[c] += share * gradient;
            }
        }
        return labels >= 0 ? factors * (log_of_positive(sum) + (most - right)) : Values{};
    }

    void add_edges() {
        for (int64_t image = 0; image < p.batch; ++image)
            for (int64_t chunk = 0; chunk + 1 < chunks; ++chunk) {
                const Real* from = edge(image, chunk);
                Real* to = gradient_row(image, (chunk + 1) * CHUNK);
                for (int64_t c = 0; c < p.classes; ++c, from += p.width)
                    for (int64_t x = 0; x < p.width; ++x) to[c * p.class_stride + x * p.column_stride] += from[x];
            }
    }
};

// The threshold above which `count` of the losses lie, which are not negative; fills in total and divisor.
template <class Real>
Threshold<Real> hardest(const Real* losses, int64_t pixels, int64_t count, Problem& p) {
    using Bits = std::conditional_t<sizeof(Real) == 4, uint32_t, uint64_t>;
    constexpr int BUCKETS = 1 << 16;
    // numbers that are not negative are in the order of their bits
    const auto bucket_of = [](Real loss) {
        Bits bits;
        std::memcpy(&bits, &loss, sizeof bits);
        return int(bits >> (8 * sizeof bits - 16));
    };
    std::vector<int64_t> histogram(BUCKETS);
    for (int64_t i = 0; i < pixels; ++i) ++histogram[bucket_of(losses[i])];
    int bucket = BUCKETS;
    int64_t above = 0;
    while (above + histogram[--bucket] < count) above += histogram[bucket];

    std::vector<Real> candidates;
    candidates.reserve(histogram[bucket]);
    for (int64_t i = 0; i < pixels; ++i)
        if (bucket_of(losses[i]) == bucket) candidates.push_back(losses[i]);
    const auto nth = candidates.begin() + (count - above - 1);
    std::nth_element(candidates.begin(), nth, candidates.end(), std::greater<Real>());
    Threshold<Real> found{*nth, -1};

    int64_t more = 0;
    for (int64_t i = 0; i < pixels; ++i)
        if (losses[i] > found.least) ++more, p.total += losses[i];
    int64_t equal = count - more;
    p.total += double(found.least) * equal;
    p.divisor = found.least == 0 ? more : count;
    for (int64_t i = 0; equal > 0; ++i)
        if (losses[i] == found.least) --equal, found.last_equal = i;
    return found;
}

template <class Real>
void solve(Problem& p) {
    const bool all = p.hard_pixels < 0;
    const Tally tally = Walk<Real>(p, nullptr, all && p.gradient).run();
    p.total = tally.total;
    p.divisor = double(tally.valid);
    p.wrong_pixel = tally.wrong == std::numeric_limits<int64_t>::max() ? -1 : tally.wrong;
    if (all || p.wrong_pixel >= 0) return;
    p.total = p.divisor = 0;
    if (p.hard_pixels == 0) return;
    const int64_t pixels = p.batch * p.out_height * p.out_width;
    const Threshold<Real> threshold = hardest(static_cast<const Real*>(p.losses), pixels, p.hard_pixels, p);
    if (p.gradient) Walk<Real>(p, &threshold, true).run();
}

}  // namespace

// 0, or 1 where memory ran out.
extern "C" int deeplab_upsample_loss(Problem* problem, int is_double) {
    try {
        is_double ? solve<double>(*problem) : solve<float>(*problem);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}
