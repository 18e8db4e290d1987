#include <fmt/core.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/assert.h"
#include "volume/catalog.h"

// Snapshots, clones and rollback: a few records each, whatever the volume holds.

namespace fdbnbd::volume {

namespace {

// Keeps the rows of single keys.
class PointsSink final : public kv::RowSink {
 public:
  explicit PointsSink(size_t points_count) : values(points_count) {}

  std::vector<std::optional<std::string>> values;
  bool has_unreadable = false;

  void on_range_row(size_t, std::string_view, std::string_view) override {}
  void on_unreadable_range_row(size_t, std::string_view) override {}
  void on_point_row(size_t point_index, std::string_view value) override { values[point_index] = value; }
  void on_unreadable_point(size_t) override { has_unreadable = true; }
};

Error no_snapshot(const SnapshotName& name) {
  return {Errc::not_found, fmt::format("there is no snapshot \"{}\"", name.full())};
}

Error record_missing(const std::string& volume) {
  return {Errc::corruption, fmt::format("volume \"{}\": a record of it is missing", volume)};
}

}  // namespace

// One bulk read instead of one round trip a key. It may see later versions than the transaction does; then
// the key has changed behind the transaction's read version, and the commit conflicts.
Task<Result<Catalog::Values>> Catalog::read_points(kv::Transaction& transaction,
                                                   const std::vector<std::string>& keys) {
  auto version = co_await transaction.read_version();
  if (!version) co_return propagate(version);
  kv::BulkRead request;
  for (const std::string& key : keys) {
    request.points.push_back(key);
    const std::string end = key_after(key);
    transaction.add_read_conflict({key, end});
  }
  PointsSink sink(keys.size());
  if (keys.empty()) co_return std::move(sink.values);
  CO_RETURN_IF_ERROR(co_await engine_.read(home_, request, sink));
  if (sink.has_unreadable) co_return fail(Errc::corruption, "the store cannot read one of its records");
  co_return std::move(sink.values);
}

Task<Result<std::vector<Catalog::SnapshotRow>>> Catalog::read_snapshots(kv::Transaction& transaction,
                                                                        VolumeId id,
                                                                        const std::string& name) {
  std::vector<SnapshotRow> snapshots;
  std::string begin = keys_.snapshots_begin(id);
  const std::string end = keys_.snapshots_end(id);
  while (true) {
    auto page = co_await transaction.get_range({begin, end}, {}, kv::Isolation::serializable);
    if (!page) co_return propagate(page);
    for (const kv::KeyValue& row : page->rows) {
      const auto key = keys_.snapshot_of(row.key);
      const auto record = SnapshotRecord::decode(row.value);
      if (!key || !record) {
        co_return fail(Errc::corruption,
                       fmt::format("volume \"{}\": {}", name,
                                   key ? record.error().what : "the key of a snapshot record is damaged"));
      }
      snapshots.push_back({std::string(key->name), *record});
    }
    if (!page->more || page->rows.empty()) break;
    begin = key_after(page->rows.back().key);
  }
  std::ranges::sort(snapshots, {}, [](const SnapshotRow& row) { return row.record.sequence; });
  co_return snapshots;
}

// Damaged ones are left out; check tells.
Task<Result<std::map<VolumeId, std::vector<SnapshotInfo>>>> Catalog::read_all_snapshots() {
  ASSIGN_OR_CO_RETURN(const auto rows, co_await read_all(keys_.type_begin('N'), keys_.type_end('N')));
  std::map<VolumeId, std::vector<std::pair<uint64_t, SnapshotInfo>>> by_sequence;
  for (const kv::KeyValue& row : rows) {
    const auto key = keys_.snapshot_of(row.key);
    const auto record = SnapshotRecord::decode(row.value);
    if (!key || !record) continue;
    by_sequence[key->volume].emplace_back(
        record->sequence, SnapshotInfo{std::string(key->name), record->size_bytes, record->created});
  }
  std::map<VolumeId, std::vector<SnapshotInfo>> snapshots;
  for (auto& [volume, list] : by_sequence) {
    std::ranges::sort(list, {}, [](const auto& one) { return one.first; });
    for (auto& [sequence, info] : list) snapshots[volume].push_back(std::move(info));
  }
  co_return snapshots;
}

Task<Result<Catalog::FoundSnapshot>> Catalog::find_snapshot(kv::Transaction& transaction,
                                                            const SnapshotName& name) {
  auto id = co_await find(transaction, name.volume);
  if (!id) co_return propagate(id);
  const std::string key = keys_.snapshot(*id, name.snapshot);
  auto value = co_await transaction.get(key, kv::Isolation::serializable);
  if (!value) co_return propagate(value);
  if (!value->has_value()) co_return tl::unexpected(no_snapshot(name));
  auto record = SnapshotRecord::decode(**value);
  if (!record) co_return fail(record.error().code, fmt::format("{}: {}", name.full(), record.error().what));
  co_return FoundSnapshot{*id, *record};
}

Task<Result<Catalog::FoundSnapshot>> Catalog::find_snapshot(const SnapshotName& name) {
  auto body = [&](kv::Transaction& transaction) { return find_snapshot(transaction, name); };
  co_return co_await transact<FoundSnapshot>(body);
}

void Catalog::add_layer(kv::Transaction& transaction, LayerId layer, LayerId parent,
                        const VolumeRecord& volume) {
  LayerRecord record;
  record.parent = parent;
  record.origin = volume.id;
  record.block_shift = volume.block_shift;
  record.striping = volume.striping;
  transaction.set(keys_.layer(layer), record.encode());
  if (parent.value != 0) transaction.set(keys_.child(parent, layer), ChildRecord{}.encode());
}

// Taking a snapshot

Task<Result<void>> Catalog::snapshot(std::vector<std::string> names) {
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
    plans.push_back({std::move(parsed), LayerId{new_id()}});
  }
  const WallTime created = home_.clock().wall_now();
  auto body = [&](kv::Transaction& transaction) { return snapshot_in(transaction, plans, created); };
  CO_RETURN_IF_ERROR(co_await transact<void>(body));
  co_return co_await engine_.sync(home_);
}

