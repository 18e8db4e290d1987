#include "async/sim_loop.h"

#include <utility>

namespace fdbnbd {

bool SimLoop::step() {
  while (TimerWork* timer = timers_.pop_due(now_)) ready_.push_back(timer);
  if (ready_.empty()) {
    const auto due = timers_.next_due();
    if (!due) return false;
    now_ = *due;
    return true;
  }
  const size_t pick = random_.below(ready_.size());
  Work* const work = ready_[pick];
  ready_[pick] = ready_.back();
  ready_.pop_back();
  work->run();
  return true;
}

void SimLoop::run_until_done(Task<void> task) {
  TaskScope scope;
  scope.spawn(std::move(task));
  while (scope.running_count() > 0) ASSERT(step());
}

}  // namespace fdbnbd
