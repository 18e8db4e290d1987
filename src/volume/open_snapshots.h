#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "async/event.h"
#include "async/executor.h"
#include "async/task.h"
#include "base/result.h"
#include "block/export.h"
#include "volume/keys.h"
#include "volume/open_volumes.h"
#include "volume/record_reader.h"
#include "volume/snapshot_disk.h"
#include "volume/store.h"

namespace fdbnbd::volume {

// A snapshot that is open here, or about to be.
struct OpenSnapshot {
  std::unique_ptr<SnapshotDisk> disk;  // null while it is being opened
  uint32_t sessions_count = 0;
};

// The snapshots that are open in this process. On the home executor's thread.
class OpenSnapshots {
 public:
  // Both outlive it; it stops with `open_volumes`.
  OpenSnapshots(RecordReader& records, OpenVolumes& open_volumes)
      : records_(records), home_(records.executor()), open_volumes_(open_volumes) {}

  Task<Result<std::shared_ptr<block::Export>>> open(SnapshotName name);
  // The snapshot with that layer, where it is open here or about to be; null otherwise.
  const OpenSnapshot* find(LayerId layer) const {
    const auto found = open_.find(layer);
    return found == open_.end() ? nullptr : &found->second;
  }
  // Resolves when nobody has a snapshot open.
  Task<void> wait_until_unused();

 private:
  void release(LayerId layer);

  RecordReader& records_;
  Executor& home_;
  OpenVolumes& open_volumes_;
  std::map<LayerId, OpenSnapshot> open_;
  Event changed_;  // a snapshot was opened, closed or failed to open
};

}  // namespace fdbnbd::volume
