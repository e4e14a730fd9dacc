// Threads that share the pieces of a loop.
//
// Not OpenMP: its barriers wait for every thread, also for one that a busy machine has not woken yet, and spin
// meanwhile (on a machine with twice as many processes as cores that took 2.8 times the processor time). Here whoever runs takes the next piece, the caller alone if need
// be, and nobody spins; and compilers without OpenMP do as well.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace {

using Body = std::function<void(int64_t, int64_t)>;

class Team {
    struct Job {
        const Body* body;
        int64_t count, piece;
        std::atomic<int64_t> next{0}, done{0};
        std::exception_ptr error;
        Job(const Body* b, int64_t c, int64_t p) : body(b), count(c), piece(p) {}
    };
    std::mutex mutex;
    std::condition_variable wake, finished;
    std::shared_ptr<Job> current;
    uint64_t jobs = 0;
    bool stop = false;
    std::vector<std::thread> workers;

    void one_piece(Job& job, int64_t begin, int64_t end) {
        try {
            (*job.body)(begin, end);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex);
            job.error = std::current_exception();
        }
    }
    void take(Job& job) {
        for (;;) {
            const int64_t begin = job.next.fetch_add(job.piece);
            if (begin >= job.count) return;
            const int64_t end = std::min(begin + job.piece, job.count);
            one_piece(job, begin, end);
            if (job.done.fetch_add(end - begin) + end - begin == job.count) {
                const std::lock_guard<std::mutex> lock(mutex);
                finished.notify_all();
            }
        }
    }
    void work() {
        uint64_t seen = 0;
        for (;;) {
            std::shared_ptr<Job> job;
            {
                std::unique_lock<std::mutex> lock(mutex);
                wake.wait(lock, [&] { return stop || jobs != seen; });
                if (stop) return;
                seen = jobs;
                job = current;
            }
            if (job) take(*job);
        }
    }

public:
    explicit Team(int threads) {
        try {
            while (int(workers.size()) + 1 < threads) workers.emplace_back([this] { work(); });
        } catch (const std::system_error&) {
            // the system grants no more threads: those that there are do the work
        }
    }
    ~Team() {
        {
            const std::lock_guard<std::mutex> lock(mutex);
            stop = true;
        }
        wake.notify_all();
        for (std::thread& worker : workers) worker.join();
    }
    // Calls body(begin, end) for pieces of `piece` that cover 0..count; rethrows what a body threw.
    void run(int64_t count, int64_t piece, const Body& body) {
        if (workers.empty() || count <= piece) {
            for (int64_t begin = 0; begin < count; begin += piece) body(begin, std::min(begin + piece, count));
            return;
        }
        const auto job = std::make_shared<Job>(&body, count, piece);
        {
            const std::lock_guard<std::mutex> lock(mutex);
            current = job;
            ++jobs;
        }
        wake.notify_all();
        take(*job);
        std::unique_lock<std::mutex> lock(mutex);
        finished.wait(lock, [&] { return job->done == job->count; });
        current.reset();
        if (job->error) std::rethrow_exception(job->error);
    }
};

}  // namespace
