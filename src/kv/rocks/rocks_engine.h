#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/limits.h"
#include "kv/engine.h"

// The embedded store: RocksDB in one directory, used by one process.

namespace fdbnbd::kv {

struct RocksOptions {
  // The store's directory. It is made where it is missing, its parent is not.
  std::string path = {};
  bool create_if_missing = true;

  // Bound of the block cache and the write buffers together; at least limits::kMinRocksMemoryBytes.
  uint64_t memory_bytes = limits::kDefaultRocksMemoryBytes;

  // Rows whose key has one of `bulk_tags` behind `key_prefix` hold large values (4 KiB and more) that are not
  // worth compressing again: they are stored apart from the others. Must not change once rows are stored.
  std::string key_prefix = {};
  std::string bulk_tags = "D";
};

// Opens the store and holds it until the engine is destroyed. A transaction that has a read version set by
// the caller reads the newest state instead, and conflicts with what changed since the set version.
// Failures, each with the path in its text:
//   busy         another process (or engine) has it open
//   not_found    the parent directory is missing; the store is, where it is not to be made
//   permission   the directory cannot be written
//   corruption   what lies there is not a store, or damaged beyond opening
//   no_space     the disk is full
//   io           the operating system failed
Result<std::unique_ptr<Engine>> open_rocks_engine(const RocksOptions& options);

}  // namespace fdbnbd::kv
