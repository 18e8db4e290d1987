#include "volume/holder_watch.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/endian.h"
#include "base/limits.h"

namespace fdbnbd::volume {

std::string HolderSight::holder() const {
  if (fence.is_free()) return "nobody";
  if (heartbeat && heartbeat->owner == fence.owner && !heartbeat->holder.empty()) return heartbeat->holder;
  return fmt::format("the server {:016x}", load_be<uint64_t>(fence.owner.data()));
}

bool HolderSight::holder_has_ended() const {
  return heartbeat && heartbeat->owner == fence.owner && has_ended(heartbeat->process);
}

HolderWatch::Verdict HolderWatch::look(const HolderSight& sight, MonotonicTime asked_at,
                                       MonotonicTime answered_at) {
  if (sight.fence.owner == self_) return Verdict::free;
  // A free volume that was handed over is the requester's, until that turns out to be gone.
  const InstanceId requester = sight.handover ? sight.handover->requester : InstanceId{};
  if (sight.fence.is_free() && (requester == InstanceId{} || requester == self_)) return Verdict::free;

  const bool has_heartbeat = sight.heartbeat && sight.heartbeat->owner == sight.fence.owner;
  const Sign sign{sight.fence.epoch, sight.fence.owner, has_heartbeat ? sight.heartbeat->counter : 0,
                  requester};
  Duration lease = lease_duration_;
  if (has_heartbeat)
    lease = std::max<Duration>(lease, std::chrono::milliseconds(sight.heartbeat->lease_duration_ms));

  const std::optional<Sign> before = std::exchange(last_, sign);
  const MonotonicTime last_look = std::exchange(last_look_, answered_at);
  if (!before || before->epoch != sign.epoch || before->owner != sign.owner ||
      before->requester != sign.requester) {
    since_ = answered_at;
    return Verdict::unclear;
  }
  if (before->counter != sign.counter) {
    since_ = answered_at;
    return Verdict::alive;
  }
  // While the store does not answer us it may not have answered the holder either: the time does not count.
  const Duration blind =
      std::max<Duration>(lease / limits::kHeartbeatsPerLease, std::chrono::milliseconds(1));
  if (answered_at - asked_at > blind || answered_at - last_look > 2 * blind) {
    since_ = answered_at;
    return Verdict::unclear;
  }
  return asked_at - since_ >= lease ? Verdict::silent : Verdict::unclear;
}

}  // namespace fdbnbd::volume
