#include "volume/snapshot_edits.h"

#include <fmt/core.h>

#include <string>
#include <utility>

#include "async/scope.h"
#include "volume/layer_edits.h"

namespace fdbnbd::volume {

namespace {

Error record_missing(const std::string& volume) {
  return {Errc::corruption, fmt::format("volume \"{}\": a record of it is missing", volume)};
}

using Values = RecordReader::Values;

Task<void> keep(Task<Result<Values>> reading, Result<Values>& values) {
  values = co_await std::move(reading);
}

// What the volumes of plans have, in their order.
struct PlannedRecords {
  Values volumes;
  Values fences;
  Values snapshots;  // that have the plan's name already
};

Task<Result<PlannedRecords>> read_planned(kv::Transaction& transaction, RecordReader& reader,
                                          const std::vector<SnapshotPlan>& plans) {
  std::vector<std::string> volume_keys;
  std::vector<std::string> fence_keys;
  std::vector<std::string> snapshot_keys;
  for (const SnapshotPlan& plan : plans) {
    volume_keys.push_back(reader.keys().volume(plan.id));
    fence_keys.push_back(reader.keys().fence(plan.id));
    snapshot_keys.push_back(reader.keys().snapshot(plan.id, plan.name.snapshot));
  }
  Result<Values> volumes;
  Result<Values> fences;
  Result<Values> snapshots;
  TaskScope reading;
  reading.spawn(keep(reader.read_rows(transaction, volume_keys), volumes));
  reading.spawn(keep(reader.read_rows(transaction, fence_keys), fences));
  reading.spawn(keep(reader.read_points(transaction, snapshot_keys), snapshots));
  co_await reading.join();
  if (!volumes) co_return propagate(volumes);
  if (!fences) co_return propagate(fences);
  if (!snapshots) co_return propagate(snapshots);
  co_return PlannedRecords{std::move(*volumes), std::move(*fences), std::move(*snapshots)};
}

}  // namespace

// The fence records change, so writes that are on their way with the old top layers all fail, and their
// owners bring them to the new ones: each write is either before the instant or behind it, on all volumes
// alike.
Task<Result<void>> take_snapshots(kv::Transaction& transaction, RecordReader& reader,
                                  const std::vector<SnapshotPlan>& plans, WallTime created) {
  const KeySpace& keys = reader.keys();
  ASSIGN_OR_CO_RETURN(const PlannedRecords found, co_await read_planned(transaction, reader, plans));
  std::vector<VolumeRecords> records;
  std::vector<std::string> usage_keys;
  for (size_t i = 0; i < plans.size(); ++i) {
    const SnapshotName& name = plans[i].name;
    const auto& volume_value = found.volumes[i];
    const auto& fence_value = found.fences[i];
    if (found.snapshots[i])
      co_return fail(Errc::exists, fmt::format("snapshot \"{}\" exists already", name.full()));
    if (!volume_value || !fence_value) co_return tl::unexpected(record_missing(name.volume));
    ASSIGN_OR_CO_RETURN(const VolumeRecord volume, VolumeRecord::decode(*volume_value));
    ASSIGN_OR_CO_RETURN(const FenceRecord fence, FenceRecord::decode(*fence_value));
    records.push_back({volume, fence});
    // Who has a volume open counts anew; what was counted before is nothing to pass on.
    if (fence.is_free()) usage_keys.push_back(keys.usage(fence.top_layer));
  }
  ASSIGN_OR_CO_RETURN(const Values usages, co_await reader.read_points(transaction, usage_keys));
  auto usage = usages.begin();
  for (size_t i = 0; i < plans.size(); ++i) {
    const VolumeRecord& volume = records[i].volume;
    FenceRecord fence = records[i].fence;
    ++fence.barrier;
    SnapshotRecord snapshot;
    snapshot.layer = std::exchange(fence.top_layer, plans[i].new_top);
    snapshot.size_bytes = volume.size_bytes;
    snapshot.stale_end_bytes = volume.stale_end_bytes;
    snapshot.created = created;
    snapshot.sequence = fence.barrier;
    transaction.set(keys.snapshot(plans[i].id, plans[i].name.snapshot), snapshot.encode());
    transaction.set(keys.fence(plans[i].id), fence.encode());
    add_layer(transaction, keys, plans[i].new_top, snapshot.layer, volume);
    if (!records[i].fence.is_free()) continue;
    if (*usage) transaction.set(keys.usage(plans[i].new_top), **usage);
    ++usage;
  }
  co_return Result<void>{};
}

void put_clone(kv::Transaction& transaction, const KeySpace& keys, const ClonePlan& plan, VolumeRecord origin,
               LayerId parent) {
  VolumeRecord volume = std::move(origin);
  volume.id = plan.id;
  volume.created = plan.created;
  volume.quota_bytes = 0;
  volume.labels.clear();
  FenceRecord fence;
  fence.top_layer = plan.top;
  transaction.set(keys.name(plan.name), NameRecord{plan.id}.encode());
  transaction.set(keys.volume(plan.id), volume.encode());
  transaction.set(keys.fence(plan.id), fence.encode());
  add_layer(transaction, keys, plan.top, parent, volume);
}

Task<Result<VolumeId>> clone_volume(kv::Transaction& transaction, RecordReader& reader,
                                    const std::string& source, LayerId source_top, const ClonePlan& plan) {
  const KeySpace& keys = reader.keys();
  CO_RETURN_IF_ERROR(co_await reader.check_unused(transaction, plan.name));
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await reader.find(transaction, source));
  ASSIGN_OR_CO_RETURN(const VolumeRecords records, co_await reader.load(transaction, id, source));
  FenceRecord fence = records.fence;
  ++fence.barrier;
  const LayerId parent = std::exchange(fence.top_layer, source_top);
  ASSIGN_OR_CO_RETURN(auto layer, co_await reader.read_layer(transaction, parent));
  if (!layer) co_return tl::unexpected(record_missing(source));
  const std::string usage_key = keys.usage(parent);
  auto usage = co_await transaction.get(usage_key, kv::Isolation::serializable);
  if (!usage) co_return propagate(usage);
  transaction.set(keys.fence(id), fence.encode());
  add_layer(transaction, keys, source_top, parent, records.volume);
  put_clone(transaction, keys, plan, records.volume, parent);
  if (usage->has_value()) {
    transaction.set(keys.usage(source_top), **usage);
    transaction.set(keys.usage(plan.top), **usage);
    transaction.clear(usage_key);
  }
  layer->state = LayerState::unnamed;
  transaction.set(keys.layer(parent), layer->encode());
  transaction.set(keys.job(JobId{parent.value}),
                  JobRecord{.kind = JobKind::merge_layer, .layer = parent}.encode());
  co_return id;
}

