#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "async/task.h"
#include "base/clock.h"
#include "base/result.h"
#include "kv/engine.h"
#include "volume/keys.h"
#include "volume/record_reader.h"
#include "volume/records.h"
#include "volume/store.h"
#include "volume/vacancy.h"

// Snapshots and rollback of volumes, as parts of a transaction: a few records each, whatever the volume
// holds.

namespace fdbnbd::volume {

struct SnapshotPlan {
  VolumeId id;
  SnapshotName name;  // the volume's for messages
  LayerId new_top;    // a new id

  // What take_snapshots() found: the top layer that the snapshot keeps, and the names of the snapshots
  // before, where it had to read them all.
  LayerId old_top = {};
  std::shared_ptr<NameSet> others = nullptr;
};

// Takes all of the snapshots, at one instant. exists; not_found.
Task<Result<void>> take_snapshots(kv::Transaction& transaction, RecordReader& reader,
                                  std::vector<SnapshotPlan>& plans, WallTime created, RowConflicts conflicts);

// To be called when the transaction has happened: what is known by it makes the next one cheaper.
void note_taken(RecordReader& reader, std::vector<SnapshotPlan> plans);

struct ClonePlan {
  std::string name;
  VolumeId id;  // new ids
  LayerId top;
  WallTime created;
};

// The records of a volume that stands on the frozen layer `parent` and is made as `origin`, whose size it
// has. Its name is free.
void put_clone(kv::Transaction& transaction, const KeySpace& keys, const ClonePlan& plan, VolumeRecord origin,
               LayerId parent);

// Makes a clone of the volume as it is, without a snapshot that would have a name: what was the volume's top
// layer lies below both, until one of them does not need it any more. The volume gets the top layer
// `source_top`, a new id. exists; not_found. The volume's id.
Task<Result<VolumeId>> clone_volume(kv::Transaction& transaction, RecordReader& reader,
                                    const std::string& source, LayerId source_top, const ClonePlan& plan);

struct RollbackPlan {
  VolumeId id;
  SnapshotName name;  // the volume's for messages
  LayerId new_top;    // a new id
  // That no other server has the volume open; nothing in a store that only this process has.
  std::optional<Vacancy> claimed;
};

// Makes the volume what it was at the snapshot. Nobody has it open here. not_found; busy.
Task<Result<void>> roll_back(kv::Transaction& transaction, RecordReader& reader, const RollbackPlan& plan);

}  // namespace fdbnbd::volume
