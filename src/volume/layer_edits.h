#pragma once

#include <vector>

#include "async/task.h"
#include "base/result.h"
#include "kv/engine.h"
#include "volume/keys.h"
#include "volume/record_reader.h"
#include "volume/records.h"

// Changes to the graph of layers (docs/format.md, "Layers"), each as a part of a transaction.

namespace fdbnbd::volume {

// Puts a new layer on top of `parent`; 0: on nothing.
void add_layer(kv::Transaction& transaction, const KeySpace& keys, LayerId layer, LayerId parent,
               const VolumeRecord& volume);

// Gives a volume's top layer up: it is cleared in the background. What is below loses a child.
Task<Result<void>> drop_top(kv::Transaction& transaction, const KeySpace& keys, LayerId top);

// Takes the names of snapshots of one volume away: their layers are merged or cleared in the background.
Task<Result<void>> drop_snapshots(kv::Transaction& transaction, RecordReader& records,
                                  const std::vector<SnapshotRow>& snapshots, VolumeId id);

}  // namespace fdbnbd::volume
