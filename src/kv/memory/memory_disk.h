#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/result.h"
#include "kv/engine.h"
#include "kv/memory/memory_engine.h"
#include "kv/mutations.h"
#include "kv/resolver.h"

namespace fdbnbd::kv {

// What a transaction brings to its commit. Without a read version it takes the newest at commit, so nothing
// can have changed.
struct CommitRequest {
  std::optional<Version> read_version;
  std::vector<std::pair<std::string, std::string>> read_conflicts;  // [first, second)
  MutationList mutations;
};

// A value that readers keep while writers replace it; null: the key is absent.
using SharedValue = std::shared_ptr<const std::string>;

struct SharedRow {
  std::string key;
  SharedValue value;
};

// The rows, in versions. Every call takes the mutex for itself and is done when it returns.
class MemoryDisk {
 public:
  static constexpr Version kNewest = std::numeric_limits<Version>::max();

  // An engine opens and closes the disk. Errc::busy where it is open and one of the two does not share it.
  Result<void> open(const MemoryOptions& options);
  void close();

  Version newest_version() const;
  uint64_t stored_bytes() const;

  // At `version` or kNewest. Errc::unavailable where it is too old or not reached yet.
  Result<SharedValue> get(std::string_view key, Version version) const;
  // At most `rows_limit` rows; a row may be absent in between, so fewer mean the end of the range.
  Result<std::vector<SharedRow>> get_range(KeyRange range, size_t rows_limit, bool reverse,
                                           Version version) const;

  // conflict, unavailable, no_space.
  Result<Version> commit(const CommitRequest& request);
  // Tries `request` later: behind `commits_count` other commits, or at release_late_commits().
  void commit_late(CommitRequest request, uint64_t commits_count);
  void release_late_commits();

  // Every commit so far survives a power loss.
  void sync();
  size_t unsynced_commits_count() const;
  // Takes back the newest commits, until only `kept_count` of those that were not synced are left.
  void lose_unsynced_commits(size_t kept_count);

 private:
  struct Old {
    Version version;
    SharedValue value;
  };
  struct Row {
    Version version = 0;
    SharedValue value;
    std::vector<Old> older;  // oldest first
  };
  using Rows = std::map<std::string, Row, std::less<>>;
  // That a row got a new value at `version`: what it replaced is kept while the window reaches back to it.
  struct Replaced {
    Version version;
    Rows::iterator row;
    uint64_t bytes;
  };
  struct Undo {
    std::string key;
    SharedValue value;
  };
  struct LateCommit {
    CommitRequest request;
    uint64_t due_at_commit;
  };

  // All of the following with mutex_ held.
  Result<Version> commit_now(const CommitRequest& request);
  void run_due_late_commits(bool all);
  Result<void> check_readable(Version version) const;
  static const SharedValue* visible(const Row& row, Version version);
  void apply(const MutationList& mutations, Version version);
  void put(std::string_view key, SharedValue value, Version version);
  void clear_range(KeyRange range, Version version);
  void advance_window();
  void forget_oldest_replaced();

  mutable std::mutex mutex_;
  Rows rows_;
  Version newest_version_ = 0;
  Version oldest_version_ = 0;  // that can be read
  uint64_t stored_bytes_ = 0;
  std::deque<Replaced> history_;
  uint64_t history_bytes_ = 0;
  std::unique_ptr<Resolver> resolver_;
  Random random_{0};
  uint64_t commits_count_ = 0;
  std::vector<LateCommit> late_commits_;
  std::deque<std::vector<Undo>> unsynced_;  // one per commit, oldest first

  // Of the engines that have it open.
  uint32_t engines_count_ = 0;
  bool shared_ = false;
  Version read_window_versions_ = 0;
  uint64_t history_bytes_limit_ = 0;
  uint64_t capacity_bytes_ = 0;
  bool remembers_unsynced_ = false;
};

}  // namespace fdbnbd::kv
