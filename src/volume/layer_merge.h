#pragma once

#include <cstdint>
#include <optional>

#include "async/task.h"
#include "base/result.h"
#include "kv/engine.h"
#include "volume/keys.h"
#include "volume/record_reader.h"
#include "volume/records.h"

// What becomes of the layers of removed snapshots: cleared, where nothing is above them; merged into the
// layer above, where there is one; left, where there are several.

namespace fdbnbd::volume {

// Where a background job stands after a turn.
enum class JobOutcome : uint8_t { more, blocked, done };

struct MergeStep {
  JobOutcome outcome = JobOutcome::done;
  uint64_t next_extent = 0;
  std::optional<JobRecord> follow_up;  // what the job is now
  LayerId child;
  std::optional<VolumeId> owner;         // has to do it itself: the child is its top layer, and it is open
  std::optional<VolumeId> stands_alone;  // the child, which was made for this one, has no parent any more
};

// One step of the merge of `layer` from extent `next_extent` on, or the finding that it cannot be done now.
// Reads all that it relies on serializably: several servers may be at it.
Task<Result<MergeStep>> merge_in(kv::Transaction& transaction, RecordReader& records, LayerId layer,
                                 uint64_t next_extent);

}  // namespace fdbnbd::volume
