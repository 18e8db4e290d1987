#pragma once

#include <cstdint>

#include "base/clock.h"

namespace fdbnbd::kv::fdb {

// How many operations of one kind may be outstanding at once, steered by how long they take: one more for
// each round trip of a full window while they are quick, half as many when they are slow or refused.
// Pure; not synchronised.
class LatencyWindow {
 public:
  struct Bounds {
    uint32_t least = 1;
    uint32_t most = 1;
    uint32_t initial = 1;
    Duration quick{};  // up to here the window grows
    Duration slow{};   // above this it shrinks; between the two it stays
  };

  explicit LatencyWindow(const Bounds& bounds) : bounds_(bounds), size_(bounds.initial) {}

  // At least bounds.least.
  uint32_t size() const { return static_cast<uint32_t>(size_); }

  // An operation has ended; `outstanding_count`, which includes it, tells whether the window was the limit.
  void on_done(MonotonicTime started_at, MonotonicTime ended_at, uint32_t outstanding_count);
  // An operation was refused because the other side is at its limit.
  void on_refused(MonotonicTime started_at, MonotonicTime ended_at) { shrink(started_at, ended_at); }

 private:
  // Only what was started after the last time tells something about the window as it is now.
  void shrink(MonotonicTime started_at, MonotonicTime ended_at);

  const Bounds bounds_;
  double size_;
  MonotonicTime shrunk_at_{};
};

}  // namespace fdbnbd::kv::fdb
