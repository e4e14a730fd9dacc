// Large arrays of the compiled mean field.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace {

// Memory that nobody clears first. It starts at a cache line, and large pieces ask for huge pages: rows are read in
// no order, and looking up their pages would cost more than reading them.
template <typename T>
class Buffer {
    static constexpr size_t LINE = 64, HUGE_PAGE = size_t(1) << 21;
    std::unique_ptr<T, decltype(&std::free)> data{nullptr, &std::free};

public:
    void allocate(int64_t size) {
        const size_t unit = size * sizeof(T) < HUGE_PAGE ? LINE : HUGE_PAGE;
        const size_t bytes = (size * sizeof(T) + unit) / unit * unit;
        data.reset();
        data.reset(static_cast<T*>(std::aligned_alloc(unit, bytes)));
        if (!data) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        if (unit == HUGE_PAGE) madvise(data.get(), bytes, MADV_HUGEPAGE);
#endif
    }
    T& operator[](int64_t i) { return data.get()[i]; }
    const T& operator[](int64_t i) const { return data.get()[i]; }
    T* at(int64_t i) { return data.get() + i; }
    const T* at(int64_t i) const { return data.get() + i; }
};

}  // namespace
