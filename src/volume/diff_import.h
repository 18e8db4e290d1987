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
#include "volume/vacancy.h"

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

// A volume that nobody can write any more.
struct QuietVolume {
  VolumeId id;
  FenceRecord fence;
  uint64_t data_blocks_count = 0;  // that it reads as data
};

// Takes the volume from a holder that gives no sign of life, if one has it: what `claimed`, of
// OpenVolumes::claim(), says. A holder that wakes up cannot write any more, so what is read of the volume
// from then on stays true while its fence is what this gives. busy where somebody else is at it.
Task<Result<QuietVolume>> make_quiet(RecordReader& records, VolumeId id, std::string name,
                                     std::optional<Vacancy> claimed);

// What finish_import() puts into the store, and between what.
struct ImportEnd {
  LayerId new_top;  // where a snapshot is taken
  WallTime created{};
  QuietVolume partial;
  std::optional<QuietVolume> volume;  // of an import that has a `from`
};

// Makes `import.partial` the volume, or its next snapshot. Both are reserved. Errors as find_import_base();
// no_space; busy.
Task<Result<void>> finish_import(kv::Transaction& transaction, RecordReader& records,
                                 const DiffImport& import, const ImportEnd& end);

}  // namespace fdbnbd::volume