Task<Result<void>> roll_back(kv::Transaction& transaction, RecordReader& reader, const RollbackPlan& plan) {
  const KeySpace& keys = reader.keys();
  ASSIGN_OR_CO_RETURN(const VolumeRecords records,
                      co_await reader.load(transaction, plan.id, plan.name.volume));
  ASSIGN_OR_CO_RETURN(const auto found, co_await get_record<SnapshotRecord>(
                                            transaction, keys.snapshot(plan.id, plan.name.snapshot),
                                            kv::Isolation::serializable));
  if (!found) co_return fail(Errc::not_found, fmt::format("there is no snapshot \"{}\"", plan.name.full()));
  if (plan.claimed && !records.fence.same_tenure(*plan.claimed)) {
    co_return fail(Errc::busy,
                   fmt::format("volume \"{}\" has just been opened by another server", plan.name.volume));
  }
  CO_RETURN_IF_ERROR(co_await drop_top(transaction, keys, records.fence.top_layer));
  VolumeRecord volume = records.volume;
  volume.size_bytes = found->size_bytes;
  volume.stale_end_bytes = found->stale_end_bytes;
  FenceRecord fence;
  fence.epoch = records.fence.epoch + 1;  // whoever had it open does not have it any more
  fence.barrier = records.fence.barrier + 1;
  fence.top_layer = plan.new_top;
  const std::string usage_key = keys.usage(found->layer);
  auto usage = co_await transaction.get(usage_key, kv::Isolation::serializable);
  if (!usage) co_return propagate(usage);
  transaction.set(keys.volume(volume.id), volume.encode());
  transaction.set(keys.fence(volume.id), fence.encode());
  add_layer(transaction, keys, plan.new_top, found->layer, volume);
  if (usage->has_value()) transaction.set(keys.usage(plan.new_top), **usage);
  co_return Result<void>{};
}

}  // namespace fdbnbd::volume
