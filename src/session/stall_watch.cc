#include "session/stall_watch.h"

#include <algorithm>
#include <utility>

namespace fdbnbd::session {

namespace {

// Looks per timeout; what one look may be late by.
constexpr int kTicksPerTimeout = 5;

}  // namespace

StallWatch::StallWatch(Executor& executor, const SessionLimits& limits, const ByteBudget& budget,
                       UniqueFunction<uint64_t()> held_bytes, UniqueFunction<void()> on_stalled)
    : executor_(executor),
      limits_(limits),
      budget_(budget),
      held_bytes_(std::move(held_bytes)),
      on_stalled_(std::move(on_stalled)),
      tick_(std::min(limits.stall_timeout, limits.contended_stall_timeout) / kTicksPerTimeout) {}

StallWatch::~StallWatch() {
  stop();
}

void StallWatch::stop() {
  stopped_ = true;
  if (!std::exchange(ticking_, false)) return;
  executor_.cancel_timer(*this);
}

void StallWatch::mark() {
  mark_bytes_ = moved_bytes_;
  mark_time_ = executor_.clock().now();
}

void StallWatch::begin() {
  waiting_ = true;
  if (ticking_ || stopped_) return;
  ticking_ = true;
  mark();
  executor_.start_timer(*this, tick_);
}

void StallWatch::run() noexcept {
  ticking_ = false;
  if (!waiting_ || stopped_) return;
  const Duration waited = executor_.clock().now() - mark_time_;
  const uint64_t moved_bytes = moved_bytes_ - mark_bytes_;
  const uint64_t share_bytes = held_bytes_() / limits::kContendedProgressDivisor;
  const bool slow = moved_bytes < limits::kMinProgressBytes;
  const bool too_slow_for_others =
      budget_.contended() && moved_bytes < std::max(limits::kMinProgressBytes, share_bytes);
  if ((slow && waited >= limits_.stall_timeout) ||
      (too_slow_for_others && waited >= limits_.contended_stall_timeout)) {
    stopped_ = true;
    on_stalled_();
    return;
  }
  // Judged per contended timeout, so that a burst long ago excuses nothing; without contention a slow peer's
  // time runs on.
  if (!slow && waited >= limits_.contended_stall_timeout) mark();
  ticking_ = true;
  executor_.start_timer(*this, tick_);
}

}  // namespace fdbnbd::session
