#pragma once

#include <rocksdb/db.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "base/result.h"
#include "kv/engine.h"
#include "kv/rocks/file_descriptor.h"
#include "kv/rocks/key_router.h"
#include "kv/rocks/rocks_engine.h"
#include "kv/rocks/store_files.h"
#include "kv/rocks/sync_point.h"

namespace fdbnbd::kv {

class StoreListener;

// An open RocksDB and what its users share. The members may be used from any thread.
class RocksStore {
 public:
  // As open_rocks_engine().
  static Result<std::unique_ptr<RocksStore>> open(const RocksOptions& options);
  RocksStore(const RocksStore&) = delete;
  RocksStore& operator=(const RocksStore&) = delete;
  // Syncs and closes.
  ~RocksStore();

  rocksdb::DB& db() const { return *db_; }
  rocksdb::ColumnFamilyHandle* family(Family family) const { return families_[static_cast<size_t>(family)]; }
  rocksdb::ColumnFamilyHandle* family_of(std::string_view key) const {
    return family(router_.family_of(key));
  }
  const KeyRouter& router() const { return router_; }
  const std::string& path() const { return path_; }
  uint64_t memory_bytes() const { return memory_bytes_; }

  // The newest commit that every read which starts now sees.
  Version last_version() const { return last_version_.load(std::memory_order_acquire); }
  // By the only writer, behind each write: its last version.
  void publish(Version version);

  // A state of the store and the version that it is. The caller releases the snapshot.
  struct State {
    const rocksdb::Snapshot* snapshot;
    Version version;
  };
  State take_snapshot();

  StoreFiles& files() { return *files_; }

  // Held while something that writes the log, or begins another one, looks whether it is torn and goes on: a
  // log that is torn in between would have RocksDB end the process.
  std::mutex& log_mutex() { return log_mutex_; }

  // Brings what was written to stable storage, whether or not RocksDB still takes writes. One caller at a
  // time.
  Result<void> sync_log();

  // Once a compaction has met a damaged value, compactions must not move values any more, or none would ever
  // succeed. By the only writer, now and then.
  void stop_moving_values_if_damaged();

  // Free space that opening this store as it is now would ask for.
  uint64_t bytes_needed_to_open() const;

  // Set once a sync has failed: what is on the disk is unknown from then on.
  std::atomic<bool> sync_failed = false;

 private:
  RocksStore(const RocksOptions& options, FileDescriptor lock);

  const std::string path_;
  const uint64_t memory_bytes_;
  const KeyRouter router_;
  FileDescriptor lock_;
  // RocksDB uses these to its end.
  const std::shared_ptr<StoreFiles> files_;
  const std::unique_ptr<rocksdb::Env> env_;
  const std::shared_ptr<StoreListener> listener_;
  std::mutex log_mutex_;
  SyncPoint sync_point_;                // the sync lane's
  bool moving_values_stopped_ = false;  // the writer's
  std::unique_ptr<rocksdb::DB> db_;
  rocksdb::ColumnFamilyHandle* families_[kFamiliesCount] = {};

  struct Published {
    rocksdb::SequenceNumber sequence;
    Version version;
  };
  std::atomic<Version> last_version_ = 1;
  std::mutex published_mutex_;
  std::deque<Published> published_;  // the newest ones, guarded by published_mutex_
};

}  // namespace fdbnbd::kv
