// Labels at full size from logits at low resolution, without logits at full size.
//
// Between four neighbouring logits every class is interpolated with the same weights, none below 0 and 1 in all. A class
// that is behind at all four corners is therefore behind everywhere between them: where one class leads everywhere,
// the labels are known at once, elsewhere only the classes that can win are interpolated. "Behind" leaves room for the
// rounding of both interpolations, so that the labels are those of interpolating every class.

// Products are rounded before they are summed, as torch's are: equal classes then stay equal in both.
#ifdef __clang__
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

namespace {

constexpr int LANES = 8;
constexpr float LOWEST = std::numeric_limits<float>::lowest();
constexpr int32_t UNDECIDED = -1;

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));

inline Floats load(const float* from) {
    Floats values;
    std::memcpy(&values, from, sizeof values);
    return values;
}

inline Floats all(float value) { return Floats{} + value; }

// Below this, a class stays below `value` after interpolation, each term of which is rounded four times (5 * 2^-24, of
// either class). The constant is for numbers so small that their roundings are not relative.
inline float surely_below(float value) { return value - (std::ldexp(std::fabs(value), -18) + 1e-30f); }

// One axis: output i lies `far[i]` of the way from source `low[i]` to the next one, if there is one.
struct Axis {
    int64_t source, target;
    const int32_t* low;
    std::vector<float> far;
    std::vector<int64_t> first;  // output first[i] is the first with a low of i or more

    Axis(int64_t source, int64_t target, const int32_t* low, const float* weights)
        : source(source), target(target), low(low), far(target + LANES), first(source + 1) {
        std::copy(weights, weights + target, far.begin());
        for (int64_t i = 0; i <= source; ++i) first[i] = std::lower_bound(low, low + target, i) - low;
    }

    int64_t next(int64_t i) const { return std::min(i + 1, source - 1); }
};

struct Logits {
    const float* data;
    int64_t classes, padded;  // padded to whole vectors
    int64_t image_stride, class_stride, row_stride, column_stride;
};

// One row of low-resolution logits, classes side by side.
struct Row {
    int64_t image = -1, index = -1;
    std::vector<float> values;
    std::vector<int32_t> leader;  // class that leads clearly, or UNDECIDED
    std::vector<uint8_t> finite;

    Row(int64_t width, int64_t padded) : values(width * padded, LOWEST), leader(width), finite(width) {}

    void read(const Logits& logits, int64_t wanted_image, int64_t wanted) {
        if (image == wanted_image && index == wanted) return;
        image = wanted_image, index = wanted;
        const float* from = logits.data + image * logits.image_stride + index * logits.row_stride;
        for (size_t x = 0; x < leader.size(); ++x, from += logits.column_stride) {
            float* to = &values[x * logits.padded];
            for (int64_t j = 0; j < logits.classes; ++j) to[j] = from[j * logits.class_stride];
            finite[x] = is_finite(to, logits.padded);
            leader[x] = finite[x] ? clear_leader(to, logits.padded) : UNDECIDED;
        }
    }

    static bool is_finite(const float* values, int64_t count) {
        Ints beyond = {};
        for (int64_t j = 0; j < count; j += LANES) {
            const Floats each = load(values + j);
            beyond |= ~((each >= all(LOWEST)) & (each <= all(-LOWEST)));
        }
        int32_t any = 0;
        for (int lane = 0; lane < LANES; ++lane) any |= beyond[lane];
        return !any;
    }

    static int32_t clear_leader(const float* values, int64_t count) {
        Floats best = all(LOWEST), second = all(LOWEST);
        for (int64_t j = 0; j < count; j += LANES) {
            const Floats each = load(values + j);
            const Floats lesser = each < best ? each : best;
            best = each < best ? best : each;
            second = lesser < second ? second : lesser;
        }
        float first = best[0], runner_up = second[0];
        for (int lane = 1; lane < LANES; ++lane) {
            runner_up = std::max({runner_up, second[lane], std::min(first, best[lane])});
            first = std::max(first, best[lane]);
        }
        if (!(runner_up < surely_below(first))) return UNDECIDED;
        return static_cast<int32_t>(std::find(values, values + count, first) - values);
    }
};

// The classes that can win somewhere between four places, in ascending order, and their logits there.
struct Contest {
    int64_t count = 0;
    bool finite = true;
    std::vector<float> most;
    std::vector<int32_t> classes;
    std::vector<float> top_left, top_right, bottom_left, bottom_right;
    std::vector<float> left, right;  // at one output row

    explicit Contest(int64_t padded)
        : most(padded), classes(padded), top_left(padded), top_right(padded), bottom_left(padded),
          bottom_right(padded), left(padded), right(padded) {}

    void enter(const Logits& logits, const Row& top, const Row& bottom, int64_t x, int64_t next) {
        const float* corners[4] = {&top.values[x * logits.padded], &top.values[next * logits.padded],
                                   &bottom.values[x * logits.padded], &bottom.values[next * logits.padded]};
        finite = top.finite[x] && top.finite[next] && bottom.finite[x] && bottom.finite[next];
        const float bar = finite ? surely_below(least_of_best(corners, logits.padded)) : LOWEST;
        count = 0;
        for (int32_t j = 0; j < logits.classes; ++j) {
            classes[count] = j;
            count += !finite || !(most[j] < bar);
        }
        for (int64_t i = 0; i < count; ++i) {
            top_left[i] = corners[0][classes[i]], top_right[i] = corners[1][classes[i]];
            bottom_left[i] = corners[2][classes[i]], bottom_right[i] = corners[3][classes[i]];
        }
    }

