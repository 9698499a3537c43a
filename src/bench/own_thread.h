// A thread for work that has to be done by one and the same: a backend belongs to the thread that made it, which its
// pool pins to a CPU, so several backends in a process need as many threads.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

namespace quantbench {

class OwnThread {
 public:
  OwnThread() : thread_([this] { serve(); }) {}
  ~OwnThread() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  OwnThread(const OwnThread&) = delete;

  // Waits until the thread has done it; what it throws is thrown here. One caller at a time.
  void run(std::function<void()> work) {
    std::unique_lock lock(mutex_);
    work_ = std::move(work);
    failure_ = nullptr;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !work_; });
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  void serve() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return ending_ || work_; });
      if (!work_) return;
      lock.unlock();
      try {
        work_();
      } catch (...) {
        failure_ = std::current_exception();
      }
      lock.lock();
      work_ = nullptr;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> work_;
  std::exception_ptr failure_;
  bool ending_ = false;
  std::thread thread_;  // last, since it reads the others
};

}  // namespace quantbench
