#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "async/executor.h"
#include "async/scope.h"
#include "async/task.h"
#include "async/timer_queue.h"

namespace fdbnbd {

// An executor without I/O, for tests and tools: the thread that calls run_until_done() is its thread.
class RunLoop final : public Executor {
 public:
  explicit RunLoop(const Clock& clock = system_clock()) : clock_(clock) {}

  void post(Work& work) override;
  bool runs_here() const override { return thread_ == std::this_thread::get_id(); }
  const Clock& clock() const override { return clock_; }
  void start_timer(TimerWork& timer, Duration delay) override { timers_.start(timer, clock_.now() + delay); }
  void cancel_timer(TimerWork& timer) override { timers_.cancel(timer); }

  // Runs `task` and everything posted until it is done.
  void run_until_done(Task<void> task);

  // The same for a task with a value.
  template <typename T>
  T run(Task<T> task) {
    std::optional<T> result;
    run_until_done(store_result(std::move(task), result));
    return std::move(*result);
  }
  void run(Task<void> task) { run_until_done(std::move(task)); }

 private:
  const Clock& clock_;
  std::thread::id thread_ = std::this_thread::get_id();
  TimerQueue timers_;  // the loop's thread
  std::mutex mutex_;
  std::condition_variable posted_;
  WorkList queue_;  // guarded by mutex_
};

}  // namespace fdbnbd
