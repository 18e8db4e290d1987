#pragma once

#include <optional>

#include "async/task.h"
#include "base/clock.h"
#include "base/result.h"
#include "kv/engine.h"
#include "volume/keys.h"
#include "volume/record_reader.h"
#include "volume/records.h"
#include "volume/store.h"

// How the stream of a diff becomes a volume's next snapshot: the changes are gathered in a volume of their
// own, a clone of the snapshot that they begin at, which then takes the place of the volume's top in one
// transaction. Until then nothing of the volume has changed.

namespace fdbnbd::volume {

// The volume that is changed, and the snapshot that the stream begins at.
struct ImportBase {
  VolumeId id;
  VolumeRecords records;
  SnapshotRow snapshot;
};

// Finds the base of an import that has one. not_found: there is no such volume or snapshot; differs: the
// snapshot is another one, or the volume has changed since it was taken; exists: it has the snapshot that
// would be taken.
Task<Result<ImportBase>> find_import_base(kv::Transaction& transaction, RecordReader& records,
                                          const DiffImport& import);

// What finish_import() puts into the store; chosen before, so that an attempt is known again.
struct ImportEnd {
  LayerId new_top;  // where a snapshot is taken
  WallTime created{};
  // The tenures in which nobody else is at work on the volumes, as OpenVolumes::claim() says.
  std::optional<FenceRecord> volume_claim;
  std::optional<FenceRecord> partial_claim;
};

// Makes `import.partial` the volume, or its next snapshot. Both are reserved. `partial_id` is where it is.
// Errors as find_import_base(); busy.
Task<Result<void>> finish_import(kv::Transaction& transaction, RecordReader& records,
                                 const DiffImport& import, VolumeId partial_id, const ImportEnd& end);

}  // namespace fdbnbd::volume
