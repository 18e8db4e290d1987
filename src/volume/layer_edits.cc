#include "volume/layer_edits.h"

#include <string>
#include <utility>

namespace fdbnbd::volume {

void add_layer(kv::Transaction& transaction, const KeySpace& keys, LayerId layer, LayerId parent,
               const VolumeRecord& volume) {
  LayerRecord record;
  record.parent = parent;
  record.origin = volume.id;
  record.block_shift = volume.block_shift;
  record.striping = volume.striping;
  transaction.set(keys.layer(layer), record.encode());
  if (parent.value != 0) transaction.set(keys.child(parent, layer), ChildRecord{}.encode());
}

Task<Result<void>> drop_top(kv::Transaction& transaction, const KeySpace& keys, LayerId top) {
  const std::string key = keys.layer(top);
  auto value = co_await transaction.get(key, kv::Isolation::serializable);
  if (!value) co_return propagate(value);
  // Without its record there is nothing to say of it but that it goes.
  LayerRecord record;
  if (value->has_value()) {
    ASSIGN_OR_CO_RETURN(record, LayerRecord::decode(**value));
  }
  const LayerId parent = std::exchange(record.parent, LayerId{});
  record.state = LayerState::deleting;
  transaction.set(key, record.encode());
  transaction.clear(keys.usage(top));
  transaction.set(keys.job(JobId{top.value}),
                  JobRecord{.kind = JobKind::reclaim_layer, .layer = top}.encode());
  if (parent.value == 0) co_return Result<void>{};
  transaction.clear(keys.child(parent, top));
  const std::string parent_key = keys.layer(parent);
  auto parent_value = co_await transaction.get(parent_key, kv::Isolation::serializable);
  if (!parent_value) co_return propagate(parent_value);
  if (!parent_value->has_value()) co_return Result<void>{};
  ASSIGN_OR_CO_RETURN(const LayerRecord parent_record, LayerRecord::decode(**parent_value));
  if (parent_record.state == LayerState::unnamed) {
    // It may have waited for having one child less.
    transaction.set(keys.job(JobId{parent.value}),
                    JobRecord{.kind = JobKind::merge_layer, .layer = parent}.encode());
  }
  co_return Result<void>{};
}

Task<Result<void>> drop_snapshots(kv::Transaction& transaction, RecordReader& records,
                                  const std::vector<SnapshotRow>& snapshots, VolumeId id) {
  const KeySpace& keys = records.keys();
  std::vector<std::string> wanted;
  for (const SnapshotRow& snapshot : snapshots) wanted.push_back(keys.layer(snapshot.record.layer));
  ASSIGN_OR_CO_RETURN(const RecordReader::Values values, co_await records.read_points(transaction, wanted));
  for (size_t i = 0; i < snapshots.size(); ++i) {
    const LayerId layer = snapshots[i].record.layer;
    transaction.clear(keys.snapshot(id, snapshots[i].name));
    if (!values[i]) continue;  // damaged; check tells
    ASSIGN_OR_CO_RETURN(LayerRecord record, LayerRecord::decode(*values[i]));
    record.state = LayerState::unnamed;
    transaction.set(keys.layer(layer), record.encode());
    transaction.clear(keys.usage(layer));
    transaction.set(keys.job(JobId{layer.value}),
                    JobRecord{.kind = JobKind::merge_layer, .layer = layer}.encode());
  }
  co_return Result<void>{};
}

}  // namespace fdbnbd::volume
