#pragma once

#include <chrono>
#include <cstdint>

namespace fdbnbd {

using Duration = std::chrono::nanoseconds;
// Time since an arbitrary start, never set back.
using MonotonicTime = std::chrono::time_point<std::chrono::steady_clock, Duration>;
// Time since 1970 in UTC.
using WallTime = std::chrono::time_point<std::chrono::system_clock, Duration>;

// Where the time comes from: the system in production, a script in tests. Any thread.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual MonotonicTime now() const = 0;
  virtual WallTime wall_now() const = 0;
};

// The operating system's clocks; lives as long as the process.
const Clock& system_clock();

}  // namespace fdbnbd
