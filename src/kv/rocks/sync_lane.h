#pragma once

#include <span>

#include "async/one_shot.h"
#include "kv/rocks/commit_lane.h"
#include "kv/rocks/lane.h"
#include "kv/rocks/rocks_store.h"

namespace fdbnbd::kv {

// One sync on its way; in the frame of the task that waits for it.
struct PendingSync {
  explicit PendingSync(Executor& executor) : done(executor) {}
  OneShot<Result<void>> done;
};

// Syncs the log: once for all who wait, and not at all where nothing was written since the last time.
class SyncLane {
 public:
  SyncLane(RocksStore& store, const CommitLane& commits);

  // Any thread.
  void submit(PendingSync& sync) { lane_.submit(sync); }

 private:
  Result<void> sync();

  RocksStore& store_;
  const CommitLane& commits_;
  uint64_t synced_writes_count_ = 0;
  Lane<PendingSync> lane_;  // last: it uses all of the above
};

}  // namespace fdbnbd::kv