// The fence records change, so writes that are on their way with the old top layers all fail, and their
// owners bring them to the new ones: each write is either before the instant or behind it, on all volumes
// alike.
Task<Result<void>> Catalog::snapshot_in(kv::Transaction& transaction, const std::vector<SnapshotPlan>& plans,
                                        WallTime created) {
  std::vector<std::string> wanted;
  for (const SnapshotPlan& plan : plans) wanted.push_back(keys_.name(plan.name.volume));
  ASSIGN_OR_CO_RETURN(const Values names, co_await read_points(transaction, wanted));
  std::vector<VolumeId> ids;
  wanted.clear();
  for (size_t i = 0; i < plans.size(); ++i) {
    const SnapshotName& name = plans[i].name;
    if (!names[i]) co_return fail(Errc::not_found, fmt::format("there is no volume \"{}\"", name.volume));
    ASSIGN_OR_CO_RETURN(const NameRecord record, NameRecord::decode(*names[i]));
    ids.push_back(record.volume);
    wanted.push_back(keys_.volume(record.volume));
    wanted.push_back(keys_.fence(record.volume));
    wanted.push_back(keys_.snapshot(record.volume, name.snapshot));
    wanted.push_back(keys_.layer(plans[i].new_top));
  }
  ASSIGN_OR_CO_RETURN(const Values values, co_await read_points(transaction, wanted));
  std::vector<Records> records;
  wanted.clear();
  for (size_t i = 0; i < plans.size(); ++i) {
    const SnapshotName& name = plans[i].name;
    const auto& volume_value = values[4 * i];
    const auto& fence_value = values[4 * i + 1];
    if (values[4 * i + 3]) co_return Result<void>{};  // an attempt with an unknown result had happened
    if (values[4 * i + 2])
      co_return fail(Errc::exists, fmt::format("snapshot \"{}\" exists already", name.full()));
    if (!volume_value || !fence_value) co_return tl::unexpected(record_missing(name.volume));
    ASSIGN_OR_CO_RETURN(const VolumeRecord volume, VolumeRecord::decode(*volume_value));
    ASSIGN_OR_CO_RETURN(const FenceRecord fence, FenceRecord::decode(*fence_value));
    records.push_back({volume, fence});
    wanted.push_back(keys_.usage(fence.top_layer));
  }
  ASSIGN_OR_CO_RETURN(const Values usages, co_await read_points(transaction, wanted));
  for (size_t i = 0; i < plans.size(); ++i) {
    const VolumeRecord& volume = records[i].volume;
    FenceRecord fence = records[i].fence;
    ++fence.barrier;
    SnapshotRecord snapshot;
    snapshot.layer = std::exchange(fence.top_layer, plans[i].new_top);
    snapshot.size_bytes = volume.size_bytes;
    snapshot.created = created;
    snapshot.sequence = fence.barrier;
    transaction.set(keys_.snapshot(ids[i], plans[i].name.snapshot), snapshot.encode());
    transaction.set(keys_.fence(ids[i]), fence.encode());
    add_layer(transaction, plans[i].new_top, snapshot.layer, volume);
    if (usages[i]) transaction.set(keys_.usage(plans[i].new_top), *usages[i]);
  }
  co_return Result<void>{};
}

