#include "async/timer_queue.h"

namespace fdbnbd {

void TimerQueue::start(TimerWork& timer, MonotonicTime due) {
  cancel(timer);
  timer.due_ = due;
  timer.sequence_ = ++last_sequence_;
  entries_.insert({due, timer.sequence_, &timer});
}

void TimerQueue::cancel(TimerWork& timer) {
  if (timer.sequence_ == 0) return;
  entries_.erase({timer.due_, timer.sequence_, &timer});
  timer.sequence_ = 0;
}

std::optional<MonotonicTime> TimerQueue::next_due() const {
  if (entries_.empty()) return std::nullopt;
  return entries_.begin()->due;
}

TimerWork* TimerQueue::pop_due(MonotonicTime now) {
  if (entries_.empty() || entries_.begin()->due > now) return nullptr;
  TimerWork* const timer = entries_.begin()->timer;
  cancel(*timer);
  return timer;
}

}  // namespace fdbnbd
