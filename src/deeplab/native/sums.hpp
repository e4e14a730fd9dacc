// What sums of products need, whatever is multiplied: room for them, and what they become when finished.

#pragma once

#include <cstdint>
#include <new>

#include "lanes.hpp"

namespace {

constexpr int64_t LINE = 16;  // floats in a line of the cache

// Numbers that are written before they are read: nothing to clear.
template <typename T>
class Room {
   public:
    explicit Room(int64_t count) : numbers(static_cast<T*>(::operator new[](count * sizeof(T), ALIGNED))) {}
    ~Room() { ::operator delete[](numbers, ALIGNED); }
    Room(const Room&) = delete;
    T* data() const { return numbers; }

   private:
    // vectors that begin with a line of the cache are read at once
    static constexpr std::align_val_t ALIGNED{LINE * sizeof(float)};
    T* const numbers;
};

inline __attribute__((always_inline)) Floats between(const Floats& value, float least, float most) {
    return at_most(Floats{} + most, at_least(Floats{} + least, value));
}

struct Bounds {
    float least, most;

    inline __attribute__((always_inline)) Floats operator()(const Floats& sum) const { return between(sum, least, most); }
};

struct Swish {
    inline __attribute__((always_inline)) Floats operator()(const Floats& sum) const {
        return sum * between(sum + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f);
    }
};

// What happens to finished sums: biases, as many as whole vectors of outputs hold, and bounds, or x * relu6(x + 3) / 6
// instead of these.
struct Ending {
    const float* bias;
    float least, most;
    bool swish;

    inline __attribute__((always_inline)) Floats finish(const Floats& sum) const {
        return swish ? Swish{}(sum) : Bounds{least, most}(sum);
    }

    // body(what it is): asked once, where a branch for every sum would keep sums from staying in registers
    template <class Body>
    inline void chosen(const Body& body) const {
        if (swish)
            body(Swish{});
        else
            body(Bounds{least, most});
    }
};

}  // namespace
