#include "volume/trash.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "volume/layer_edits.h"

namespace fdbnbd::volume {

namespace {

std::optional<uint64_t> parse_id(const std::string& text) {
  uint64_t id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return id;
}

bool is_damage(const Error& error) {
  return error.code == Errc::corruption || error.code == Errc::newer_format;
}

}  // namespace

Trash::Trash(RecordReader& records, OpenVolumes& open_volumes, OpenSnapshots& open_snapshots, Jobs& jobs,
             Duration retention)
    : records_(records),
      home_(records.executor()),
      keys_(records.keys()),
      open_volumes_(open_volumes),
      open_snapshots_(open_snapshots),
      jobs_(jobs),
      retention_(retention) {}

// Purging in the background

void Trash::start() {
  is_looking_ = true;
  scope_.spawn(look());
}

Task<void> Trash::close() {
  home_.cancel_timer(*this);
  co_await scope_.join();
  home_.cancel_timer(*this);
}

void Trash::run() noexcept {
  next_look_.reset();
  if (open_volumes_.stopping()) return;
  // What is being read now may lack what the timer was started for.
  if (is_looking_) return look_in(limits::kTrashLookInterval);
  is_looking_ = true;
  scope_.spawn(look());
}

void Trash::look_in(Duration delay) {
  if (open_volumes_.stopping()) return;
  delay = std::clamp<Duration>(delay, std::chrono::seconds(1), limits::kTrashLookInterval);
  const MonotonicTime at = home_.clock().now() + delay;
  if (next_look_ && *next_look_ <= at) return;
  home_.cancel_timer(*this);
  next_look_ = at;
  home_.start_timer(*this, delay);
}

Task<void> Trash::look() {
  const auto next = co_await purge_expired();
  is_looking_ = false;
  if (!next) log::warning("the trash is looked at later: {}", next.error().what);
  // In a store that others share they put things into the trash, and may be gone when those expire.
  const bool has_others = records_.engine().capabilities().shared_between_hosts;
  if (next && !*next && !has_others) co_return;
  look_in(next && *next ? **next - home_.clock().wall_now() : Duration(limits::kTrashLookInterval));
}

Task<Result<std::optional<WallTime>>> Trash::purge_expired() {
  ASSIGN_OR_CO_RETURN(const auto rows, co_await read_rows());
  std::optional<WallTime> next;
  for (const Row& row : rows) {
    if (open_volumes_.stopping()) break;
    if (row.record.expires > home_.clock().wall_now()) {
      next = std::min(next.value_or(row.record.expires), row.record.expires);
      continue;
    }
    log::info("volume \"{}\" (id {}) has been in the trash for long enough", row.record.name, row.id.value);
    const Result<void> purged = co_await purge_one(row);
    if (purged || purged.error().code == Errc::not_found) continue;
    if (!is_damage(purged.error())) co_return tl::unexpected(purged.error());
    log::error("volume \"{}\" (id {}) stays in the trash: {}; run fdb-nbd check", row.record.name,
               row.id.value, purged.error().what);
  }
  co_return next;
}

// Removal

Task<Result<std::optional<TrashEntry>>> Trash::remove(std::string name, RemoveOptions options) {
  options.now = options.now || retention_ == Duration::zero();
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await records_.find(name));
  if (options.id != 0 && id.value != options.id) co_return tl::unexpected(no_volume(name));
  Removal removal;
  removal.name = name;
  removal.options = options;
  removal.id = id;
  Removed removed;
  {
    ASSIGN_OR_CO_RETURN(const OpenVolumes::Reservation reservation, co_await open_volumes_.reserve(id, name));
    ASSIGN_OR_CO_RETURN(removal.claimed, co_await open_volumes_.claim(id, name));
    removal.trashed = home_.clock().wall_now();
    removal.expires = removal.trashed + retention_;
    auto body = [&](kv::Transaction& transaction) { return remove_in(transaction, removal); };
    ASSIGN_OR_CO_RETURN(removed, co_await records_.decide<Removed>(body));
  }
  CO_RETURN_IF_ERROR(co_await records_.engine().sync(home_));
  if (options.now) {
    co_await jobs_.take_up();
    co_return std::nullopt;
  }
  look_in(retention_);
  Row row{id, {.name = std::move(name), .trashed = removal.trashed, .expires = removal.expires}};
  ASSIGN_OR_CO_RETURN(TrashEntry entry, co_await describe(std::move(row), removed.snapshots_count));
  co_return entry;
}

