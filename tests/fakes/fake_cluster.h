#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "kv/fdb/fake_fdb_testing.h"
#include "kv/mutations.h"
#include "kv/resolver.h"

// A cluster in memory with FoundationDB's rules: versions, the resolver's check, batches of commits that
// share a version, and a bounded window of versions. One lock for all of it, which the caller takes.

namespace fdbnbd::fake {

using Version = int64_t;
using Value = std::shared_ptr<const std::string>;

struct Row {
  std::string key;
  Value value;
};

struct Commit {
  std::optional<Version> read_version;
  std::vector<std::pair<std::string, std::string>> read_conflicts;
  kv::MutationList mutations;
};

struct Fault {
  int error = 0;
  int outcome = kv::fdb::kFakeNothing;
};

class Cluster {
 public:
  std::mutex mutex;
  // All of the following guarded by mutex.

  void reset(uint64_t seed);

  Version newest_version() const { return newest_version_; }
  void advance(Version versions);
  void set_window(Version versions) { window_ = versions; }

  // 0, 1007 or 1009.
  int check_readable(Version version) const;
  Value get(const std::string& key, Version version) const;
  // Up to `rows_limit` rows or until `bytes_limit` is reached; whether rows are left.
  bool get_range(const std::string& begin, const std::string& end, size_t rows_limit, size_t bytes_limit,
                 bool reverse, Version version, std::vector<Row>& rows) const;

  // Starts a batch: the version of all commits up to the next call.
  void begin_batch();
  // The error, 0 for success at `version`.
  int commit(const Commit& request, Version& version);

  std::optional<Fault> take_fault(int operation);

  std::array<std::deque<Fault>, kv::fdb::kFakeOperations> faults;
  std::array<int64_t, kv::fdb::kFakeCounts> counts{};
  std::vector<Commit> late_commits;
  bool unreachable = false;
  bool cancel_ignored = false;
  bool batch_starved = false;
  bool immediate = false;
  bool batching = true;
  bool holding = false;
  Random random{1};

 private:
  struct Stored {
    Version version;
    Value value;  // null: cleared
  };
  static Value visible(const std::vector<Stored>& history, Version version);
  void put(const std::string& key, Value value, Version version);

  std::map<std::string, std::vector<Stored>> rows_;
  std::unique_ptr<kv::Resolver> resolver_;
  Version newest_version_ = 1;
  Version window_ = 5'000'000;
  Version oldest_version_ = 0;
  Version batch_version_ = 0;
  uint64_t batch_commits_ = 0;
};

}  // namespace fdbnbd::fake
