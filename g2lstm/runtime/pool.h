// Threads that run one function together, with barriers inside it. They wait awake for a moment, then asleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace g2 {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The threads of a call, numbered from 0.
class Team {
 public:
  int size = 1;

  void wait() {  // until all have come here
    if (size == 1) return;
    const unsigned before = phase.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      arrived.store(0, std::memory_order_relaxed);
      phase.store(before + 1, std::memory_order_release);
      return;
    }
    for (int turn = 0; phase.load(std::memory_order_acquire) == before; ++turn)
      if (turn < 2000) pause();
      else std::this_thread::yield();
  }

 private:
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<unsigned> phase{0};
};

class Pool {
 public:
  // work(number) on the caller, which is number 0, and on others; one call at a time.
  template <class Work>
  void run(Team& team, const Work& work) {
    if (team.size == 1) return work(0);
    const unsigned before = turn.load(std::memory_order_relaxed);  // a new worker has no part in earlier turns
    while ((int)workers.size() < team.size - 1) workers.emplace_back(&Pool::serve, this, (int)workers.size() + 1, before);
    call = [](const void* what, int number) { (*static_cast<const Work*>(what))(number); };
    what = &work;
    wanted.store(team.size, std::memory_order_relaxed);
    left.store((int)workers.size(), std::memory_order_relaxed);
    if (!workers.empty()) {
      turn.fetch_add(1, std::memory_order_seq_cst);
      if (asleep.load(std::memory_order_seq_cst)) {
        std::lock_guard<std::mutex> lock(mutex);
        waking.notify_all();
      }
    }
    work(0);
    for (int spins = 0; left.load(std::memory_order_acquire); ++spins)
      if (spins < 2000) pause();
      else std::this_thread::yield();
  }

  // For a process that was forked off: none of the threads is there.
  bool empty() const { return workers.empty(); }

 private:
  static constexpr int AWAKE = 6000;  // pauses, 0.1 to 0.3 ms: longer than from one word to the next

  void serve(int number, unsigned seen) {
    for (;;) {
      for (int spins = 0; spins < AWAKE && turn.load(std::memory_order_acquire) == seen; ++spins) pause();
      if (turn.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(mutex);
        asleep.fetch_add(1, std::memory_order_seq_cst);
        waking.wait(lock, [&] { return turn.load(std::memory_order_seq_cst) != seen; });
        asleep.fetch_sub(1, std::memory_order_seq_cst);
      }
      seen = turn.load(std::memory_order_acquire);
      if (number < wanted.load(std::memory_order_relaxed)) call(what, number);
      left.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  std::vector<std::thread> workers;
  void (*call)(const void*, int) = nullptr;
  const void* what = nullptr;
  std::atomic<int> wanted{0};
  alignas(64) std::atomic<unsigned> turn{0};
  alignas(64) std::atomic<int> left{0};
  alignas(64) std::atomic<int> asleep{0};
  std::mutex mutex;
  std::condition_variable waking;
};

}  // namespace g2
