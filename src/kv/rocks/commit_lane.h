#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "async/one_shot.h"
#include "kv/engine.h"
#include "kv/mutations.h"
#include "kv/resolver.h"
#include "kv/rocks/lane.h"
#include "kv/rocks/reclaimer.h"
#include "kv/rocks/rocks_store.h"

namespace fdbnbd::kv {

// One commit on its way; part of its transaction.
struct PendingCommit {
  explicit PendingCommit(Executor& executor) : done(executor) {}

  // Nothing: there is no read to judge.
  std::optional<Version> read_version;
  std::vector<std::pair<std::string, std::string>> read_conflicts;  // [first, second)
  MutationList mutations;
  OneShot<Result<Version>> done;
};

class GroupBatch;

// The only writer of a store: judges conflicts in order of arrival, and writes all that waits as one entry of
// the log.
class CommitLane {
 public:
  CommitLane(RocksStore& store, Reclaimer& reclaimer);

  // Any thread.
  void submit(PendingCommit& commit) { lane_.submit(commit); }

  // How many writes of the log have succeeded. Any thread.
  uint64_t writes_count() const { return writes_count_.load(std::memory_order_acquire); }

 private:
  using Commits = std::span<PendingCommit* const>;

  // All on the lane's thread.
  void process(Commits commits);
  // Returns how many of `commits` it is done with.
  size_t commit_group(Commits commits);
  Result<void> judge(const PendingCommit& commit) const;
  void record_conflicts(const MutationList& mutations, Version version);
  rocksdb::Status write(GroupBatch& group);
  // Fails as the last write did where the log is torn.
  rocksdb::Status write_log(rocksdb::WriteBatch& batch);
  // Whether the disk has room for the batch and, behind it, for opening the store again.
  bool leaves_room_to_open(uint64_t batch_bytes);
  // Tells RocksDB to go on after an error, now and then and where there is room.
  void try_to_resume();
  // Makes RocksDB begin another log where the newest one could not be appended to.
  rocksdb::Status leave_torn_log();
  void note_tombstones(const std::vector<RangePart>& tombstones);

  RocksStore& store_;
  Reclaimer& reclaimer_;
  Resolver resolver_;
  Version last_version_ = 1;
  bool low_on_space_ = false;  // data was refused to keep room for opening
  rocksdb::Status failure_;    // of the last write that failed
  bool failing_ = false;       // the last write failed, and the log tells of it
  bool stopped_ = false;       // RocksDB refuses all writes until it is told to go on
  MonotonicTime next_resume_{};
  size_t tombstones_in_memory_ = 0;  // at most: since the last time they were written out from here
  std::atomic<uint64_t> writes_count_ = 0;
  Lane<PendingCommit> lane_;  // last: it uses all of the above
};

}  // namespace fdbnbd::kv
