#include "volume/groups.h"

#include <fmt/core.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/limits.h"
#include "base/log.h"

namespace fdbnbd::volume {

namespace {

Error no_group(const std::string& name) {
  return {Errc::not_found, fmt::format("there is no group \"{}\"", name)};
}

Result<void> check_count(const std::string& name, const std::vector<VolumeId>& members) {
  if (members.size() <= limits::kMaxGroupMembers) return {};
  return fail(Errc::too_large, fmt::format("group \"{}\" would have {} volumes: at most {}", name,
                                           members.size(), limits::kMaxGroupMembers));
}

void sort_unique(std::vector<VolumeId>& ids) {
  std::ranges::sort(ids);
  const auto repeated = std::ranges::unique(ids);
  ids.erase(repeated.begin(), repeated.end());
}

std::string name_in(const std::map<VolumeId, std::string>& names, VolumeId id) {
  const auto found = names.find(id);
  return found == names.end() ? fmt::format("id {}", id.value) : found->second;
}

}  // namespace

LayerId Groups::new_layer() {
  while (true) {
    const uint64_t id = random_.next();
    if (id != 0 && id != UINT64_MAX) return LayerId{id};
  }
}

Task<Result<Groups::Names>> Groups::read_names() {
  ASSIGN_OR_CO_RETURN(const auto rows,
                      co_await records_.read_all(keys_.type_begin('V'), keys_.type_end('V')));
  Names names;
  for (const kv::KeyValue& row : rows) {
    const auto record = NameRecord::decode(row.value);
    if (record) names[record->volume] = keys_.name_of(row.key);
  }
  co_return names;
}

Task<Result<GroupRecord>> Groups::load(kv::Transaction& transaction, const std::string& name) {
  ASSIGN_OR_CO_RETURN(auto record, co_await get_record<GroupRecord>(transaction, keys_.group(name),
                                                                    kv::Isolation::serializable));
  if (!record) co_return tl::unexpected(no_group(name));
  co_return std::move(*record);
}

Task<Result<std::vector<VolumeId>>> Groups::find_volumes(kv::Transaction& transaction,
                                                         const std::vector<std::string>& names) {
  std::vector<VolumeId> ids;
  for (const std::string& name : names) {
    ASSIGN_OR_CO_RETURN(const VolumeId id, co_await records_.find(transaction, name));
    ids.push_back(id);
  }
  co_return ids;
}

// Membership

Task<Result<void>> Groups::create(std::string name, std::vector<std::string> volumes) {
  CO_RETURN_IF_ERROR(check_volume_name(name));
  auto body = [&](kv::Transaction& transaction) { return create_in(transaction, name, volumes); };
  CO_RETURN_IF_ERROR(co_await records_.decide<void>(body));
  co_return co_await records_.engine().sync(records_.executor());
}

Task<Result<void>> Groups::create_in(kv::Transaction& transaction, const std::string& name,
                                     const std::vector<std::string>& volumes) {
  GroupRecord group;
  ASSIGN_OR_CO_RETURN(group.members, co_await find_volumes(transaction, volumes));
  sort_unique(group.members);
  CO_RETURN_IF_ERROR(check_count(name, group.members));
  ASSIGN_OR_CO_RETURN(const auto existing, co_await get_record<GroupRecord>(transaction, keys_.group(name),
                                                                            kv::Isolation::serializable));
  if (existing) co_return fail(Errc::exists, fmt::format("group \"{}\" exists already", name));
  transaction.set(keys_.group(name), group.encode());
  co_return Result<void>{};
}

Task<Result<void>> Groups::remove(std::string name) {
  auto body = [&](kv::Transaction& transaction) { return remove_in(transaction, name); };
  CO_RETURN_IF_ERROR(co_await records_.decide<void>(body));
  co_return co_await records_.engine().sync(records_.executor());
}

Task<Result<void>> Groups::remove_in(kv::Transaction& transaction, const std::string& name) {
  const auto group = co_await load(transaction, name);
  // One whose record is damaged can still be removed.
  if (!group && group.error().code != Errc::corruption) co_return tl::unexpected(group.error());
  transaction.clear(keys_.group(name));
  co_return Result<void>{};
}

Task<Result<void>> Groups::change(std::string name, GroupChange change) {
  auto body = [&](kv::Transaction& transaction) { return change_in(transaction, name, change); };
  CO_RETURN_IF_ERROR(co_await records_.decide<void>(body));
  co_return co_await records_.engine().sync(records_.executor());
}

// What is gone from the store leaves the list on this occasion; what is in the trash stays.
Task<Result<void>> Groups::change_in(kv::Transaction& transaction, const std::string& name,
                                     const GroupChange& change) {
  ASSIGN_OR_CO_RETURN(GroupRecord group, co_await load(transaction, name));
  ASSIGN_OR_CO_RETURN(const auto added, co_await find_volumes(transaction, change.added));
  ASSIGN_OR_CO_RETURN(const auto removed, co_await find_volumes(transaction, change.removed));
  std::vector<std::string> wanted;
  for (const VolumeId id : group.members) wanted.push_back(keys_.volume(id));
  ASSIGN_OR_CO_RETURN(const RecordReader::Values volumes, co_await records_.read_points(transaction, wanted));
  std::vector<VolumeId> members = added;
  for (size_t i = 0; i < group.members.size(); ++i) {
    if (volumes[i] && std::ranges::find(removed, group.members[i]) == removed.end())
      members.push_back(group.members[i]);
  }
  sort_unique(members);
  CO_RETURN_IF_ERROR(check_count(name, members));
  transaction.set(keys_.group(name), GroupRecord{.members = std::move(members)}.encode());
  co_return Result<void>{};
}

Task<Result<std::vector<GroupInfo>>> Groups::list() {
  ASSIGN_OR_CO_RETURN(const auto rows,
                      co_await records_.read_all(keys_.type_begin('G'), keys_.type_end('G')));
  ASSIGN_OR_CO_RETURN(const Names names, co_await read_names());
  ASSIGN_OR_CO_RETURN(const auto snapshots, co_await records_.read_all_snapshots());
  std::vector<GroupInfo> groups;
  for (const kv::KeyValue& row : rows) {
    GroupInfo group;
    group.name = keys_.name_of(row.key);
    const auto record = GroupRecord::decode(row.value);
    if (!record) {
      log::error("group \"{}\" is left out of the list: {}", group.name, record.error().what);
      continue;
    }
    bool is_first = true;
    for (const VolumeId id : record->members) {
      const auto name = names.find(id);
      if (name == names.end()) continue;
      group.members.push_back(name->second);
      const auto found = snapshots.find(id);
      const std::vector<SnapshotInfo> own =
          found == snapshots.end() ? std::vector<SnapshotInfo>() : found->second;
      if (std::exchange(is_first, false)) {
        group.snapshots = own;
        continue;
      }
      std::erase_if(group.snapshots, [&](SnapshotInfo& snapshot) {
        const auto same = std::ranges::find_if(own, [&](const SnapshotInfo& other) {
          return other.name == snapshot.name && other.created == snapshot.created;
        });
        if (same != own.end()) snapshot.size_bytes += same->size_bytes;
        return same == own.end();
      });
    }
    std::ranges::sort(group.members);
    groups.push_back(std::move(group));
  }
  co_return groups;
}

// Snapshots

Task<Result<std::vector<VolumeId>>> Groups::load_members(kv::Transaction& transaction,
                                                         const std::string& name) {
  ASSIGN_OR_CO_RETURN(const GroupRecord group, co_await load(transaction, name));
  std::vector<std::string> wanted;
  for (const VolumeId id : group.members) wanted.push_back(keys_.volume(id));
  ASSIGN_OR_CO_RETURN(const RecordReader::Values volumes, co_await records_.read_points(transaction, wanted));
  std::vector<VolumeId> members;
  for (size_t i = 0; i < volumes.size(); ++i) {
    if (!volumes[i]) continue;
    ASSIGN_OR_CO_RETURN(const VolumeRecord volume, VolumeRecord::decode(*volumes[i]));
    if (!volume.is_trashed) members.push_back(group.members[i]);
  }
  if (members.empty()) co_return fail(Errc::invalid, fmt::format("group \"{}\" has no volumes", name));
  co_return members;
}

Task<Result<void>> Groups::snapshot(std::string name) {
  ASSIGN_OR_CO_RETURN(const SnapshotName parsed, parse_snapshot_name(name));
  ASSIGN_OR_CO_RETURN(const Names names, co_await read_names());
  const WallTime created = records_.executor().clock().wall_now();
  auto conflicts = RowConflicts::of_runs;
  auto body = [&](kv::Transaction& transaction) {
    return snapshot_in(transaction, parsed, names, created, std::exchange(conflicts, RowConflicts::of_each));
  };
  ASSIGN_OR_CO_RETURN(
      auto taken, co_await records_.decide<std::vector<SnapshotPlan>>(body, FirstRead::at_recent_version));
  for (const SnapshotPlan& plan : taken) open_volumes_.note_snapshot(plan.id);
  note_taken(records_, std::move(taken));
  co_return co_await records_.engine().sync(records_.executor());
}

Task<Result<std::vector<SnapshotPlan>>> Groups::snapshot_in(kv::Transaction& transaction,
                                                            const SnapshotName& name, const Names& names,
                                                            WallTime created, RowConflicts conflicts) {
  ASSIGN_OR_CO_RETURN(const auto members, co_await load_members(transaction, name.volume));
  std::vector<SnapshotPlan> plans;
  for (const VolumeId id : members) {
    plans.push_back({.id = id,
                     .name = {.volume = name_in(names, id), .snapshot = name.snapshot},
                     .new_top = new_layer()});
  }
  CO_RETURN_IF_ERROR(co_await take_snapshots(transaction, records_, plans, created, conflicts));
  co_return plans;
}

Task<Result<void>> Groups::rollback(std::string name) {
  ASSIGN_OR_CO_RETURN(const SnapshotName parsed, parse_snapshot_name(name));
  ASSIGN_OR_CO_RETURN(const Names names, co_await read_names());
  auto read = [&](kv::Transaction& transaction) { return load_members(transaction, parsed.volume); };
  ASSIGN_OR_CO_RETURN(const auto members, co_await records_.transact<std::vector<VolumeId>>(read));
  {
    // In the order of the ids, so that two that wait for each other's volumes are not possible.
    std::vector<OpenVolumes::Reservation> reservations;
    std::vector<RollbackPlan> plans;
    for (const VolumeId id : members) {
      const std::string volume_name = name_in(names, id);
      ASSIGN_OR_CO_RETURN(OpenVolumes::Reservation reservation,
                          co_await open_volumes_.reserve(id, volume_name));
      reservations.push_back(std::move(reservation));
      ASSIGN_OR_CO_RETURN(const auto claimed, co_await open_volumes_.claim(id, volume_name));
      plans.push_back({.id = id,
                       .name = {.volume = volume_name, .snapshot = parsed.snapshot},
                       .new_top = new_layer(),
                       .claimed = claimed});
    }
    auto body = [&](kv::Transaction& transaction) { return rollback_in(transaction, parsed, plans); };
    CO_RETURN_IF_ERROR(co_await records_.decide<void>(body));
  }
  co_await jobs_.take_up();
  co_return co_await records_.engine().sync(records_.executor());
}

Task<Result<void>> Groups::rollback_in(kv::Transaction& transaction, const SnapshotName& name,
                                       const std::vector<RollbackPlan>& plans) {
  ASSIGN_OR_CO_RETURN(const auto members, co_await load_members(transaction, name.volume));
  const bool is_same = std::ranges::equal(members, plans, {}, {}, &RollbackPlan::id);
  if (!is_same) co_return fail(Errc::busy, fmt::format("group \"{}\" has just been changed", name.volume));
  std::optional<WallTime> created;
  for (const RollbackPlan& plan : plans) {
    ASSIGN_OR_CO_RETURN(const auto snapshot, co_await get_record<SnapshotRecord>(
                                                 transaction, keys_.snapshot(plan.id, plan.name.snapshot),
                                                 kv::Isolation::serializable));
    if (!snapshot)
      co_return fail(Errc::not_found, fmt::format("there is no snapshot \"{}\"", plan.name.full()));
    if (created && *created != snapshot->created) {
      co_return fail(Errc::invalid, fmt::format("snapshot \"{}\" was not taken together with that of \"{}\"",
                                                plan.name.full(), plans.front().name.volume));
    }
    created = snapshot->created;
  }
  for (const RollbackPlan& plan : plans) CO_RETURN_IF_ERROR(co_await roll_back(transaction, records_, plan));
  co_return Result<void>{};
}

}  // namespace fdbnbd::volume
