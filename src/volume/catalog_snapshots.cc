#include <fmt/core.h>

#include <algorithm>
#include <set>
#include <utility>

#include "async/scope.h"
#include "base/assert.h"
#include "volume/catalog.h"
#include "volume/layer_edits.h"
#include "volume/snapshot_edits.h"

// Snapshots, clones and rollback: a few records each, whatever the volume holds.

namespace fdbnbd::volume {

// Taking a snapshot

Task<Result<void>> Catalog::snapshot(std::vector<std::string> names, std::optional<WallTime> created) {
  if (names.empty()) co_return fail(Errc::invalid, "a snapshot needs a name: VOL@SNAP");
  if (names.size() > limits::kMaxVolumesPerSnapshot) {
    co_return fail(Errc::too_large, fmt::format("{} volumes are too many for one instant: at most {}",
                                                names.size(), limits::kMaxVolumesPerSnapshot));
  }
  std::vector<SnapshotPlan> plans;
  std::set<std::string> volumes;
  for (const std::string& name : names) {
    ASSIGN_OR_CO_RETURN(SnapshotName parsed, parse_snapshot_name(name));
    if (!volumes.insert(parsed.volume).second) {
      co_return fail(
          Errc::invalid,
          fmt::format("volume \"{}\" is named twice: one instant gives one snapshot", parsed.volume));
    }
    const auto seen = ids_seen_.find(parsed.volume);
    const VolumeId guess = seen == ids_seen_.end() ? VolumeId{} : seen->second;
    plans.push_back({.id = guess, .name = std::move(parsed), .new_top = LayerId{new_id()}});
  }
  bool may_guess =
      std::ranges::none_of(plans, [](const SnapshotPlan& plan) { return plan.id == VolumeId{}; });
  const WallTime time = created.value_or(home_.clock().wall_now());
  auto body = [&](kv::Transaction& transaction) {
    // A wrong guess makes another attempt.
    return std::exchange(may_guess, false) ? snapshot_guessed(transaction, plans, time)
                                           : snapshot_in(transaction, plans, time);
  };
  ASSIGN_OR_CO_RETURN(
      auto taken, co_await records_.decide<std::vector<SnapshotPlan>>(body, FirstRead::at_recent_version));
  if (ids_seen_.size() > limits::kMaxVolumesPerSnapshot) ids_seen_.clear();
  for (const SnapshotPlan& plan : taken) {
    ids_seen_[plan.name.volume] = plan.id;
    open_volumes_.note_snapshot(plan.id);
  }
  note_taken(records_, std::move(taken));
  co_return co_await engine_.sync(home_);
}

// The plans, with the volumes that their names stand for.
Task<Result<std::vector<SnapshotPlan>>> Catalog::identify(kv::Transaction& transaction,
                                                          std::vector<SnapshotPlan> plans,
                                                          RowConflicts conflicts) {
  std::vector<std::string> wanted;
  for (const SnapshotPlan& plan : plans) wanted.push_back(keys_.name(plan.name.volume));
  ASSIGN_OR_CO_RETURN(const RecordReader::Values names,
                      co_await records_.read_rows(transaction, wanted, conflicts));
  for (size_t i = 0; i < plans.size(); ++i) {
    if (!names[i]) co_return tl::unexpected(no_volume(plans[i].name.volume));
    ASSIGN_OR_CO_RETURN(const NameRecord record, NameRecord::decode(*names[i]));
    plans[i].id = record.volume;
  }
  co_return plans;
}

Task<Result<std::vector<SnapshotPlan>>> Catalog::snapshot_in(kv::Transaction& transaction,
                                                             std::vector<SnapshotPlan> plans,
                                                             WallTime created) {
  ASSIGN_OR_CO_RETURN(plans, co_await identify(transaction, std::move(plans), RowConflicts::of_each));
  CO_RETURN_IF_ERROR(co_await take_snapshots(transaction, records_, plans, created, RowConflicts::of_each));
  co_return plans;
}

// The same, with the names read beside the rest: one round trip less. conflict where they stand for others.
Task<Result<std::vector<SnapshotPlan>>> Catalog::snapshot_guessed(kv::Transaction& transaction,
                                                                  std::vector<SnapshotPlan> plans,
                                                                  WallTime created) {
  // Made once: where volumes come and go all the time, the next attempt conflicts with less.
  constexpr RowConflicts kConflicts = RowConflicts::of_runs;
  auto version = co_await transaction.read_version();
  if (!version) co_return propagate(version);
  Result<std::vector<SnapshotPlan>> identified;
  TaskScope reading;
  reading.spawn(store_result(identify(transaction, plans, kConflicts), identified));
  const Result<void> taken = co_await take_snapshots(transaction, records_, plans, created, kConflicts);
  co_await reading.join();
  if (!identified) co_return identified;
  if (!std::ranges::equal(*identified, plans, {}, &SnapshotPlan::id, &SnapshotPlan::id))
    co_return fail(Errc::conflict, "a volume has another name now");
  if (!taken) co_return tl::unexpected(taken.error());
  co_return plans;
}

// Clones

Task<Result<VolumeInfo>> Catalog::clone(std::string snapshot_name, std::string new_name) {
  ASSIGN_OR_CO_RETURN(const SnapshotName snapshot, parse_snapshot_name(snapshot_name));
  CO_RETURN_IF_ERROR(check_volume_name(new_name));
  const ClonePlan plan = plan_clone(new_name);
  auto body = [&](kv::Transaction& transaction) { return clone_in(transaction, snapshot, plan); };
  CO_RETURN_IF_ERROR(co_await records_.decide<void>(body));
  CO_RETURN_IF_ERROR(co_await engine_.sync(home_));
  co_return co_await info(std::move(new_name));
}

ClonePlan Catalog::plan_clone(std::string name) {
  return {.name = std::move(name),
          .id = VolumeId{new_id()},
          .top = LayerId{new_id()},
          .created = home_.clock().wall_now()};
}

Task<Result<void>> Catalog::clone_in(kv::Transaction& transaction, const SnapshotName& snapshot,
                                     const ClonePlan& plan) {
  CO_RETURN_IF_ERROR(co_await records_.check_unused(transaction, plan.name));
  auto found = co_await records_.find_snapshot(transaction, snapshot);
  if (!found) co_return propagate(found);
  ASSIGN_OR_CO_RETURN(const VolumeRecords records,
                      co_await records_.load(transaction, found->volume, snapshot.volume));
  const std::string usage_key = keys_.usage(found->record.layer);
  auto usage = co_await transaction.get(usage_key, kv::Isolation::serializable);
  if (!usage) co_return propagate(usage);
  VolumeRecord origin = records.volume;
  origin.size_bytes = found->record.size_bytes;
  origin.stale_end_bytes = found->record.stale_end_bytes;
  put_clone(transaction, keys_, plan, std::move(origin), found->record.layer);
  if (usage->has_value()) transaction.set(keys_.usage(plan.top), **usage);
  co_return Result<void>{};
}

// Rollback

Task<Result<VolumeInfo>> Catalog::rollback(std::string snapshot_name, bool disconnect) {
  ASSIGN_OR_CO_RETURN(const SnapshotName snapshot, parse_snapshot_name(snapshot_name));
  // Before anybody is disconnected for it.
  ASSIGN_OR_CO_RETURN(const FoundSnapshot found, co_await records_.find_snapshot(snapshot));
  const VolumeId id = found.volume;
  {
    ASSIGN_OR_CO_RETURN(const OpenVolumes::Reservation reservation,
                        co_await open_volumes_.reserve(id, snapshot.volume, disconnect));
    ASSIGN_OR_CO_RETURN(const auto claimed, co_await open_volumes_.claim(id, snapshot.volume));
    const RollbackPlan plan{.id = id, .name = snapshot, .new_top = LayerId{new_id()}, .claimed = claimed};
    auto body = [&](kv::Transaction& transaction) { return roll_back(transaction, records_, plan); };
    CO_RETURN_IF_ERROR(co_await records_.decide<void>(body));
  }
  co_await jobs_.take_up();
  CO_RETURN_IF_ERROR(co_await engine_.sync(home_));
  co_return co_await info(snapshot.volume);
}

// Removal

Task<Result<void>> Catalog::remove_snapshot(SnapshotName name) {
  auto body = [&](kv::Transaction& transaction) { return remove_snapshot_in(transaction, name); };
  CO_RETURN_IF_ERROR(co_await records_.decide<void>(body));
  co_await jobs_.take_up();
  co_return co_await engine_.sync(home_);
}

Task<Result<void>> Catalog::remove_snapshot_in(kv::Transaction& transaction, const SnapshotName& name) {
  auto found = co_await records_.find_snapshot(transaction, name);
  if (!found) co_return propagate(found);
  if (const OpenSnapshot* opened = open_snapshots_.find(found->record.layer); opened != nullptr) {
    co_return fail(Errc::busy,
                   fmt::format("snapshot \"{}\" is in use by {} NBD session{}: detach the clients first",
                               name.full(), opened->sessions_count, opened->sessions_count == 1 ? "" : "s"));
  }
  std::vector<SnapshotRow> one;
  one.push_back({name.snapshot, found->record});
  co_return co_await drop_snapshots(transaction, records_, one, found->volume);
}

Task<Result<VolumeInfo>> Catalog::describe_snapshot(SnapshotName name) {
  ASSIGN_OR_CO_RETURN(const FoundSnapshot found, co_await records_.find_snapshot(name));
  ASSIGN_OR_CO_RETURN(const VolumeRecords records, co_await records_.load(found.volume, name.volume));
  VolumeInfo info;
  info.name = name.full();
  info.id = records.volume.id.value;
  info.size_bytes = found.record.size_bytes;
  info.block_bytes = records.volume.block_bytes();
  info.compression = records.volume.compression;
  info.created = found.record.created;
  info.read_only = true;
  const OpenSnapshot* opened = open_snapshots_.find(found.record.layer);
  if (opened != nullptr && opened->disk) {
    info.used_bytes = opened->disk->data_blocks_count() << records.volume.block_shift;
    info.sessions_count = opened->sessions_count;
    co_return info;
  }
  ASSIGN_OR_CO_RETURN(const uint64_t data_blocks_count,
                      co_await records_.count_data_blocks(found.record.layer, records.volume));
  info.used_bytes = data_blocks_count << records.volume.block_shift;
  co_return info;
}

}  // namespace fdbnbd::volume
