// A pool of pinned threads for short, frequent parallel sections (several hundred a generated token).
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <type_traits>

namespace quantbench {

// A borrowed callable: no allocation, valid for the duration of the call it is passed to.
template <typename Signature>
class FunctionRef;
template <typename R, typename... Args>
class FunctionRef<R(Args...)> {
 public:
  template <typename F, typename = std::enable_if_t<!std::is_same_v<std::decay_t<F>, FunctionRef>>>
  FunctionRef(F&& f)  // NOLINT(google-explicit-constructor): a lambda is passed where a FunctionRef is asked for
      : object_(const_cast<void*>(static_cast<const void*>(&f))), call_([](void* object, Args... args) -> R {
          return (*static_cast<std::remove_reference_t<F>*>(object))(static_cast<Args>(args)...);
        }) {}
  R operator()(Args... args) const { return call_(object_, static_cast<Args>(args)...); }

 private:
  void* object_;
  R (*call_)(void*, Args...);
};

// threads-1 workers beside the calling thread, each pinned to a CPU of the process's affinity mask. Workers spin
// briefly for the next section, then sleep in the kernel, so an idle pool costs nothing.
// QUANTBENCH_PIN_THREADS=0 in the environment leaves all of them to the kernel: for programs that run side by side,
// as tests do, which would share the first CPUs. The cpu backend's description of the device, in each record, says so.
// One thread at a time may call run(); sections do not nest. An exception in a section ends the section and is
// rethrown by run().
class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // 0: one per physical core of the affinity mask
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  bool pins() const;  // unless the environment said not to

  // Calls body(thread) once on each thread, 0 being the caller's, and returns when all have.
  void run(FunctionRef<void(int thread)> body);

  // Cuts [0, count) into chunks of `grain` for body(begin, end, thread): neighbouring chunks go to one thread, which
  // then takes what others have left. Which thread takes a chunk is not fixed, so its result must not depend on it.
  void for_chunks(size_t count, size_t grain, FunctionRef<void(size_t begin, size_t end, int thread)> body);

  // The same in runs of at most `most`, and of fewer and fewer down to one towards the end of a thread's part, so that
  // all threads end together.
  void for_runs(size_t count, size_t most, FunctionRef<void(size_t begin, size_t end, int thread)> body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

int physical_cores();  // physical cores in this process's affinity mask, at least 1

}  // namespace quantbench
