#pragma once

#include <array>
#include <chrono>
#include <cstdint>

#include "base/clock.h"
#include "base/limits.h"

namespace fdbnbd::kv::fdb {

// How many bytes a second may be written, so that the queue of no storage server grows above
// limits::kFdbStorageQueueBytes: what it has taken and not yet put on its disk. There is no bound while the
// queue is short. Pure; not synchronised.
//
// A storage server keeps the changes of the last five seconds in its queue however fast its disk is; what is
// older waits for the disk, and the server tells how old that is. From the two follows how much a byte that
// is written adds to the queue (`cost_`), and how much of the queue is the disk's (`backlog_bytes_`). Written
// is what keeps cost_ × (bytes of the last kKept) + backlog_bytes_ at the target.
class WriteRate {
 public:
  // Up to here the queue is short.
  static constexpr uint64_t kShortQueueBytes = limits::kFdbStorageQueueBytes / 2;
  // Between two looks at the queue: FoundationDB's client renews what it knows no more often.
  static constexpr auto kInterval = std::chrono::milliseconds(500);

  // Takes the turn of a commit of `bytes`: how long it has to wait. In the order of the calls.
  Duration reserve(MonotonicTime now, uint64_t bytes);

  // How long the next commit would have to wait.
  Duration wait(MonotonicTime now) const;

  // The storage server that limits, as of about now.
  struct Queue {
    uint64_t bytes = 0;
    Duration age{};  // of the oldest change in it
  };
  void on_queue(MonotonicTime now, const Queue& queue);

  // 0: no bound.
  double bytes_per_second(MonotonicTime now) const;

 private:
  // Bytes by the time at which they were reserved, for as long as it takes to compare them with a queue.
  class History {
   public:
    void add(MonotonicTime now, uint64_t bytes);
    // In the `length` before `end`, to kStep.
    double bytes_before(MonotonicTime end, Duration length) const;

   private:
    static constexpr auto kStep = std::chrono::milliseconds(125);
    static constexpr int64_t kStepsCount = 64;

    struct Step {
      int64_t number = -1;
      uint64_t bytes = 0;
    };
    std::array<Step, kStepsCount> steps_;
  };

  // Five seconds by design, and about one until it is written.
  static constexpr auto kKept = std::chrono::seconds(6);
  // Within which the target is reached. Longer ones let the queue grow too far, shorter ones are restless.
  static constexpr auto kHorizon = std::chrono::seconds(2);
  // How old the queue is that the cluster tells: up to half a second.
  static constexpr auto kDelay = std::chrono::milliseconds(250);
  // A byte is counted twice by the server that stores it, and more for its row; others may store other ones.
  static constexpr double kMostCost = 2.3;
  static constexpr double kLeastCost = 0.01;
  static constexpr double kLeast = 4e6;  // bytes a second
  // Without a look for so long nothing is known any more.
  static constexpr auto kForget = std::chrono::seconds(5);
  // What may be written at once after a pause.
  static constexpr auto kBurst = std::chrono::milliseconds(50);

  History written_;
  bool is_bound_ = false;
  double cost_ = kMostCost;
  double backlog_bytes_ = 0;
  MonotonicTime next_turn_{};
  MonotonicTime looked_at_{};
};

}  // namespace fdbnbd::kv::fdb
