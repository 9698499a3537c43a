#include "core/parallel.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <mutex>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/os.h"

namespace quantbench {
namespace {

// A token of a 1B model has about 80 sections some hundred microseconds long with gaps below 20 µs: spinning for
// 200 µs never sleeps inside a generation, and an idle pool is asleep before anyone notices.
constexpr auto kSpin = std::chrono::microseconds(200);
constexpr int kPausesPerClockRead = 64;
constexpr size_t kRunsLeft = 2;  // a run is at most this fraction of what is left of its share

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Of a thread that pools have pinned: how many of them there are, and the CPUs it had before the first.
struct Pinned {
  int pools = 0;
  cpu_set_t cpus{};
};
thread_local Pinned pinned;

std::vector<int> allowed_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  const bool is_known = pinned.pools > 0 || sched_getaffinity(0, sizeof set, &set) == 0;
  if (pinned.pools > 0) set = pinned.cpus;  // else a pool beside another would see one CPU
  if (is_known) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
  }
  if (cpus.empty()) cpus.push_back(0);
  return cpus;
}

// Which physical core a CPU belongs to, or the CPU itself where the kernel does not say.
std::string core_of(int cpu) {
  const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list";
  const auto siblings = os::read_small_file(folder);
  return siblings ? *siblings : std::to_string(cpu);
}

// The allowed CPUs, one of each physical core first, then their siblings.
std::vector<int> cpus_by_core(int* cores) {
  std::set<std::string> seen;
  std::vector<int> first, siblings;
  for (int cpu : allowed_cpus()) (seen.insert(core_of(cpu)).second ? first : siblings).push_back(cpu);
  *cores = static_cast<int>(first.size());
  first.insert(first.end(), siblings.begin(), siblings.end());
  return first;
}

}  // namespace

int physical_cores() {
  int cores = 1;
  cpus_by_core(&cores);
  return cores;
}

struct ThreadPool::State {
  template <typename T>
  struct alignas(64) Padded {
    std::atomic<T> value{0};
  };
  Padded<uint32_t> section;                // number of sections begun; workers wait for it to change
  Padded<uint32_t> finished;               // workers done with the current section
  Padded<uint32_t> sleepers;               // workers asleep in the kernel
  std::vector<Padded<size_t>> next_chunk;  // of each thread's share in for_chunks
  std::atomic<bool> stop{false};
  const FunctionRef<void(int)>* body = nullptr;
  std::mutex failure_mutex;
  std::exception_ptr failure;
  std::vector<std::thread> workers;
  pthread_t owner{};  // the thread that made the pool, which gets back the CPUs that it had when its last pool ends
  bool pins = true;
  bool is_owner_pinned = false;

  void call(int thread) {
    try {
      (*body)(thread);
    } catch (...) {
      const std::lock_guard lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  }

  // Returns once `section` differs from `seen`.
  void wait_for_section(uint32_t seen) {
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int i = 0; i < kPausesPerClockRead; ++i) {
        if (section.value.load(std::memory_order_acquire) != seen) return;
        pause_cpu();
      }
    } while (std::chrono::steady_clock::now() < deadline);
    sleepers.value.fetch_add(1);
    section.value.wait(seen);
    sleepers.value.fetch_sub(1);
  }

  void work(int thread) {
    uint32_t seen = 0;
    while (true) {
      wait_for_section(seen);
      seen = section.value.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) return;
      call(thread);
      finished.value.fetch_add(1, std::memory_order_release);
    }
  }

  void begin_section() {
    section.value.fetch_add(1);
    if (sleepers.value.load() != 0) section.value.notify_all();
  }

  void end_workers() {
    stop = true;
    begin_section();
    for (std::thread& worker : workers) worker.join();
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  int cores = 1;
  // One thread alone is not pinned, and need not ask the system which CPUs there are.
  const std::vector<int> cpus = threads == 1 ? std::vector<int>() : cpus_by_core(&cores);
  if (threads <= 0) threads = cores;
  state_->pins = os::environment("QUANTBENCH_PIN_THREADS") != "0";
  const auto pin = [this, &cpus](pthread_t thread, int index) {
    if (!state_->pins) return;
    if (static_cast<size_t>(index) >= cpus.size()) return;  // more threads than CPUs: leave them to the kernel
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpus[static_cast<size_t>(index)], &set);
    pthread_setaffinity_np(thread, sizeof set, &set);
  };
  state_->workers.reserve(static_cast<size_t>(threads - 1));
  state_->next_chunk = std::vector<State::Padded<size_t>>(static_cast<size_t>(threads));
  for (int thread = 1; thread < threads; ++thread) {
    try {
      state_->workers.emplace_back([state = state_.get(), thread] { state->work(thread); });
    } catch (const std::system_error& error) {
      state_->end_workers();
      fail(ErrorKind::out_of_memory,
           "thread {} of {} could not be started: {}; ask for fewer with --threads, or raise the limits on processes "
           "and "
           "memory (ulimit -u, ulimit -v)",
           thread + 1, threads, error.code().message());
    } catch (...) {  // no memory for what a thread needs
      state_->end_workers();
      throw;
    }
    pin(state_->workers.back().native_handle(), thread);
  }
  if (threads > 1 && state_->pins) {
    state_->owner = pthread_self();
    state_->is_owner_pinned = pinned.pools > 0 || sched_getaffinity(0, sizeof pinned.cpus, &pinned.cpus) == 0;
    if (state_->is_owner_pinned) ++pinned.pools;
    pin(pthread_self(), 0);
  }
}

