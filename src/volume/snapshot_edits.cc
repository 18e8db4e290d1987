#include "volume/snapshot_edits.h"

#include <fmt/core.h>

#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "async/scope.h"
#include "async/semaphore.h"
#include "base/limits.h"
#include "volume/layer_edits.h"

namespace fdbnbd::volume {

namespace {

Error record_missing(const std::string& volume) {
  return {Errc::corruption, fmt::format("volume \"{}\": a record of it is missing", volume)};
}

using Values = RecordReader::Values;

// What the volumes of plans have, in their order.
struct PlannedRecords {
  std::vector<VolumeRecords> volumes;
  std::vector<bool> has_name;  // whether there is a snapshot of the plan's name already
};

std::string snapshot_key(RecordReader& reader, const SnapshotPlan& plan) {
  return reader.keys().snapshot(plan.id, plan.name.snapshot);
}

Task<Result<std::vector<VolumeRecords>>> read_records(kv::Transaction& transaction, RecordReader& reader,
                                                      const std::vector<SnapshotPlan>& plans,
                                                      RowConflicts conflicts) {
  std::vector<std::string> volume_keys;
  std::vector<std::string> fence_keys;
  for (const SnapshotPlan& plan : plans) {
    volume_keys.push_back(reader.keys().volume(plan.id));
    fence_keys.push_back(reader.keys().fence(plan.id));
  }
  Result<Values> volumes;
  Result<Values> fences;
  TaskScope reading;
  reading.spawn(store_result(reader.read_rows(transaction, volume_keys, conflicts), volumes));
  reading.spawn(store_result(reader.read_rows(transaction, fence_keys, conflicts), fences));
  co_await reading.join();
  if (!volumes) co_return propagate(volumes);
  if (!fences) co_return propagate(fences);
  std::vector<VolumeRecords> records;
  for (size_t i = 0; i < plans.size(); ++i) {
    const auto& volume_value = (*volumes)[i];
    const auto& fence_value = (*fences)[i];
    if (!volume_value || !fence_value) co_return tl::unexpected(record_missing(plans[i].name.volume));
    ASSIGN_OR_CO_RETURN(const VolumeRecord volume, VolumeRecord::decode(*volume_value));
    ASSIGN_OR_CO_RETURN(const FenceRecord fence, FenceRecord::decode(*fence_value));
    records.push_back({volume, fence});
  }
  co_return records;
}

// The names of all snapshots, unless they are too many. What is found holds if the transaction commits: it
// reads the fence serializably, and whoever makes a snapshot writes that.
Task<Result<void>> learn_names(kv::Transaction& transaction, RecordReader& reader, SnapshotPlan& plan,
                               Semaphore& reads) {
  Semaphore::Slot slot(reads);
  co_await slot.acquire();
  const std::string begin = reader.keys().snapshots_begin(plan.id);
  const std::string end = reader.keys().snapshots_end(plan.id);
  ASSIGN_OR_CO_RETURN(
      const kv::RangeResult page,
      co_await transaction.get_range({begin, end}, {.rows_limit = limits::kMaxSnapshotsToLearn},
                                     kv::Isolation::snapshot));
  if (page.more) {
    reader.known_snapshots().give_up(plan.id);
    co_return Result<void>{};
  }
  plan.others = std::make_shared<NameSet>();
  for (const kv::KeyValue& row : page.rows) {
    if (const auto key = reader.keys().snapshot_of(row.key)) plan.others->emplace(key->name);
  }
  co_return Result<void>{};
}

// Of many volumes: most are known not to have one.
Task<Result<std::vector<bool>>> find_names(kv::Transaction& transaction, RecordReader& reader,
                                           std::vector<SnapshotPlan>& plans,
                                           const std::vector<VolumeRecords>& records) {
  const KnownSnapshots& known = reader.known_snapshots();
  const auto top = [&](size_t i) { return records[i].fence.top_layer; };
  std::deque<Result<void>> results(plans.size());
  Semaphore reads(limits::kSnapshotReadsInFlight);
  TaskScope learning;
  for (size_t i = 0; i < plans.size(); ++i) {
    plans[i].others.reset();
    if (known.is_worth_learning(plans[i].id, top(i)))
      learning.spawn(store_result(learn_names(transaction, reader, plans[i], reads), results[i]));
  }
  co_await learning.join();
  for (const Result<void>& result : results) CO_RETURN_IF_ERROR(result);
  std::vector<bool> found(plans.size());
  std::vector<size_t> doubtful;
  std::vector<std::string> doubtful_keys;
  for (size_t i = 0; i < plans.size(); ++i) {
    const std::string& name = plans[i].name.snapshot;
    if (plans[i].others) {
      found[i] = plans[i].others->contains(name);
    } else if (!known.lacks(plans[i].id, top(i), name)) {
      doubtful.push_back(i);
      doubtful_keys.push_back(snapshot_key(reader, plans[i]));
    }
  }
  ASSIGN_OR_CO_RETURN(const Values values, co_await reader.read_points(transaction, doubtful_keys));
  for (size_t i = 0; i < doubtful.size(); ++i) found[doubtful[i]] = values[i].has_value();
  co_return found;
}

// Of few: asked for beside the rest.
Task<Result<std::vector<bool>>> ask_for_names(kv::Transaction& transaction, RecordReader& reader,
                                              const std::vector<SnapshotPlan>& plans) {
  std::vector<std::string> keys;
  for (const SnapshotPlan& plan : plans) keys.push_back(snapshot_key(reader, plan));
  ASSIGN_OR_CO_RETURN(const Values values, co_await reader.read_points(transaction, keys));
  std::vector<bool> found;
  for (const auto& value : values) found.push_back(value.has_value());
  co_return found;
}

Task<Result<PlannedRecords>> read_planned(kv::Transaction& transaction, RecordReader& reader,
                                          std::vector<SnapshotPlan>& plans, RowConflicts conflicts) {
  PlannedRecords planned;
  if (reader.are_many(plans.size())) {
    ASSIGN_OR_CO_RETURN(planned.volumes, co_await read_records(transaction, reader, plans, conflicts));
    ASSIGN_OR_CO_RETURN(planned.has_name, co_await find_names(transaction, reader, plans, planned.volumes));
    co_return planned;
  }
  Result<std::vector<bool>> has_name;
  TaskScope asking;
  asking.spawn(store_result(ask_for_names(transaction, reader, plans), has_name));
  Result<std::vector<VolumeRecords>> volumes = co_await read_records(transaction, reader, plans, conflicts);
  co_await asking.join();
  if (!has_name) co_return propagate(has_name);
  if (!volumes) co_return propagate(volumes);
  co_return PlannedRecords{std::move(*volumes), std::move(*has_name)};
}

}  // namespace

// The fence records change, so writes that are on their way with the old top layers all fail, and their
// owners bring them to the new ones: each write is either before the instant or behind it, on all volumes
// alike.
Task<Result<void>> take_snapshots(kv::Transaction& transaction, RecordReader& reader,
                                  std::vector<SnapshotPlan>& plans, WallTime created,
                                  RowConflicts conflicts) {
  const KeySpace& keys = reader.keys();
  ASSIGN_OR_CO_RETURN(const PlannedRecords found,
                      co_await read_planned(transaction, reader, plans, conflicts));
  std::vector<std::string> usage_keys;
  for (size_t i = 0; i < plans.size(); ++i) {
    if (found.has_name[i])
      co_return fail(Errc::exists, fmt::format("snapshot \"{}\" exists already", plans[i].name.full()));
    // Who has a volume open counts anew; what was counted before is nothing to pass on.
    const FenceRecord& fence = found.volumes[i].fence;
    if (fence.is_free()) usage_keys.push_back(keys.usage(fence.top_layer));
  }
  ASSIGN_OR_CO_RETURN(const Values usages, co_await reader.read_points(transaction, usage_keys));
  auto usage = usages.begin();
  for (size_t i = 0; i < plans.size(); ++i) {
    SnapshotPlan& plan = plans[i];
    const VolumeRecord& volume = found.volumes[i].volume;
    FenceRecord fence = found.volumes[i].fence;
    ++fence.barrier;
    plan.old_top = std::exchange(fence.top_layer, plan.new_top);
    SnapshotRecord snapshot;
    snapshot.layer = plan.old_top;
    snapshot.size_bytes = volume.size_bytes;
    snapshot.stale_end_bytes = volume.stale_end_bytes;
    snapshot.created = created;
    snapshot.sequence = fence.barrier;
    transaction.set(keys.fence(plan.id), fence.encode());
    transaction.set(snapshot_key(reader, plan), snapshot.encode());
    add_layer(transaction, keys, plan.new_top, snapshot.layer, volume);
    if (!fence.is_free()) continue;
    if (*usage) transaction.set(keys.usage(plan.new_top), **usage);
    ++usage;
  }
  co_return Result<void>{};
}

void note_taken(RecordReader& reader, std::vector<SnapshotPlan> plans) {
  KnownSnapshots& known = reader.known_snapshots();
  for (SnapshotPlan& plan : plans) {
    if (plan.others) known.learn(plan.id, plan.old_top, std::move(*plan.others));
    known.add(plan.id, plan.old_top, plan.new_top, std::move(plan.name.snapshot));
  }
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
  if (plan.claimed)
    CO_RETURN_IF_ERROR(
        co_await check_vacancy(transaction, keys, plan.id, records.fence, *plan.claimed, plan.name.volume));
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
