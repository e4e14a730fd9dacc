// Pieces of work shared out to threads.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace {

// body(piece, worker) for every piece, each once; workers are numbered from 0 and take the next piece when free.
// Where the library was built without OpenMP, worker 0 does them all.
template <class Body>
void share_out(int64_t pieces, int64_t workers, const Body& body) {
    std::atomic<int64_t> next{0};
    const int count = int(std::min(pieces, workers));
#pragma omp parallel for num_threads(count) schedule(static, 1)
    for (int worker = 0; worker < count; ++worker)
        for (int64_t piece = next++; piece < pieces; piece = next++) body(piece, worker);
}

}  // namespace