Task<Result<Trash::Removed>> Trash::remove_in(kv::Transaction& transaction, const Removal& removal) {
  auto found = co_await records_.find(transaction, removal.name);
  if (!found) co_return propagate(found);
  // Only the one that is reserved: another one that has been given the name may be in use.
  if (*found != removal.id) co_return tl::unexpected(no_volume(removal.name));
  ASSIGN_OR_CO_RETURN(VolumeRecords records, co_await records_.load(transaction, *found, removal.name));
  if (removal.claimed)
    CO_RETURN_IF_ERROR(co_await check_vacancy(transaction, keys_, removal.id, records.fence, *removal.claimed,
                                              removal.name));
  ASSIGN_OR_CO_RETURN(const auto snapshots,
                      co_await records_.read_snapshots(transaction, *found, removal.name));
  CO_RETURN_IF_ERROR(check_snapshots(removal, snapshots));
  transaction.clear(keys_.name(removal.name));
  if (removal.options.now) {
    CO_RETURN_IF_ERROR(co_await destroy_in(transaction, records, snapshots));
  } else {
    put_in(transaction, std::move(records), removal);
  }
  co_return Removed{.snapshots_count = snapshots.size()};
}

Result<void> Trash::check_snapshots(const Removal& removal, const std::vector<SnapshotRow>& snapshots) const {
  if (!snapshots.empty() && !removal.options.with_snapshots) {
    return fail(
        Errc::busy,
        fmt::format(
            "volume \"{}\" has {} snapshot{} (the newest is \"{}\"): remove them first, or all at once "
            "with --snapshots",
            removal.name, snapshots.size(), snapshots.size() == 1 ? "" : "s", snapshots.back().name));
  }
  if (removal.options.now && snapshots.size() > limits::kMaxSnapshotsPerRemoval) {
    return fail(Errc::too_large,
                fmt::format("volume \"{}\" has {} snapshots, more than go at once: remove some first",
                            removal.name, snapshots.size()));
  }
  for (const SnapshotRow& snapshot : snapshots) {
    if (open_snapshots_.find(snapshot.record.layer) == nullptr) continue;
    return fail(Errc::busy, fmt::format("snapshot \"{}@{}\" is in use by NBD sessions: detach the clients "
                                        "first",
                                        removal.name, snapshot.name));
  }
  return {};
}

void Trash::put_in(kv::Transaction& transaction, VolumeRecords records, const Removal& removal) {
  const VolumeId id = records.volume.id;
  records.volume.is_trashed = true;
  // Whoever had it open does not have it any more.
  ++records.fence.epoch;
  records.fence.owner = {};
  transaction.set(keys_.volume(id), records.volume.encode());
  transaction.set(keys_.fence(id), records.fence.encode());
  transaction.clear(keys_.heartbeat(id));
  transaction.clear(keys_.handover(id));
  const TrashRecord record{.name = removal.name, .trashed = removal.trashed, .expires = removal.expires};
  transaction.set(keys_.trash(id), record.encode());
}

Task<Result<void>> Trash::destroy_in(kv::Transaction& transaction, const VolumeRecords& records,
                                     const std::vector<SnapshotRow>& snapshots) {
  const VolumeId id = records.volume.id;
  CO_RETURN_IF_ERROR(co_await drop_snapshots(transaction, records_, snapshots, id));
  transaction.clear(keys_.volume(id));
  transaction.clear(keys_.fence(id));
  transaction.clear(keys_.heartbeat(id));
  transaction.clear(keys_.handover(id));
  co_return co_await drop_top(transaction, keys_, records.fence.top_layer);
}

// What is in the trash

