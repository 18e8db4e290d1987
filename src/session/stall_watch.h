#pragma once

#include <cstdint>

#include "async/executor.h"
#include "base/function.h"
#include "session/byte_budget.h"
#include "session/session_limits.h"

namespace fdbnbd::session {

// Notices a peer that holds memory here and moves too little: it owes limits::kMinProgressBytes per stall
// timeout while we wait for it and, while others wait for memory, a part of what it holds per (shorter)
// contended timeout. One direction of one connection; all on its executor.
class StallWatch final : private TimerWork {
 public:
  // `held_bytes` is asked when it matters; `on_stalled` is called once.
  StallWatch(Executor& executor, const SessionLimits& limits, const ByteBudget& budget,
             UniqueFunction<uint64_t()> held_bytes, UniqueFunction<void()> on_stalled);
  ~StallWatch();
  StallWatch(const StallWatch&) = delete;
  StallWatch& operator=(const StallWatch&) = delete;

  // We wait for the peer, and no longer.
  void begin();
  void end() { waiting_ = false; }
  void progress(uint64_t bytes) { moved_bytes_ += bytes; }
  // No calls any more.
  void stop();

 private:
  void run() noexcept override;
  void mark();

  Executor& executor_;
  const SessionLimits& limits_;
  const ByteBudget& budget_;
  UniqueFunction<uint64_t()> held_bytes_;
  UniqueFunction<void()> on_stalled_;
  const Duration tick_;
  bool waiting_ = false;
  bool ticking_ = false;
  bool stopped_ = false;
  uint64_t moved_bytes_ = 0;
  uint64_t mark_bytes_ = 0;  // moved_bytes_ when the peer had last done what it owes
  MonotonicTime mark_time_{};
};

}  // namespace fdbnbd::session