    // The best class is nowhere below this; `most` is each class's largest corner.
    float least_of_best(const float* const corners[4], int64_t padded) {
        Floats best = all(LOWEST);
        for (int64_t j = 0; j < padded; j += LANES) {
            Floats least = load(corners[0] + j), largest = least;
            for (int corner = 1; corner < 4; ++corner) {
                const Floats each = load(corners[corner] + j);
                least = each < least ? each : least;
                largest = each < largest ? largest : each;
            }
            best = least < best ? best : least;
            std::memcpy(&most[j], &largest, sizeof largest);
        }
        float found = best[0];
        for (int lane = 1; lane < LANES; ++lane) found = std::max(found, best[lane]);
        return found;
    }

    void enter_row(float below) {
        const float above = 1.0f - below;
        for (int64_t i = 0; i < count; ++i) {
            left[i] = top_left[i] * above + bottom_left[i] * below;
            right[i] = top_right[i] * above + bottom_right[i] * below;
        }
    }

    // Winners at LANES outputs of the row. A NaN wins, as in torch.argmax; among equals the first does.
    Ints winners(Floats rightwards) const {
        const Floats leftwards = 1.0f - rightwards;
        Floats best = left[0] * leftwards + right[0] * rightwards;
        Ints winner = Ints{} + classes[0];
        for (int64_t i = 1; i < count; ++i) {
            const Floats value = left[i] * leftwards + right[i] * rightwards;
            const Ints wins = finite ? value > best : ~(value <= best) & (best == best);
            best = wins ? value : best;
            winner = wins ? Ints{} + classes[i] : winner;
        }
        return winner;
    }
};

// Output rows between two rows of logits.
template <typename Label>
struct Band {
    const Axis &rows, &columns;
    int64_t first_row, last_row;
    Label* labels;

    void fill(int64_t from, int64_t to, int32_t label) const {
        for (int64_t y = first_row; y < last_row; ++y)
            std::fill(labels + y * columns.target + from, labels + y * columns.target + to, static_cast<Label>(label));
    }

    void settle(Contest& contest, int64_t from, int64_t to) const {
        if (contest.count == 1) return fill(from, to, contest.classes[0]);
        for (int64_t y = first_row; y < last_row; ++y) {
            contest.enter_row(rows.far[y]);
            Label* line = labels + y * columns.target;
            for (int64_t x = from; x < to; x += LANES) {
                const Ints winner = contest.winners(load(&columns.far[x]));
                const int count = static_cast<int>(std::min<int64_t>(LANES, to - x));
                for (int lane = 0; lane < count; ++lane) line[x + lane] = static_cast<Label>(winner[lane]);
            }
        }
    }

    void label(const Logits& logits, const Row& top, const Row& bottom, Contest& contest) const {
        for (int64_t x = 0; x < columns.source; ++x) {
            const int64_t from = columns.first[x], to = columns.first[x + 1], next = columns.next(x);
            if (from == to) continue;
            const int32_t leader = top.leader[x];
            if (leader != UNDECIDED && leader == top.leader[next] && leader == bottom.leader[x] &&
                leader == bottom.leader[next]) {
                fill(from, to, leader);
            } else {
                contest.enter(logits, top, bottom, x, next);
                settle(contest, from, to);
            }
        }
    }
};

struct Worker {
    Row top, bottom;
    Contest contest;
};

template <typename Label>
void label_all(const Logits& logits, int64_t images, const Axis& rows, const Axis& columns, Label* labels, int threads) {
    const Worker blank{{columns.source, logits.padded}, {columns.source, logits.padded}, Contest(logits.padded)};
    std::vector<Worker> workers(threads, blank);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; ++part) {
        Worker& mine = workers[part];
        const int64_t all_rows = images * rows.source;
        for (int64_t i = all_rows * part / threads; i < all_rows * (part + 1) / threads; ++i) {
            const int64_t image = i / rows.source, y = i % rows.source;
            const Band<Label> band{rows, columns, rows.first[y], rows.first[y + 1],
                                   labels + image * rows.target * columns.target};
            if (band.first_row == band.last_row) continue;
            std::swap(mine.top, mine.bottom);
            mine.top.read(logits, image, y);
            mine.bottom.read(logits, image, rows.next(y));
            band.label(logits, mine.top, mine.bottom, mine.contest);
        }
    }
}

}  // namespace

// logits: `shape` is images, classes, height, width; `strides` those of the four, in elements. rows and columns: see
// Axis. labels: [images, target height, target width], uint16 if `wide` else uint8. Returns 1 if memory runs out.
extern "C" int deeplab_upsample_argmax(const float* data, const int64_t* shape, const int64_t* strides,
                                       int64_t target_height, const int32_t* row_low, const float* row_far,
                                       int64_t target_width, const int32_t* column_low, const float* column_far,
                                       void* labels, int wide, int threads) {
    try {
        const int64_t padded = (shape[1] + LANES - 1) / LANES * LANES;
        const Logits logits{data, shape[1], padded, strides[0], strides[1], strides[2], strides[3]};
        const Axis rows(shape[2], target_height, row_low, row_far), columns(shape[3], target_width, column_low, column_far);
        if (wide)
            label_all(logits, shape[0], rows, columns, static_cast<uint16_t*>(labels), threads);
        else
            label_all(logits, shape[0], rows, columns, static_cast<uint8_t*>(labels), threads);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}