Task<Result<std::vector<Trash::Row>>> Trash::read_rows() {
  ASSIGN_OR_CO_RETURN(const auto stored,
                      co_await records_.read_all(keys_.type_begin('X'), keys_.type_end('X')));
  std::vector<Row> rows;
  for (const kv::KeyValue& row : stored) {
    const auto id = keys_.id_of(row.key);
    const auto record = TrashRecord::decode(row.value);
    if (!id || !record) {
      log::error("a record of the trash is damaged ({}); run fdb-nbd check",
                 id ? record.error().what : "its key");
      continue;
    }
    rows.push_back({VolumeId{*id}, *record});
  }
  std::ranges::sort(rows, {}, [](const Row& row) { return std::pair(row.record.trashed, row.id); });
  co_return rows;
}

Task<Result<Trash::Row>> Trash::find(std::string name_or_id) {
  ASSIGN_OR_CO_RETURN(const auto rows, co_await read_rows());
  std::vector<Row> matching;
  std::string ids;
  for (const Row& row : rows) {
    if (row.record.name != name_or_id) continue;
    matching.push_back(row);
    ids += fmt::format("{}{}", ids.empty() ? "" : ", ", row.id.value);
  }
  if (matching.size() == 1) co_return matching.front();
  if (matching.size() > 1) {
    co_return fail(Errc::invalid, fmt::format("\"{}\" is in the trash {} times: name one by its id: {}",
                                              name_or_id, matching.size(), ids));
  }
  const std::optional<uint64_t> id = parse_id(name_or_id);
  for (const Row& row : rows) {
    if (id && row.id.value == *id) co_return row;
  }
  co_return fail(Errc::not_found, fmt::format("there is no volume \"{}\" in the trash", name_or_id));
}

Task<Result<std::vector<TrashEntry>>> Trash::list() {
  ASSIGN_OR_CO_RETURN(const auto rows, co_await read_rows());
  ASSIGN_OR_CO_RETURN(const auto snapshots, co_await records_.read_all_snapshots());
  std::vector<TrashEntry> entries;
  for (const Row& row : rows) {
    const auto of_volume = snapshots.find(row.id);
    auto entry = co_await describe(row, of_volume == snapshots.end() ? 0 : of_volume->second.size());
    if (entry) {
      entries.push_back(std::move(*entry));
    } else if (entry.error().code != Errc::not_found) {  // purged or restored meanwhile
      log::error("\"{}\" in the trash: {}; run fdb-nbd check", row.record.name, entry.error().what);
    }
  }
  co_return entries;
}

Task<Result<TrashEntry>> Trash::describe(Row row, uint64_t snapshots_count) {
  auto body = [&](kv::Transaction& transaction) {
    return records_.load_trashed(transaction, row.id, row.record.name);
  };
  ASSIGN_OR_CO_RETURN(const VolumeRecords records, co_await records_.transact<VolumeRecords>(body));
  ASSIGN_OR_CO_RETURN(const uint64_t data_blocks_count,
                      co_await records_.count_data_blocks(records.fence.top_layer, records.volume));
  co_return TrashEntry{.name = row.record.name,
                       .id = row.id.value,
                       .size_bytes = records.volume.size_bytes,
                       .used_bytes = data_blocks_count << records.volume.block_shift,
                       .snapshots_count = snapshots_count,
                       .trashed = row.record.trashed,
                       .expires = row.record.expires};
}

// Out of the trash

Task<Result<std::string>> Trash::restore(std::string name_or_id, std::string new_name) {
  ASSIGN_OR_CO_RETURN(const Row row, co_await find(std::move(name_or_id)));
  if (new_name.empty()) new_name = row.record.name;
  CO_RETURN_IF_ERROR(check_volume_name(new_name));
  auto body = [&](kv::Transaction& transaction) { return restore_in(transaction, row, new_name); };
  CO_RETURN_IF_ERROR(co_await records_.decide<void>(body));
  CO_RETURN_IF_ERROR(co_await records_.engine().sync(home_));
  co_return new_name;
}