// Clones

Task<Result<VolumeInfo>> Catalog::clone(std::string snapshot_name, std::string new_name) {
  ASSIGN_OR_CO_RETURN(const SnapshotName snapshot, parse_snapshot_name(snapshot_name));
  CO_RETURN_IF_ERROR(check_volume_name(new_name));
  const VolumeId id{new_id()};
  const LayerId top{new_id()};
  const WallTime created = home_.clock().wall_now();
  auto body = [&](kv::Transaction& transaction) {
    return clone_in(transaction, snapshot, new_name, id, top, created);
  };
  CO_RETURN_IF_ERROR(co_await transact<void>(body));
  CO_RETURN_IF_ERROR(co_await engine_.sync(home_));
  co_return co_await info(std::move(new_name));
}

Task<Result<void>> Catalog::clone_in(kv::Transaction& transaction, const SnapshotName& snapshot,
                                     const std::string& new_name, VolumeId id, LayerId top,
                                     WallTime created) {
  auto existing = co_await find(transaction, new_name);
  if (existing) {
    if (*existing == id) co_return Result<void>{};  // an attempt with an unknown result had happened
    co_return fail(Errc::exists, fmt::format("volume \"{}\" exists already", new_name));
  }
  if (existing.error().code != Errc::not_found) co_return propagate(existing);
  auto found = co_await find_snapshot(transaction, snapshot);
  if (!found) co_return propagate(found);
  ASSIGN_OR_CO_RETURN(const Records records, co_await load(transaction, found->volume, snapshot.volume));
  const std::string usage_key = keys_.usage(found->record.layer);
  auto usage = co_await transaction.get(usage_key, kv::Isolation::serializable);
  if (!usage) co_return propagate(usage);
  VolumeRecord volume = records.volume;
  volume.id = id;
  volume.size_bytes = found->record.size_bytes;
  volume.created = created;
  FenceRecord fence;
  fence.top_layer = top;
  transaction.set(keys_.name(new_name), NameRecord{id}.encode());
  transaction.set(keys_.volume(id), volume.encode());
  transaction.set(keys_.fence(id), fence.encode());
  add_layer(transaction, top, found->record.layer, volume);
  if (usage->has_value()) transaction.set(keys_.usage(top), **usage);
  co_return Result<void>{};
}

// Rollback

Task<Result<VolumeInfo>> Catalog::rollback(std::string snapshot_name) {
  ASSIGN_OR_CO_RETURN(const SnapshotName snapshot, parse_snapshot_name(snapshot_name));
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await find(snapshot.volume));
  {
    ASSIGN_OR_CO_RETURN(const Reservation reservation, co_await reserve(id, snapshot.volume));
    ASSIGN_OR_CO_RETURN(const auto claimed, co_await claim(id, snapshot.volume));
    const LayerId new_top{new_id()};
    auto body = [&](kv::Transaction& transaction) {
      return rollback_in(transaction, snapshot, new_top, claimed);
    };
    CO_RETURN_IF_ERROR(co_await transact<void>(body));
  }
  co_await take_up_jobs();
  CO_RETURN_IF_ERROR(co_await engine_.sync(home_));
  co_return co_await info(snapshot.volume);
}

