#pragma once

#include <cstdint>
#include <optional>

#include "base/clock.h"
#include "volume/records.h"

namespace fdbnbd::volume {

// What the store says of who holds a volume, at one moment.
struct HolderSight {
  FenceRecord fence;
  std::optional<HeartbeatRecord> heartbeat;
  std::optional<HandoverRecord> handover;

  // Who holds it, for people.
  std::string holder() const;

  // Whether the holder was a process of this host that has ended.
  bool holder_has_ended() const;
};

// Tells from repeated looks whether the holder of a volume is alive, by our own monotonic clock alone: a
// holder is dead to us when its heartbeat stood still for the lease time from the first look to the last.
// Pure.
class HolderWatch {
 public:
  enum class Verdict : uint8_t {
    free,     // nobody holds it, or we do
    alive,    // the heartbeat moved since the look before
    silent,   // it has stood still for the lease time: the volume may be taken
    unclear,  // look again
  };

  HolderWatch(InstanceId self, Duration lease_duration) : self_(self), lease_duration_(lease_duration) {}

  // A look that was asked for at `asked_at` and answered at `answered_at`.
  Verdict look(const HolderSight& sight, MonotonicTime asked_at, MonotonicTime answered_at);

 private:
  // What changes when a holder gives a sign of life.
  struct Sign {
    uint64_t epoch;
    InstanceId owner;
    uint64_t counter;
    InstanceId requester;

    friend bool operator==(const Sign&, const Sign&) = default;
  };

  const InstanceId self_;
  const Duration lease_duration_;
  std::optional<Sign> last_;
  MonotonicTime since_{};      // the first look at last_ was answered, and nothing hid the holder since
  MonotonicTime last_look_{};  // answered
};

}  // namespace fdbnbd::volume
