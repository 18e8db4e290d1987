#include "base/clock.h"

#include <ctime>

#include "base/assert.h"

namespace fdbnbd {

namespace {

class SystemClock final : public Clock {
 public:
  // The time for which the machine was suspended counts: what others do meanwhile, as to leases, does not
  // wait.
  MonotonicTime now() const override {
    timespec now{};
    ASSERT(::clock_gettime(CLOCK_BOOTTIME, &now) == 0);
    return MonotonicTime(std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec));
  }
  WallTime wall_now() const override { return std::chrono::system_clock::now(); }
};

}  // namespace

const Clock& system_clock() {
  static const SystemClock clock;
  return clock;
}

}  // namespace fdbnbd
