#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <string>

#include "async/executor.h"
#include "async/task.h"
#include "base/function.h"
#include "base/random.h"
#include "base/result.h"
#include "kv/engine.h"
#include "volume/keys.h"
#include "volume/records.h"

namespace fdbnbd::volume {

// This process's tenure of one volume: the proof that every data commit carries (docs/architecture.md,
// "Ownership").
//
// version() is a version at which the fence record was known to be ours. A commit that reads at it and has
// the record's key in its read conflicts succeeds only if nobody took the volume since. On the executor's
// thread.
class Fence {
 public:
  Fence(kv::Engine& engine, Executor& executor, std::string key, InstanceId owner);

  // Takes the volume from whoever holds it, or only while the record is still of the tenure `from` (busy
  // where it is another one's by now): raises the epoch and makes this process the owner, with what
  // `along` reads and adds in the transaction (idempotent), or not, where that fails; then finds the first
  // proven version. not_found where the volume is gone.
  using Along = FunctionRef<Task<Result<void>>(kv::Transaction&)>;
  Task<Result<void>> acquire(std::optional<FenceRecord> from, Along along);

  // From whoever holds it.
  Task<Result<void>> acquire();

  kv::Version version() const { return version_; }
  const FenceRecord& record() const { return record_; }
  kv::KeyRange conflict_range() const { return {key_, key_end_}; }

  // Whether the volume was found to be somebody else's: for good. Any thread.
  bool is_lost() const { return lost_.load(std::memory_order_relaxed); }

  // A commit that carried the proof took effect at `version`. Everything up to the version before it is then
  // known to be ours; the same version is not, since another transaction may share it.
  void on_committed(kv::Version version);

  // The same of a commit that did not read at version(), but read the record serializably and found `record`,
  // of our tenure: it may have another top layer than record() by now.
  void on_committed(kv::Version version, const FenceRecord& record);

  // Reads the record afresh and with it a new version(). Errc::fenced where the volume is no longer ours, and
  // from then on always. Keeps trying while the store is unavailable.
  Task<Result<void>> refresh();

  // Rewrites the record, so that every commit in doubt that carried an older proof has either happened or
  // never will. Then as refresh().
  Task<Result<void>> barrier();

  // What this process knows of the volume may be wrong: it gives the volume up, for good. fenced.
  tl::unexpected<Error> give_up();

 private:
  Task<Result<void>> try_acquire(const std::optional<FenceRecord>& from, Along along);
  Task<Result<void>> try_read();
  Task<Result<void>> try_barrier();
  // The record was `record` at `version`. What is known of a later version stays.
  void take_note(const FenceRecord& record, kv::Version version);
  // Repeats `attempt` with back-off while the store is unavailable or the outcome unknown.
  template <typename Attempt>
  Task<Result<void>> persist(Attempt attempt);
  Error lost(std::string what);

  kv::Engine& engine_;
  Executor& executor_;
  const std::string key_;
  const std::string key_end_;
  const InstanceId owner_;
  Random random_;  // for back-off
  FenceRecord record_;
  kv::Version version_ = 0;
  std::atomic<bool> lost_ = false;
};

}  // namespace fdbnbd::volume
