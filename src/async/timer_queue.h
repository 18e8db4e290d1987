#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <set>

#include "async/executor.h"

namespace fdbnbd {

// The waiting timers of one executor, by due time and then by start. Used by Executor implementations, on
// their thread.
class TimerQueue {
 public:
  // A timer that is started again is moved.
  void start(TimerWork& timer, MonotonicTime due);
  void cancel(TimerWork& timer);
  // When the next timer is due; nothing where none waits.
  std::optional<MonotonicTime> next_due() const;
  // Takes out the next timer that is due at `now`, or null.
  TimerWork* pop_due(MonotonicTime now);

 private:
  struct Entry {
    MonotonicTime due;
    uint64_t sequence;
    TimerWork* timer;
    auto operator<=>(const Entry&) const = default;
  };

  std::set<Entry> entries_;
  uint64_t last_sequence_ = 0;
};

}  // namespace fdbnbd
