#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "async/event.h"
#include "async/executor.h"
#include "async/scope.h"
#include "async/task.h"
#include "base/clock.h"
#include "base/function.h"
#include "base/result.h"
#include "kv/engine.h"
#include "volume/fence.h"
#include "volume/holder_watch.h"
#include "volume/keys.h"
#include "volume/store.h"
#include "volume/vacancy.h"

// Who serves a volume, where several servers share a store (docs/architecture.md, "Ownership"). The fence
// record is the truth, and every data commit proves it. The lease is what keeps servers from taking volumes
// away from each other, and what bounds how long one may serve reads without asking.

namespace fdbnbd::volume {

// One volume in a shared store, and who asks.
struct LeasePlace {
  kv::Engine& engine;
  Executor& executor;
  const KeySpace& keys;
  VolumeId volume;
  InstanceId self;
  // Set once the process is to end: nobody waits for a volume any longer.
  const std::atomic<bool>& stopping;
};

// Reads who holds the volume, at one version. not_found where there is no such volume; unavailable, ...
Task<Result<HolderSight>> look_at_holder(LeasePlace place);

// Waits until the volume may be taken: until it is free, or its holder has been silent for the lease time;
// with Takeover::handover until the holder has let it go, which this asks for; with Takeover::force not at
// all. Errc::busy names the holder where it is alive; cancelled once place.stopping is set. Who gives up
// takes back what he asked for.
Task<Result<Vacancy>> wait_for_holder(LeasePlace place, Ownership ownership, std::string volume_name);

// A tenure of one volume, kept alive. On the executor's thread.
class Lease final : private TimerWork {
 public:
  // `fence` is the volume's; it outlives the lease.
  Lease(LeasePlace place, Ownership ownership, Fence& fence);
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease();

  // Takes the volume as the ownership's terms say, and gives the first sign of life. busy, not_found, ...
  Task<Result<void>> acquire(std::string volume_name);

  // Gives signs of life until stop(). `on_lost` is called once when the volume turns out to be somebody
  // else's, `on_handover` once when another server asks for it. Both from a task of the lease: they must not
  // wait for stop().
  void start(UniqueFunction<void()> on_lost, UniqueFunction<void()> on_handover);
  Task<void> stop();

  // Whether nobody can have taken the volume since a moment ago, so that what we know of it is true.
  bool allows_reads() const { return place_.executor.clock().now() < reads_until_; }
  // Waits until allows_reads(), for as long as the store does not answer. Errc::fenced.
  Task<Result<void>> renew();

 private:
  void run() noexcept override;
  Task<void> beat();
  Task<Result<void>> try_beat();
  HeartbeatRecord next_heartbeat();
  // Our first sign of life, in the transaction that takes the volume. busy where its holder turns out to be
  // alive.
  Task<Result<void>> announce(kv::Transaction& transaction, const Vacancy& vacancy,
                              const std::string& heartbeat);
  Duration interval() const { return ownership_.lease_duration / limits::kHeartbeatsPerLease; }
  // A sign of life that was begun at `begun_at` has been taken down.
  void on_proven(MonotonicTime begun_at);

  const LeasePlace place_;
  const Ownership ownership_;
  const std::string fence_key_;
  const std::string heartbeat_key_;
  const std::string handover_key_;
  Fence& fence_;
  UniqueFunction<void()> on_lost_;
  UniqueFunction<void()> on_handover_;
  uint64_t counter_ = 0;  // of the last heartbeat that was tried
  MonotonicTime reads_until_{};
  bool started_ = false;
  bool beating_ = false;
  Event beat_ended_;
  TaskScope scope_;
};

}  // namespace fdbnbd::volume
