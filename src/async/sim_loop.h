#pragma once

#include <vector>

#include "async/executor.h"
#include "async/scope.h"
#include "async/task.h"
#include "async/timer_queue.h"
#include "base/random.h"

namespace fdbnbd {

// A simulated world's executor: one thread, its own time, and the next piece of work picked by a seed. The
// same seed gives the same run. Time passes only when nothing else is left to do.
class SimLoop final : public Executor, private Clock {
 public:
  explicit SimLoop(uint64_t seed) : random_(seed) {}

  void post(Work& work) override { ready_.push_back(&work); }
  bool runs_here() const override { return true; }
  const Clock& clock() const override { return *this; }
  void start_timer(TimerWork& timer, Duration delay) override { timers_.start(timer, now_ + delay); }
  void cancel_timer(TimerWork& timer) override {
    timers_.cancel(timer);
    std::erase(ready_, &timer);  // due, and not run yet
  }

  Random& random() { return random_; }

  // A process that is stopped and goes on later: time passes, and nothing runs.
  void stand_still(Duration duration) { now_ += duration; }

  // Runs one piece of work, or lets time pass to the next timer; false where nothing is left.
  bool step();

  // Runs `task` and all that it starts until it is done; aborts where nothing is left to run before that (a
  // lost wake-up).
  void run_until_done(Task<void> task);

  template <typename T>
  T run(Task<T> task) {
    std::optional<T> result;
    run_until_done(store_result(std::move(task), result));
    return std::move(*result);
  }
  void run(Task<void> task) { run_until_done(std::move(task)); }

 private:
  MonotonicTime now() const override { return now_; }
  WallTime wall_now() const override {
    return WallTime(std::chrono::seconds(1'700'000'000)) + now_.time_since_epoch();
  }

  Random random_;
  MonotonicTime now_{};
  std::vector<Work*> ready_;
  TimerQueue timers_;
};

}  // namespace fdbnbd
