#include "volume/diff_import.h"

#include <fmt/core.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "volume/layer_edits.h"
#include "volume/presence.h"

namespace fdbnbd::volume {

namespace {

tl::unexpected<Error> changed_since(const DiffImport& import) {
  return fail(
      Errc::differs,
      fmt::format("volume \"{}\" has changed since snapshot \"{}\", which the stream begins at; roll it "
                  "back to that first",
                  import.volume, import.from->name));
}

Task<Result<bool>> has_blocks(kv::Transaction& transaction, const KeySpace& keys, LayerId layer) {
  std::string begin = keys.layer_begin('B', layer);
  const std::string end = keys.layer_end('B', layer);
  while (true) {
    auto page = co_await transaction.get_range({begin, end}, {}, kv::Isolation::snapshot);
    if (!page) co_return propagate(page);
    for (const kv::KeyValue& row : page->rows) {
      ASSIGN_OR_CO_RETURN(const ExtentBits bits, ExtentBits::decode(row.value));
      if (!bits.all_absent()) co_return true;
    }
    if (!page->more || page->rows.empty()) co_return false;
    begin = key_after(page->rows.back().key);
  }
}

Result<SnapshotRow> choose_base(const std::vector<SnapshotRow>& snapshots, const DiffImport& import) {
  for (const SnapshotRow& row : snapshots) {
    if (import.to && row.name == import.to->name) {
      return fail(Errc::exists, fmt::format("snapshot \"{}@{}\" exists already", import.volume, row.name));
    }
  }
  for (const SnapshotRow& row : snapshots) {
    if (row.record.id() == import.from->id) return row;
  }
  const bool is_named =
      std::ranges::any_of(snapshots, [&](const SnapshotRow& row) { return row.name == import.from->name; });
  if (is_named) {
    return fail(Errc::differs, fmt::format("snapshot \"{}@{}\" is not the one that the stream begins at",
                                           import.volume, import.from->name));
  }
  return fail(Errc::not_found, fmt::format("volume \"{}\" has no snapshot \"{}\", which the stream begins at",
                                           import.volume, import.from->name));
}

// The partial volume's layer is the volume's from now on, and on it stands what `end` says.
Task<Result<LayerId>> take_layer(kv::Transaction& transaction, RecordReader& records,
                                 const DiffImport& import, const VolumeRecord& volume, uint64_t sequence,
                                 LayerId layer, const ImportEnd& end) {
  const KeySpace& keys = records.keys();
  auto record = co_await records.read_layer(transaction, layer);
  if (!record) co_return propagate(record);
  if (!*record)
    co_return fail(Errc::corruption, fmt::format("the layer of \"{}\" is missing", import.partial));
  LayerRecord own = **record;
  own.origin = volume.id;
  transaction.set(keys.layer(layer), own.encode());
  if (!import.to) co_return layer;
  SnapshotRecord snapshot;
  snapshot.layer = layer;
  snapshot.size_bytes = volume.size_bytes;
  snapshot.stale_end_bytes = volume.stale_end_bytes;
  snapshot.created = end.created;
  snapshot.sequence = sequence;
  snapshot.original_id = import.to->id;
  transaction.set(keys.snapshot(volume.id, import.to->name), snapshot.encode());
  add_layer(transaction, keys, end.new_top, layer, volume);
  const std::string usage_key = keys.usage(layer);
  auto usage = co_await transaction.get(usage_key, kv::Isolation::serializable);
  if (!usage) co_return propagate(usage);
  if (usage->has_value()) transaction.set(keys.usage(end.new_top), **usage);
  co_return end.new_top;
}

tl::unexpected<Error> opened_elsewhere(const std::string& name) {
  return fail(Errc::busy, fmt::format("volume \"{}\" has just been opened by another server", name));
}

// Whether the volume is what make_quiet() has left: nobody has taken it, and no snapshot has been taken of
// it.
bool is_quiet(const FenceRecord& fence, const QuietVolume& quiet) {
  return fence.same_tenure(quiet.fence) && fence.top_layer == quiet.fence.top_layer;
}

// As for writes: what a volume uses already it may go on using, also above its quota.
Result<void> check_quota(const DiffImport& import, const VolumeRecord& volume, const ImportEnd& end) {
  const uint64_t used_bytes = end.partial.data_blocks_count << volume.block_shift;
  if (volume.quota_bytes == 0 || used_bytes <= volume.quota_bytes ||
      end.partial.data_blocks_count <= end.volume->data_blocks_count)
    return {};
  return fail(Errc::no_space, fmt::format("volume \"{}\" would use {} bytes, more than its quota of {}",
                                          import.volume, used_bytes, volume.quota_bytes));
}

Task<Result<VolumeRecords>> make_quiet_in(kv::Transaction& transaction, RecordReader& records, VolumeId id,
                                          const std::string& name, const std::optional<Vacancy>& claimed) {
  ASSIGN_OR_CO_RETURN(VolumeRecords found, co_await records.load(transaction, id, name));
  const KeySpace& keys = records.keys();
  if (claimed) CO_RETURN_IF_ERROR(co_await check_vacancy(transaction, keys, id, found.fence, *claimed, name));
  if (!claimed || claimed->tenure.is_free()) co_return found;
  ++found.fence.epoch;
  found.fence.owner = {};
  transaction.set(keys.fence(id), found.fence.encode());
  transaction.clear(keys.heartbeat(id));
  transaction.clear(keys.handover(id));
  co_return found;
}

}  // namespace

Task<Result<QuietVolume>> make_quiet(RecordReader& records, VolumeId id, std::string name,
                                     std::optional<Vacancy> claimed) {
  auto body = [&](kv::Transaction& transaction) {
    return make_quiet_in(transaction, records, id, name, claimed);
  };
  ASSIGN_OR_CO_RETURN(const VolumeRecords found, co_await records.decide<VolumeRecords>(body));
  ASSIGN_OR_CO_RETURN(const uint64_t data_blocks_count,
                      co_await records.count_data_blocks(found.fence.top_layer, found.volume));
  co_return QuietVolume{id, found.fence, data_blocks_count};
}

Task<Result<ImportBase>> find_import_base(kv::Transaction& transaction, RecordReader& records,
                                          const DiffImport& import) {
  auto id = co_await records.find(transaction, import.volume);
  if (!id && id.error().code == Errc::not_found) {
    co_return fail(Errc::not_found,
                   fmt::format("there is no volume \"{}\" with a snapshot \"{}\", which the stream begins at",
                               import.volume, import.from->name));
  }
  if (!id) co_return propagate(id);
  ASSIGN_OR_CO_RETURN(const VolumeRecords loaded, co_await records.load(transaction, *id, import.volume));
  ASSIGN_OR_CO_RETURN(const auto snapshots, co_await records.read_snapshots(transaction, *id, import.volume));
  ASSIGN_OR_CO_RETURN(SnapshotRow base, choose_base(snapshots, import));
  auto top = co_await records.read_layer(transaction, loaded.fence.top_layer);
  if (!top) co_return propagate(top);
  if (!*top || (*top)->parent != base.record.layer || loaded.volume.size_bytes != base.record.size_bytes)
    co_return changed_since(import);
  ASSIGN_OR_CO_RETURN(const bool has_changes,
                      co_await has_blocks(transaction, records.keys(), loaded.fence.top_layer));
  if (has_changes) co_return changed_since(import);
  co_return ImportBase{*id, loaded, std::move(base)};
}

Task<Result<void>> finish_import(kv::Transaction& transaction, RecordReader& records,
                                 const DiffImport& import, const ImportEnd& end) {
  const KeySpace& keys = records.keys();
  const VolumeId partial_id = end.partial.id;
  auto partial = co_await records.find(transaction, import.partial);
  if (!partial) co_return propagate(partial);
  if (*partial != partial_id) co_return opened_elsewhere(import.partial);
  ASSIGN_OR_CO_RETURN(const VolumeRecords filled,
                      co_await records.load(transaction, partial_id, import.partial));
  if (!is_quiet(filled.fence, end.partial)) co_return opened_elsewhere(import.partial);
  VolumeRecord volume = filled.volume;
  FenceRecord fence = filled.fence;
  transaction.clear(keys.name(import.partial));
  if (import.from) {
    ASSIGN_OR_CO_RETURN(const ImportBase base, co_await find_import_base(transaction, records, import));
    if (base.id != end.volume->id || !is_quiet(base.records.fence, *end.volume))
      co_return opened_elsewhere(import.volume);
    auto own = co_await records.read_layer(transaction, filled.fence.top_layer);
    if (!own) co_return propagate(own);
    if (!*own || (*own)->parent != base.snapshot.record.layer) co_return changed_since(import);
    CO_RETURN_IF_ERROR(check_quota(import, base.records.volume, end));
    CO_RETURN_IF_ERROR(co_await drop_top(transaction, keys, base.records.fence.top_layer));
    volume = base.records.volume;
    volume.size_bytes = filled.volume.size_bytes;
    volume.stale_end_bytes = filled.volume.stale_end_bytes;
    fence = base.records.fence;
    transaction.clear(keys.volume(partial_id));
    transaction.clear(keys.fence(partial_id));
    transaction.clear(keys.heartbeat(partial_id));
    transaction.clear(keys.handover(partial_id));
  } else {
    CO_RETURN_IF_ERROR(co_await records.check_unused(transaction, import.volume));
    transaction.set(keys.name(import.volume), NameRecord{partial_id}.encode());
  }
  ++fence.epoch;  // whoever had it open does not have it any more
  ++fence.barrier;
  fence.owner = {};
  ASSIGN_OR_CO_RETURN(fence.top_layer, co_await take_layer(transaction, records, import, volume,
                                                           fence.barrier, filled.fence.top_layer, end));
  transaction.set(keys.volume(volume.id), volume.encode());
  transaction.set(keys.fence(volume.id), fence.encode());
  co_return Result<void>{};
}

}  // namespace fdbnbd::volume