Task<Result<void>> Trash::restore_in(kv::Transaction& transaction, Row row, const std::string& new_name) {
  auto existing = co_await records_.find(transaction, new_name);
  if (existing) {
    co_return fail(Errc::exists,
                   fmt::format("volume \"{}\" exists already: fdb-nbd trash restore {} NEW gives "
                               "the one in the trash another name",
                               new_name, row.id.value));
  }
  if (existing.error().code != Errc::not_found) co_return propagate(existing);
  ASSIGN_OR_CO_RETURN(VolumeRecords records,
                      co_await records_.load_trashed(transaction, row.id, row.record.name));
  ASSIGN_OR_CO_RETURN(const auto record, co_await get_record<TrashRecord>(transaction, keys_.trash(row.id),
                                                                          kv::Isolation::serializable));
  if (record && record->is_being_purged()) {
    co_return fail(Errc::busy,
                   fmt::format("volume \"{}\" (id {}) is being purged", row.record.name, row.id.value));
  }
  records.volume.is_trashed = false;
  transaction.set(keys_.volume(row.id), records.volume.encode());
  transaction.set(keys_.name(new_name), NameRecord{row.id}.encode());
  transaction.clear(keys_.trash(row.id));
  co_return Result<void>{};
}

Task<Result<void>> Trash::purge(std::optional<std::string> name_or_id) {
  std::vector<Row> rows;
  if (name_or_id) {
    ASSIGN_OR_CO_RETURN(Row row, co_await find(*name_or_id));
    rows.push_back(std::move(row));
  } else {
    ASSIGN_OR_CO_RETURN(rows, co_await read_rows());
  }
  Result<void> all = {};
  for (const Row& row : rows) {
    const Result<void> purged = co_await purge_one(row);
    if (purged) continue;
    if (name_or_id) co_return purged;
    // Of all: what is there, and one that is damaged keeps no other.
    if (purged.error().code == Errc::not_found) continue;
    if (!is_damage(purged.error())) co_return purged;
    all = fail(purged.error().code, fmt::format("volume \"{}\" (id {}) in the trash: {}", row.record.name,
                                                row.id.value, purged.error().what));
  }
  const Result<void> synced = co_await records_.engine().sync(home_);
  co_return synced ? all : synced;
}

Task<Result<void>> Trash::purge_one(Row row) {
  auto body = [&](kv::Transaction& transaction) { return purge_step(transaction, row); };
  while (true) {
    ASSIGN_OR_CO_RETURN(const bool is_done, co_await records_.decide<bool>(body));
    if (is_done) break;
  }
  co_await jobs_.take_up();
  co_return Result<void>{};
}

// Whether the volume is gone. One with many snapshots goes in several steps, the record of the trash last.
Task<Result<bool>> Trash::purge_step(kv::Transaction& transaction, const Row& row) {
  const std::string key = keys_.trash(row.id);
  ASSIGN_OR_CO_RETURN(auto record,
                      co_await get_record<TrashRecord>(transaction, key, kv::Isolation::serializable));
  // One that has been restored, and removed again, has its time before it again.
  const auto is_same = [&row](const TrashRecord& found) {
    return found.trashed == row.record.trashed &&
           (found.expires == row.record.expires || found.is_being_purged());
  };
  if (!record || !is_same(*record)) {
    co_return fail(Errc::not_found, fmt::format("volume \"{}\" (id {}) has just been restored or purged",
                                                row.record.name, row.id.value));
  }
  ASSIGN_OR_CO_RETURN(const VolumeRecords records,
                      co_await records_.load_trashed(transaction, row.id, row.record.name));
  ASSIGN_OR_CO_RETURN(auto snapshots, co_await records_.read_snapshots(transaction, row.id, row.record.name));
  if (snapshots.size() > limits::kMaxSnapshotsPerRemoval) {
    snapshots.resize(limits::kMaxSnapshotsPerRemoval);
    CO_RETURN_IF_ERROR(co_await drop_snapshots(transaction, records_, snapshots, row.id));
    record->expires = {};
    transaction.set(key, record->encode());
    co_return false;
  }
  CO_RETURN_IF_ERROR(co_await destroy_in(transaction, records, snapshots));
  transaction.clear(key);
  co_return true;
}

}  // namespace fdbnbd::volume
