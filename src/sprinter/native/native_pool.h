// A few threads that share the work of one forward pass.

#pragma once

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

namespace {

// Threads that take pieces of the caller's work. The caller takes pieces too and waits only for those begun, so a
// helper the system has put aside between pieces delays nobody; a barrier would wait for it dozens of times per pass.
class Pool {
  public:
    std::mutex in_use;  // one pass at a time

    void wake(int num_threads) {
        std::lock_guard<std::mutex> lock(sleep_);
        helpers_wanted_ = num_threads - 1;
        try {
            for (; num_helpers_ < num_threads - 1; num_helpers_++)
                std::thread([this, id = num_helpers_] { help(id); }).detach();
        } catch (const std::system_error&) {  // the system gives no more threads: those there are do the work
        }
        pass_++;
        awake_.notify_all();
    }

    int threads() const { return helpers_wanted_ + 1; }

    // f(first, last) over all of 0 .. items - 1, in pieces of at least `grain`.
    template <typename F>
    void each(int64_t items, int64_t grain, const F& f) {
        const int64_t pieces = std::min<int64_t>(items / grain, kPiecesPerThread * threads());
        if (threads() == 1 || pieces < 2) return f(0, items);
        struct Job {
            const F& f;
            int64_t items, pieces;
        } job{f, items, pieces};
        context_ = &job;
        work_ = [](const void* context, int64_t piece) {
            const Job& j = *static_cast<const Job*>(context);
            j.f(j.items * piece / j.pieces, j.items * (piece + 1) / j.pieces);
        };
        done_.store(0, std::memory_order_relaxed);
        ticket_.store(++phase_ << 40 | static_cast<uint64_t>(pieces) << 20, std::memory_order_release);
        while (take(false)) {
        }
        for (int spins = 0; done_.load(std::memory_order_acquire) < pieces; spins++) pause(spins);
    }

  private:
    static constexpr int64_t kPiecesPerThread = 8;
    static constexpr int kSpins = 20000;  // about half a millisecond; a draft's next step comes sooner
    // Phase, end and begin of the pieces left in one word: whoever takes a piece takes it of the phase it looked at.
    std::atomic<uint64_t> ticket_{0};
    std::atomic<int64_t> done_{0};
    std::atomic<int> helpers_wanted_{0};
    uint64_t phase_ = 0;
    const void* context_ = nullptr;
    void (*work_)(const void*, int64_t) = nullptr;
    std::mutex sleep_;
    std::condition_variable awake_;
    int num_helpers_ = 0;
    uint64_t pass_ = 0;

    static void pause(int spins) {
        if (spins % 256 == 255) sched_yield();
        _mm_pause();
    }

    // The caller takes the first piece left, a helper the last: so the caller reads memory in one long run, and what a
    // helper reads ahead beyond its piece is the piece it had before.
    bool take(bool helper) {
        uint64_t t = ticket_.load(std::memory_order_acquire), piece;
        constexpr uint64_t mask = (1 << 20) - 1, one_off_the_end = 1 << 20;
        do {
            const uint64_t begin = t & mask, end = t >> 20 & mask;
            if (begin >= end) return false;
            piece = helper ? end - 1 : begin;
        } while (!ticket_.compare_exchange_weak(t, helper ? t - one_off_the_end : t + 1, std::memory_order_acq_rel));
        work_(context_, static_cast<int64_t>(piece));
        done_.fetch_add(1, std::memory_order_release);
        return true;
    }

    void help(int id) {
        for (uint64_t seen = 0;;) {
            {
                std::unique_lock<std::mutex> lock(sleep_);
                awake_.wait(lock, [&] { return pass_ != seen && id < helpers_wanted_; });
                seen = pass_;
            }
            for (int idle = 0; idle < kSpins; idle++) {
                if (id < helpers_wanted_ && take(true)) idle = 0;
                pause(idle);
            }
        }
    }
};

// Never destroyed: helpers may still sleep in it when the process ends.
Pool* shared_pool = nullptr;

void renew_pool() { shared_pool = new Pool; }

// A forked process has none of its parent's threads, and what they held stays locked there: it needs a pool of its own.
const int renewed_in_children = (renew_pool(), pthread_atfork(nullptr, nullptr, renew_pool));

Pool& pool() { return *shared_pool; }

}  // namespace
