#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "async/executor.h"
#include "async/task.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"
#include "kv/engine.h"

// Disks that older NBD servers keep in FoundationDB, to be read and never written. docs/import.md has the
// layouts.

namespace fdbnbd::legacy {

// One such disk. It must not change meanwhile: each read is at a version of its own. Errors: those of the
// engine, and corruption for what cannot be what the other program wrote; each names the blocks.
class Disk {
 public:
  virtual ~Disk() = default;

  // As the other server tells its clients; any number.
  virtual uint64_t size_bytes() const = 0;

  // Fills `into` with what is at [offset_bytes, offset_bytes + into.size()), which is inside the disk; what
  // was never written is zeroes. False where nothing at all is stored there. `into` lives until the task is
  // done.
  virtual Task<Result<bool>> read(Executor& executor, uint64_t offset_bytes, MutableByteView into) = 0;

  // What a user has to know of a copy; empty where there is nothing.
  virtual std::string warning() const { return {}; }

  // The first offset from `offset_bytes` on where something may be stored; size_bytes() where nothing is.
  virtual Task<Result<uint64_t>> find_data(Executor& executor, uint64_t offset_bytes) = 0;
};

// The disk `name` of fdb-nbd.py (github.com/dividuum/fdb-nbd). `engine` outlives it. not_found, with the
// names that there are; not_supported for a size or blocks that no volume can have; corruption; the engine's
// errors.
Task<Result<std::unique_ptr<Disk>>> open_py_disk(kv::Engine& engine, Executor& executor, std::string name);

// The volume or snapshot `name` of the Java server github.com/spullara/nbd. Also busy where a server has
// renewed its lease lately, as `now` tells.
Task<Result<std::unique_ptr<Disk>>> open_array_disk(kv::Engine& engine, Executor& executor, std::string name,
                                                    WallTime now);

}  // namespace fdbnbd::legacy
