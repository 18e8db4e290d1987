#pragma once

#include <rocksdb/file_system.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "kv/rocks/file_descriptor.h"
#include "kv/rocks/sync_point.h"

namespace fdbnbd::kv {

class LogFile;

// The file system under RocksDB. Debian builds RocksDB with its assertions, and some of them take for
// impossible what a full or failing disk does; this keeps RocksDB away from those:
//  - It syncs the write-ahead log itself. RocksDB's SyncWAL() ends the process where it meets a log that
//  could
//    not be appended to.
//  - Making a log succeeds, and appending to it fails. RocksDB ends the process the second time that it
//  cannot
//    make a log.
//  - Making a table fails where there is no room for an empty one. RocksDB ends the process where a
//  compaction
//    cannot write a table that has become empty.
class StoreFiles final : public rocksdb::FileSystemWrapper {
 public:
  // `directory` is that of the store, and outlives this.
  StoreFiles(const std::shared_ptr<rocksdb::FileSystem>& target, const FileDescriptor& directory);
  ~StoreFiles() override;

  // Before the first use: `notify` is called where an append to a log has failed, before RocksDB learns it.
  void before_torn(std::function<void()> notify) { before_torn_ = std::move(notify); }

  // By the only writer, when a write has succeeded: what is in the newest log are whole records.
  void note_whole_records();

  // Whether the newest log could not be appended to, or be written out on the way. RocksDB ends the process
  // when it is to go on with it, and when it is to begin another one otherwise than by DB::Resume().
  bool is_torn() const;

  // Brings all that was written to stable storage. Returns up to where, in whole records. One caller at a
  // time; beside writes. After a failure, be it of a sync that RocksDB made, what is on the disk is unknown:
  // it is never called again.
  Result<SyncPoint::Position> sync();

  const char* Name() const override { return "fdb-nbd"; }
  rocksdb::IOStatus NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* result,
                                    rocksdb::IODebugContext* context) override;
  rocksdb::IOStatus DeleteFile(const std::string& path, const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* context) override;

 private:
  class WritableLog;

  rocksdb::IOStatus reserve(rocksdb::FSWritableFile& table) const;

  std::shared_ptr<LogFile> newest() const;
  // Whether RocksDB still has it.
  bool is_open(const LogFile& log) const;
  void forget(const std::string& path);
  // Of a log, by RocksDB.
  void note_sync_failed(const rocksdb::IOStatus& error);

  const FileDescriptor& directory_;
  std::function<void()> before_torn_;
  mutable std::mutex mutex_;
  // Those that RocksDB has open, in the order in which they were made: it writes to the last one. Guarded by
  // mutex_.
  std::vector<std::shared_ptr<LogFile>> logs_;
  // The first failure of a sync that RocksDB made. It outlives the log: RocksDB syncs again, which succeeds
  // without the lost pages, and closes it. Guarded by mutex_.
  rocksdb::IOStatus sync_error_;
  std::shared_ptr<LogFile> named_;  // whose name is on stable storage; by sync()
};

}  // namespace fdbnbd::kv
