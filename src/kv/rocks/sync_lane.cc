#include "kv/rocks/sync_lane.h"

#include <fmt/core.h>

#include "base/log.h"

namespace fdbnbd::kv {

SyncLane::SyncLane(RocksStore& store, const CommitLane& commits)
    : store_(store), commits_(commits), lane_("rocks sync", [this](std::span<PendingSync* const> syncs) {
        const Result<void> synced = sync();
        for (PendingSync* const waiting : syncs) waiting->done.complete(synced);
      }) {}

Result<void> SyncLane::sync() {
  if (!store_.sync_failed) {
    // Read first: a write that comes meanwhile may or may not be covered.
    const uint64_t writes_count = commits_.writes_count();
    if (writes_count == synced_writes_count_) return {};
    const Result<void> synced = store_.sync_log();
    if (synced) {
      synced_writes_count_ = writes_count;
      return {};
    }
    store_.sync_failed = true;
    log::error("nothing more is written: {}", synced.error().what);
  }
  return fail(Errc::io, fmt::format("store {}: a sync failed; restart the server", store_.path()));
}

}  // namespace fdbnbd::kv