Task<Result<void>> Catalog::rollback_in(kv::Transaction& transaction, const SnapshotName& snapshot,
                                        LayerId new_top, const std::optional<FenceRecord>& claimed) {
  auto found = co_await find_snapshot(transaction, snapshot);
  if (!found) co_return propagate(found);
  ASSIGN_OR_CO_RETURN(const Records records, co_await load(transaction, found->volume, snapshot.volume));
  if (records.fence.top_layer == new_top)
    co_return Result<void>{};  // an attempt with an unknown result had happened
  if (claimed && !records.fence.same_tenure(*claimed)) {
    co_return fail(Errc::busy,
                   fmt::format("volume \"{}\" has just been opened by another server", snapshot.volume));
  }
  CO_RETURN_IF_ERROR(co_await drop_top(transaction, records.fence.top_layer));
  VolumeRecord volume = records.volume;
  volume.size_bytes = found->record.size_bytes;
  FenceRecord fence;
  fence.epoch = records.fence.epoch + 1;  // whoever had it open does not have it any more
  fence.barrier = records.fence.barrier + 1;
  fence.top_layer = new_top;
  const std::string usage_key = keys_.usage(found->record.layer);
  auto usage = co_await transaction.get(usage_key, kv::Isolation::serializable);
  if (!usage) co_return propagate(usage);
  transaction.set(keys_.volume(volume.id), volume.encode());
  transaction.set(keys_.fence(volume.id), fence.encode());
  add_layer(transaction, new_top, found->record.layer, volume);
  if (usage->has_value()) transaction.set(keys_.usage(new_top), **usage);
  co_return Result<void>{};
}

Task<Result<void>> Catalog::drop_top(kv::Transaction& transaction, LayerId top) {
  const std::string key = keys_.layer(top);
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
  transaction.clear(keys_.usage(top));
  transaction.set(keys_.job(JobId{top.value}),
                  JobRecord{.kind = JobKind::reclaim_layer, .layer = top}.encode());
  if (parent.value == 0) co_return Result<void>{};
  transaction.clear(keys_.child(parent, top));
  const std::string parent_key = keys_.layer(parent);
  auto parent_value = co_await transaction.get(parent_key, kv::Isolation::serializable);
  if (!parent_value) co_return propagate(parent_value);
  if (!parent_value->has_value()) co_return Result<void>{};
  ASSIGN_OR_CO_RETURN(const LayerRecord parent_record, LayerRecord::decode(**parent_value));
  if (parent_record.state == LayerState::unnamed) {
    // It may have waited for having one child less.
    transaction.set(keys_.job(JobId{parent.value}),
                    JobRecord{.kind = JobKind::merge_layer, .layer = parent}.encode());
  }
  co_return Result<void>{};
}

// Removal

Task<Result<void>> Catalog::remove_snapshot(SnapshotName name) {
  {
    ASSIGN_OR_CO_RETURN(const FoundSnapshot found, co_await find_snapshot(name));
    const auto opened = open_snapshots_.find(found.record.layer);
    if (opened != open_snapshots_.end()) {
      co_return fail(
          Errc::busy,
          fmt::format("snapshot \"{}\" is in use by {} NBD session{}: detach the clients first", name.full(),
                      opened->second.sessions_count, opened->second.sessions_count == 1 ? "" : "s"));
    }
  }
  std::optional<LayerId> layer;
  auto body = [&](kv::Transaction& transaction) { return remove_snapshot_in(transaction, name, layer); };
  CO_RETURN_IF_ERROR(co_await transact<void>(body));
  co_await take_up_jobs();
  co_return Result<void>{};
}

Task<Result<void>> Catalog::remove_snapshot_in(kv::Transaction& transaction, const SnapshotName& name,
                                               std::optional<LayerId>& layer) {
  auto found = co_await find_snapshot(transaction, name);
  // Gone or another one: an attempt with an unknown result had happened.
  if (layer &&
      ((!found && found.error().code == Errc::not_found) || (found && found->record.layer != *layer)))
    co_return Result<void>{};
  if (!found) co_return propagate(found);
  layer = found->record.layer;
  std::vector<SnapshotRow> one;
  one.push_back({name.snapshot, found->record});
  co_return co_await drop_snapshots_in(transaction, one, found->volume);
}

