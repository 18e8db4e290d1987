#pragma once

#include <chrono>
#include <cstdint>

#include "base/clock.h"

namespace fdbnbd::kv::fdb {

// How many bytes a second may be written, steered by what the storage servers have taken and not yet put on
// their disks. There is no bound until that grows; from then on it is held at kTargetBytes, which is to write
// what the disks follow. Pure; not synchronised.
class WriteRate {
 public:
  // The queue of a storage server. It has the changes of the last five seconds in any case. FoundationDB
  // itself slows its clients from 900 MB on; at 1,500 MB a storage server takes no more, and reads of what is
  // new wait.
  static constexpr uint64_t kTargetBytes = 600'000'000;
  // Up to here nothing is known about the disks, and the rate grows.
  static constexpr uint64_t kCalmBytes = 250'000'000;
  // Between two looks at the queue: FoundationDB's client renews what it knows no more often.
  static constexpr auto kInterval = std::chrono::milliseconds(500);

  // Takes the turn of a commit of `bytes`: how long it has to wait. In the order of the calls.
  Duration reserve(MonotonicTime now, uint64_t bytes);
  // The queue of the storage server that limits, as of now.
  void on_queue(MonotonicTime now, uint64_t queue_bytes);

  // 0: no bound.
  double bytes_per_second() const { return bytes_per_second_; }

 private:
  static constexpr double kLeast = 8e6;  // bytes a second
  static constexpr double kUnbounded = 4e9;
  static constexpr double kGrow = 1.5;       // of a rate while the queue is calm
  static constexpr double kHorizon_s = 5;    // until the target is reached
  static constexpr double kQueueCost = 2;    // what a byte counts for in a queue
  static constexpr double kGain = 0.3;       // of what is amiss, corrected at each look
  static constexpr double kSmoothing = 0.3;  // weight of the newest growth
  // How far above what was written a rate that is not used up stays.
  static constexpr double kHeadroom = 1.5;
  // Without a look for so long nothing is known any more.
  static constexpr auto kForget = std::chrono::seconds(5);
  // What may be written at once after a pause.
  static constexpr auto kBurst = std::chrono::milliseconds(50);

  double bytes_per_second_ = 0;
  MonotonicTime next_turn_{};
  MonotonicTime looked_at_{};
  uint64_t bytes_since_ = 0;  // reserved since looked_at_
  uint64_t queue_bytes_ = 0;  // then
  double growth_ = 0;         // of the queue, bytes a second, smoothed
};

}  // namespace fdbnbd::kv::fdb
