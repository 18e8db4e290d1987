#include "async/run_loop.h"

#include <utility>

namespace fdbnbd {

void RunLoop::post(Work& work) {
  // Notified under the lock: once the work ran, the loop and its condition may be gone.
  const std::lock_guard lock(mutex_);
  queue_.push(work);
  posted_.notify_one();
}

void RunLoop::run_until_done(Task<void> task) {
  thread_ = std::this_thread::get_id();
  TaskScope scope;
  scope.spawn(std::move(task));
  while (scope.running_count() > 0) {
    while (TimerWork* timer = timers_.pop_due(clock_.now())) timer->run();
    WorkList ready;
    {
      std::unique_lock lock(mutex_);
      if (queue_.empty() && scope.running_count() > 0) {
        if (const auto due = timers_.next_due()) {
          posted_.wait_for(lock, *due - clock_.now());
        } else {
          posted_.wait(lock);
        }
      }
      ready = queue_.take();
    }
    while (!ready.empty()) ready.pop().run();
  }
}

}  // namespace fdbnbd
