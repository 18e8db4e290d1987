#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "kv/rocks/file_descriptor.h"

namespace fdbnbd::kv {

// How much of the write-ahead log is known to be on stable storage, kept in the file SYNC_POINT of the store.
//
// After a crash the end of the log may be torn, and RocksDB takes the log up to the first record that does
// not verify: what lies behind was acknowledged, but not flushed. Damage before the last sync is another
// matter: taking the log up to there would drop data that clients had flushed, without a word. The file tells
// the two apart. It is written without a sync of its own: after a power failure it may be older than the log,
// which only makes the check weaker.
class SyncPoint {
 public:
  struct Position {
    uint64_t log_number = 0;
    uint64_t bytes = 0;
  };

  explicit SyncPoint(const std::string& store_path);

  // Notes that the logs before `position.log_number` and the first bytes of that one, whole records, are
  // synced. Failing to is logged once.
  void note(Position position);

  // To be called before RocksDB opens the store: corruption where a synced part of a log does not verify.
  // Damage behind that is logged.
  static Result<void> check_logs(const std::string& store_path);

 private:
  const std::string path_;
  FileDescriptor file_;
  bool failure_logged_ = false;
};

// The number of the log that a file is by its name.
std::optional<uint64_t> log_number_of(const std::filesystem::path& path);

// Verifies the records of a log (RocksDB's log format, without recycled files) from its beginning.
struct LogCheck {
  uint64_t valid_bytes = 0;  // up to the end of the last record that verifies
  bool damaged = false;      // a record with a wrong checksum or form follows
  bool torn = false;         // the file ends inside a record
};
LogCheck check_log(std::string_view contents);

}  // namespace fdbnbd::kv
