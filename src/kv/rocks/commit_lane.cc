#include "kv/rocks/commit_lane.h"

#include <fmt/core.h>
#include <sys/statvfs.h>

#include <mutex>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "kv/rocks/group_batch.h"
#include "kv/rocks/rocks_errors.h"

namespace fdbnbd::kv {

namespace {

// What goes into one entry of the log.
constexpr uint64_t kMaxGroupBytes = 4 * limits::kMiB;
// After the disk was full: how often, and with how much free space, to try to go on.
constexpr Duration kResumeInterval = std::chrono::milliseconds(250);
constexpr uint64_t kMinFreeBytes = 16 * limits::kMiB;
// With so much free space there is no need to look closer: it is above any log and what opening adds.
constexpr uint64_t kPlentyOfSpaceBytes = 512 * limits::kMiB;
// Range tombstones that a memtable may hold before it is written out: reads sort them again after each one.
constexpr size_t kMaxTombstonesInMemory = 256;

}  // namespace

CommitLane::CommitLane(RocksStore& store, Reclaimer& reclaimer)
    : store_(store),
      reclaimer_(reclaimer),
      resolver_(limits::kMaxResolverEntries),
      last_version_(store.last_version()),
      lane_("rocks commit", [this](Commits commits) { process(commits); }) {}

void CommitLane::process(Commits commits) {
  store_.stop_moving_values_if_damaged();
  while (!commits.empty()) commits = commits.subspan(commit_group(commits));
}

size_t CommitLane::commit_group(Commits commits) {
  GroupBatch group(store_);
  size_t group_size = 0;
  uint64_t bytes = 0;
  while (group_size < commits.size() && (group_size == 0 || bytes < kMaxGroupBytes)) {
    bytes += commits[group_size]->mutations.bytes();
    group.expect(commits[group_size++]->mutations);
  }

  std::vector<Result<Version>> results;
  results.reserve(group_size);
  while (results.size() < group_size) {
    const PendingCommit& commit = *commits[results.size()];
    if (Result<void> judged = judge(commit); !judged) {
      results.emplace_back(propagate(judged));
      continue;
    }
    if (Result<void> added = group.add(commit.mutations); !added) {
      results.emplace_back(propagate(added));
      break;  // the others see the batch as it is written, in a group of their own
    }
    ++last_version_;
    record_conflicts(commit.mutations, last_version_);
    results.emplace_back(last_version_);
  }

  const rocksdb::Status written = write(group);
  if (written.ok()) {
    store_.publish(last_version_);
    writes_count_.fetch_add(1, std::memory_order_acq_rel);
    note_tombstones(group.bulk_tombstones());
  } else {
    // A write that failed may have used up a sequence number.
    store_.publish(store_.last_version());
    Error error = error_of(written, fmt::format("store {}: a commit failed", store_.path()));
    if (error.code != Errc::no_space) error.code = Errc::io;
    for (Result<Version>& result : results)
      if (result) result = tl::unexpected(error);
  }
  for (size_t i = 0; i < results.size(); ++i) commits[i]->done.complete(std::move(results[i]));
  return results.size();
}

Result<void> CommitLane::judge(const PendingCommit& commit) const {
  if (store_.sync_failed)
    return fail(Errc::io, fmt::format("store {}: a sync failed before; restart the server", store_.path()));
  if (!commit.read_version || commit.read_conflicts.empty()) return {};
  if (*commit.read_version < resolver_.oldest_version())
    return fail(Errc::unavailable, "the read version is too old to commit at");
  if (*commit.read_version > last_version_)
    return fail(Errc::unavailable, "the read version is not reached yet");
  for (const auto& [begin, end] : commit.read_conflicts)
    if (resolver_.changed_since({begin, end}, *commit.read_version))
      return fail(Errc::conflict, "a key that was read changed before the commit");
  return {};
}

void CommitLane::record_conflicts(const MutationList& mutations, Version version) {
  for (size_t i = 0; i < mutations.size(); ++i) {
    const Mutation mutation = mutations[i];
    if (!mutation.conflicts) continue;
    if (mutation.kind == MutationKind::clear_range) {
      resolver_.record({mutation.key, mutation.value}, version);
    } else {
      resolver_.record({mutation.key, key_after(mutation.key)}, version);
    }
  }
}

bool CommitLane::leaves_room_to_open(uint64_t batch_bytes) {
  struct statvfs space{};
  if (statvfs(store_.path().c_str(), &space) != 0) return true;
  const uint64_t free_bytes = uint64_t{space.f_bavail} * space.f_frsize;
  const bool leaves_room =
      free_bytes >= kPlentyOfSpaceBytes || free_bytes >= store_.bytes_needed_to_open() + 2 * batch_bytes;
  if (leaves_room == low_on_space_) {
    low_on_space_ = !leaves_room;
    if (low_on_space_) {
      log::error("store {}: the disk is full ({} bytes left): data is refused until there is room",
                 store_.path(), free_bytes);
    } else {
      log::info("store {}: there is room on the disk again; writes go on", store_.path());
    }
  }
  return leaves_room;
}

rocksdb::Status CommitLane::write(GroupBatch& group) {
  rocksdb::WriteBatch& batch = group.batch();
  if (batch.Count() == 0) return rocksdb::Status::OK();
  // Refused a little early, so that a store on a full disk can be opened and read, and discarding still
  // works.
  if (group.bulk_bytes() > 0 && !leaves_room_to_open(batch.GetDataSize())) return rocksdb::Status::NoSpace();
  if (stopped_) try_to_resume();
  const rocksdb::Status written = write_log(batch);
  if (written.ok()) {
    store_.files().note_whole_records();
    if (failing_) log::info("store {}: writes go on", store_.path());
    failing_ = stopped_ = false;
    return written;
  }
  failure_ = written;
  const bool out_of_space = errc_of(written) == Errc::no_space;
  stopped_ = stopped_ || out_of_space || written.severity() == rocksdb::Status::Severity::kHardError;
  if (failing_) return written;
  failing_ = true;
  if (out_of_space) {
    log::error("store {}: the disk is full; writes fail until there is room", store_.path());
  } else {
    log::error("store {}: writes fail{}: {}", store_.path(), stopped_ ? " for now" : "; restart the server",
               written.ToString());
  }
  return written;
}

rocksdb::Status CommitLane::write_log(rocksdb::WriteBatch& batch) {
  const std::lock_guard lock(store_.log_mutex());
  if (!store_.files().is_torn()) return store_.db().Write(rocksdb::WriteOptions(), &batch);
  // Never as if it had been written.
  return failure_.ok() ? rocksdb::Status::IOError("the log is damaged") : failure_;
}

void CommitLane::try_to_resume() {
  const MonotonicTime now = system_clock().now();
  if (now < next_resume_) return;
  next_resume_ = now + kResumeInterval;
  struct statvfs space{};
  if (statvfs(store_.path().c_str(), &space) != 0) return;
  if (uint64_t{space.f_bavail} * space.f_frsize < kMinFreeBytes) return;
  // It writes out what it has in memory, which needs room itself, and begins another log then.
  rocksdb::Status resumed = store_.db().Resume();
  if (resumed.ok() && store_.files().is_torn()) resumed = leave_torn_log();
  if (!resumed.ok()) log::debug("store {}: cannot go on yet: {}", store_.path(), resumed.ToString());
}

// There was nothing in memory, so RocksDB would go on with the log. A row, any one, gets there once more as
// it is, beside the log. Writing it out fails, for the log; resuming from that begins another one.
rocksdb::Status CommitLane::leave_torn_log() {
  constexpr char kKey[] = "\xff";
  rocksdb::ColumnFamilyHandle* const family = store_.family(Family::meta);
  std::string value;
  const rocksdb::Status found = store_.db().Get(rocksdb::ReadOptions(), family, kKey, &value);
  if (!found.ok() && !found.IsNotFound()) return found;
  rocksdb::WriteOptions beside_log;
  beside_log.disableWAL = true;
  const rocksdb::Status written = found.ok() ? store_.db().Put(beside_log, family, kKey, value)
                                             : store_.db().Delete(beside_log, family, kKey);
  store_.publish(store_.last_version());
  if (!written.ok()) return written;
  rocksdb::FlushOptions options;
  options.allow_write_stall = true;
  const rocksdb::Status flushed = store_.db().Flush(options, family);
  return flushed.ok() ? flushed : store_.db().Resume();
}

void CommitLane::note_tombstones(const std::vector<RangePart>& tombstones) {
  for (const RangePart& cleared : tombstones) reclaimer_.note_cleared(cleared);
  tombstones_in_memory_ += tombstones.size();
  if (tombstones_in_memory_ < kMaxTombstonesInMemory) return;
  tombstones_in_memory_ = 0;
  rocksdb::FlushOptions options;
  options.wait = false;
  options.allow_write_stall = true;
  const rocksdb::Status flushed = store_.db().Flush(options, store_.family(Family::bulk));
  if (!flushed.ok())
    log::warning("store {}: writing out tombstones failed: {}", store_.path(), flushed.ToString());
}

}  // namespace fdbnbd::kv