ThreadPool::~ThreadPool() {
  state_->end_workers();
  if (!state_->is_owner_pinned || !pthread_equal(pthread_self(), state_->owner)) return;
  if (--pinned.pools == 0) sched_setaffinity(0, sizeof pinned.cpus, &pinned.cpus);
}

bool ThreadPool::pins() const { return state_->pins; }
int ThreadPool::size() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::run(FunctionRef<void(int)> body) {
  State& s = *state_;
  s.body = &body;
  s.finished.value.store(0, std::memory_order_relaxed);
  if (!s.workers.empty()) s.begin_section();
  s.call(0);
  const auto others = static_cast<uint32_t>(s.workers.size());
  for (int spins = 0; s.finished.value.load(std::memory_order_acquire) != others; ++spins) {
    pause_cpu();
    // A worker may have been descheduled: give its CPU back now and then instead of spinning against it.
    if ((spins & 0x7ff) == 0x7ff) std::this_thread::yield();
  }
  if (s.failure) std::rethrow_exception(std::exchange(s.failure, nullptr));
}

// Each thread starts in a share of its own, so that what it reads is one stream for the hardware's prefetchers; whoever
// is done helps the next thread with the rest of its share.
void ThreadPool::for_chunks(size_t count, size_t grain, FunctionRef<void(size_t, size_t, int)> body) {
  grain = std::max<size_t>(grain, 1);
  for_runs((count + grain - 1) / grain, 1,
           [&](size_t begin, size_t end, int thread) { body(begin * grain, std::min(end * grain, count), thread); });
}

void ThreadPool::for_runs(size_t count, size_t most, FunctionRef<void(size_t, size_t, int)> body) {
  most = std::max<size_t>(most, 1);
  if (count <= 1 || size() == 1) {
    for (size_t begin = 0; begin < count; begin += most) body(begin, std::min(begin + most, count), 0);
    return;
  }
  const size_t threads = static_cast<size_t>(size());
  const auto share_start = [&](size_t thread) { return count * thread / threads; };
  for (size_t t = 0; t < threads; ++t) state_->next_chunk[t].value.store(share_start(t), std::memory_order_relaxed);
  run([&](int thread) {
    for (size_t i = 0; i < threads; ++i) {
      const size_t share = (static_cast<size_t>(thread) + i) % threads, end = share_start(share + 1);
      std::atomic<size_t>& next = state_->next_chunk[share].value;
      size_t begin = next.load(std::memory_order_relaxed);
      while (begin < end) {
        const size_t taken = std::clamp<size_t>((end - begin) / kRunsLeft, 1, most);
        if (!next.compare_exchange_weak(begin, begin + taken, std::memory_order_relaxed)) continue;
        body(begin, begin + taken, thread);
        begin = next.load(std::memory_order_relaxed);
      }
    }
  });
}

}  // namespace quantbench