Task<Result<void>> Catalog::drop_snapshots_in(kv::Transaction& transaction,
                                              const std::vector<SnapshotRow>& snapshots, VolumeId id) {
  std::vector<std::string> wanted;
  for (const SnapshotRow& snapshot : snapshots) wanted.push_back(keys_.layer(snapshot.record.layer));
  ASSIGN_OR_CO_RETURN(const Values values, co_await read_points(transaction, wanted));
  for (size_t i = 0; i < snapshots.size(); ++i) {
    const LayerId layer = snapshots[i].record.layer;
    transaction.clear(keys_.snapshot(id, snapshots[i].name));
    if (!values[i]) continue;  // damaged; check tells
    ASSIGN_OR_CO_RETURN(LayerRecord record, LayerRecord::decode(*values[i]));
    record.state = LayerState::unnamed;
    transaction.set(keys_.layer(layer), record.encode());
    transaction.clear(keys_.usage(layer));
    transaction.set(keys_.job(JobId{layer.value}),
                    JobRecord{.kind = JobKind::merge_layer, .layer = layer}.encode());
  }
  co_return Result<void>{};
}

// Open snapshots

Task<Result<VolumeInfo>> Catalog::describe_snapshot(SnapshotName name) {
  ASSIGN_OR_CO_RETURN(const FoundSnapshot found, co_await find_snapshot(name));
  ASSIGN_OR_CO_RETURN(const Records records, co_await load(found.volume, name.volume));
  VolumeInfo info;
  info.name = name.full();
  info.id = records.volume.id.value;
  info.size_bytes = found.record.size_bytes;
  info.block_bytes = records.volume.block_bytes();
  info.compression = records.volume.compression;
  info.created = found.record.created;
  info.read_only = true;
  const auto opened = open_snapshots_.find(found.record.layer);
  if (opened != open_snapshots_.end() && opened->second.disk) {
    info.used_bytes = opened->second.disk->data_blocks_count() << records.volume.block_shift;
    info.sessions_count = opened->second.sessions_count;
    co_return info;
  }
  ASSIGN_OR_CO_RETURN(const uint64_t data_blocks_count,
                      co_await count_data_blocks(found.record.layer, records.volume));
  info.used_bytes = data_blocks_count << records.volume.block_shift;
  co_return info;
}

Task<Result<std::shared_ptr<block::Export>>> Catalog::open_snapshot(SnapshotName name) {
  std::optional<FoundSnapshot> found;
  std::optional<Records> records;
  while (true) {
    if (stopping_) co_return fail(Errc::cancelled, "the server is stopping");
    ASSIGN_OR_CO_RETURN(found, co_await find_snapshot(name));
    ASSIGN_OR_CO_RETURN(records, co_await load(found->volume, name.volume));
    const auto opened = open_snapshots_.find(found->record.layer);
    if (opened == open_snapshots_.end() || opened->second.disk) break;
    co_await open_changed_.wait();  // another session opens it
  }
  const LayerId layer = found->record.layer;
  OpenSnapshot& opening = open_snapshots_[layer];
  ++opening.sessions_count;
  if (!opening.disk) {
    Executor& executor = *options_.volume_executors[next_executor_++ % options_.volume_executors.size()];
    co_await go_to(executor);
    auto disk =
        co_await SnapshotDisk::open(engine_, executor, keys_, name.full(), records->volume, found->record);
    co_await go_to(home_);
    if (!disk) {
      open_snapshots_.erase(layer);
      open_changed_.notify_all();
      co_return propagate(disk);
    }
    opening.disk = std::move(*disk);
    open_changed_.notify_all();
  }
  co_return std::shared_ptr<block::Export>(opening.disk.get(), [this, layer](block::Export*) {
    // The last owner may let go on any thread.
    post(home_, [this, layer] { release_snapshot(layer); });
  });
}

void Catalog::release_snapshot(LayerId layer) {
  ASSERT(home_.runs_here());
  OpenSnapshot& opened = open_snapshots_.at(layer);
  ASSERT(opened.sessions_count > 0);
  if (--opened.sessions_count > 0) return;
  open_snapshots_.erase(layer);
  open_changed_.notify_all();
}

}  // namespace fdbnbd::volume
