#include "volume/record_reader.h"

#include <fmt/core.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <string_view>

#include "volume/chain_reader.h"

namespace fdbnbd::volume {

namespace {

// Fewer keys than that are read one by one.
constexpr size_t kKeysWorthARange = 16;
// How many rows are read to find one that is wanted.
constexpr size_t kRangeRowsPerKey = 4;

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

}  // namespace

Error no_volume(const std::string& name) {
  return {Errc::not_found, fmt::format("there is no volume \"{}\"", name)};
}

Task<Result<std::vector<kv::KeyValue>>> RecordReader::read_all(std::string begin, std::string end) {
  std::vector<kv::KeyValue> rows;
  while (true) {
    auto read_page = [&](kv::Transaction& transaction) {
      return transaction.get_range({begin, end}, {}, kv::Isolation::snapshot);
    };
    auto page = co_await transact<kv::RangeResult>(read_page);
    if (!page) co_return propagate(page);
    if (page->rows.empty()) break;
    begin = key_after(page->rows.back().key);
    std::ranges::move(page->rows, std::back_inserter(rows));
    if (!page->more) break;
  }
  co_return rows;
}

Task<Result<VolumeId>> RecordReader::find(kv::Transaction& transaction, const std::string& name) {
  const std::string key = keys_.name(name);
  auto value = co_await transaction.get(key, kv::Isolation::serializable);
  if (!value) co_return propagate(value);
  if (!value->has_value()) co_return tl::unexpected(no_volume(name));
  ASSIGN_OR_CO_RETURN(const NameRecord record, NameRecord::decode(**value));
  co_return record.volume;
}

Task<Result<void>> RecordReader::check_unused(kv::Transaction& transaction, const std::string& name) {
  const auto existing = co_await find(transaction, name);
  if (existing) co_return fail(Errc::exists, fmt::format("volume \"{}\" exists already", name));
  if (existing.error().code != Errc::not_found) co_return tl::unexpected(existing.error());
  co_return Result<void>{};
}

Task<Result<VolumeId>> RecordReader::find(const std::string& name) {
  auto body = [&](kv::Transaction& transaction) { return find(transaction, name); };
  co_return co_await transact<VolumeId>(body);
}

Task<Result<VolumeRecords>> RecordReader::load(kv::Transaction& transaction, VolumeId id,
                                               const std::string& name) {
  ASSIGN_OR_CO_RETURN(VolumeRecords records, co_await load_any(transaction, id, name));
  if (records.volume.is_trashed) co_return tl::unexpected(no_volume(name));
  co_return records;
}

Task<Result<VolumeRecords>> RecordReader::load_trashed(kv::Transaction& transaction, VolumeId id,
                                                       const std::string& name) {
  ASSIGN_OR_CO_RETURN(VolumeRecords records, co_await load_any(transaction, id, name));
  if (!records.volume.is_trashed) co_return fail(Errc::not_found, "the volume is not in the trash any more");
  co_return records;
}

Task<Result<VolumeRecords>> RecordReader::load_any(kv::Transaction& transaction, VolumeId id,
                                                   const std::string& name) {
  const std::string volume_key = keys_.volume(id);
  const std::string fence_key = keys_.fence(id);
  auto volume = co_await transaction.get(volume_key, kv::Isolation::serializable);
  if (!volume) co_return propagate(volume);
  auto fence = co_await transaction.get(fence_key, kv::Isolation::serializable);
  if (!fence) co_return propagate(fence);
  if (!volume->has_value() && !fence->has_value()) co_return tl::unexpected(no_volume(name));
  if (!volume->has_value() || !fence->has_value()) {
    co_return fail(Errc::corruption, fmt::format("volume \"{}\": a record of it is missing", name));
  }
  auto volume_record = VolumeRecord::decode(**volume);
  auto fence_record = FenceRecord::decode(**fence);
  if (!volume_record)
    co_return fail(volume_record.error().code,
                   fmt::format("volume \"{}\": {}", name, volume_record.error().what));
  if (!fence_record)
    co_return fail(fence_record.error().code,
                   fmt::format("volume \"{}\": {}", name, fence_record.error().what));
  co_return VolumeRecords{*volume_record, *fence_record};
}

Task<Result<VolumeRecords>> RecordReader::load(VolumeId id, const std::string& name) {
  auto body = [&](kv::Transaction& transaction) { return load(transaction, id, name); };
  co_return co_await transact<VolumeRecords>(body);
}

Task<Result<std::string>> RecordReader::name_of(VolumeId id) {
  ASSIGN_OR_CO_RETURN(const auto rows, co_await read_all(keys_.type_begin('V'), keys_.type_end('V')));
  for (const kv::KeyValue& row : rows) {
    const auto record = NameRecord::decode(row.value);
    if (record && record->volume == id) co_return std::string(keys_.name_of(row.key));
  }
  co_return std::string();
}

Task<Result<std::vector<SnapshotRow>>> RecordReader::read_snapshots(kv::Transaction& transaction, VolumeId id,
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

Task<Result<std::map<VolumeId, std::vector<SnapshotInfo>>>> RecordReader::read_all_snapshots() {
  ASSIGN_OR_CO_RETURN(const auto rows, co_await read_all(keys_.type_begin('N'), keys_.type_end('N')));
  std::map<VolumeId, std::vector<std::pair<uint64_t, SnapshotInfo>>> by_sequence;
  for (const kv::KeyValue& row : rows) {
    const auto key = keys_.snapshot_of(row.key);
    const auto record = SnapshotRecord::decode(row.value);
    if (!key || !record) continue;
    by_sequence[key->volume].emplace_back(
        record->sequence,
        SnapshotInfo{std::string(key->name), record->id(), record->size_bytes, record->created});
  }
  std::map<VolumeId, std::vector<SnapshotInfo>> snapshots;
  for (auto& [volume, list] : by_sequence) {
    std::ranges::sort(list, {}, [](const auto& one) { return one.first; });
    for (auto& [sequence, info] : list) snapshots[volume].push_back(std::move(info));
  }
  co_return snapshots;
}

Task<Result<FoundSnapshot>> RecordReader::find_snapshot(kv::Transaction& transaction,
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

Task<Result<FoundSnapshot>> RecordReader::find_snapshot(const SnapshotName& name) {
  auto body = [&](kv::Transaction& transaction) { return find_snapshot(transaction, name); };
  co_return co_await transact<FoundSnapshot>(body);
}

Task<Result<std::optional<LayerRecord>>> RecordReader::read_layer(kv::Transaction& transaction,
                                                                  LayerId layer) {
  return get_record<LayerRecord>(transaction, keys_.layer(layer), kv::Isolation::serializable);
}

Task<Result<std::vector<LayerId>>> RecordReader::read_children(kv::Transaction& transaction, LayerId layer) {
  const std::string begin = keys_.children_begin(layer);
  const std::string end = keys_.children_end(layer);
  auto page = co_await transaction.get_range({begin, end}, {.rows_limit = 2}, kv::Isolation::serializable);
  if (!page) co_return propagate(page);
  std::vector<LayerId> children;
  for (const kv::KeyValue& row : page->rows) {
    const auto key = keys_.child_of(row.key);
    if (!key) co_return fail(Errc::corruption, "the key of a child record is damaged");
    children.push_back(key->child);
  }
  co_return children;
}

Task<Result<uint64_t>> RecordReader::count_data_blocks(LayerId top, const VolumeRecord& volume) {
  const std::string usage_key = keys_.usage(top);
  auto read_usage = [&](kv::Transaction& transaction) {
    return transaction.get(usage_key, kv::Isolation::snapshot);
  };
  auto value = co_await transact<std::optional<std::string>>(read_usage);
  if (!value) co_return propagate(value);
  if (value->has_value()) {
    ASSIGN_OR_CO_RETURN(const UsageRecord usage, UsageRecord::decode(**value));
    co_return usage.data_blocks_count;
  }
  // Not closed cleanly, or open elsewhere: the bitmaps tell.
  ChainReader chain(engine_, executor_, keys_, {volume.block_shift, volume.striping});
  CO_RETURN_IF_ERROR(co_await chain.load(top));
  co_return chain.map().data_blocks_count();
}

// One bulk read instead of one round trip a key. It may see later versions than the transaction does; then
// the key has changed behind the transaction's read version, and the commit conflicts.
Task<Result<RecordReader::Values>> RecordReader::read_points(kv::Transaction& transaction,
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
  CO_RETURN_IF_ERROR(co_await engine_.read(executor_, request, sink));
  if (sink.has_unreadable) co_return fail(Errc::corruption, "the store cannot read one of its records");
  co_return std::move(sink.values);
}

// In the embedded store a point costs no more than a row, and a damaged row between those that are wanted
// would be in the way.
bool RecordReader::are_many(size_t keys_count) const {
  return keys_count >= kKeysWorthARange && engine_.capabilities().shared_between_hosts;
}

Task<Result<RecordReader::Values>> RecordReader::read_rows(kv::Transaction& transaction,
                                                           const std::vector<std::string>& keys,
                                                           RowConflicts conflicts) {
  if (!are_many(keys.size())) co_return co_await read_points(transaction, keys);
  std::map<std::string_view, size_t> wanted;
  for (size_t i = 0; i < keys.size(); ++i) wanted.emplace(keys[i], i);
  const std::string end = key_after(wanted.rbegin()->first);
  const auto rows_limit = static_cast<uint32_t>(keys.size() * kRangeRowsPerKey);
  auto page = co_await transaction.get_range({wanted.begin()->first, end}, {.rows_limit = rows_limit},
                                             kv::Isolation::snapshot);
  if (!page) co_return propagate(page);
  Values values(keys.size());
  std::vector<std::string_view> others;
  for (kv::KeyValue& row : page->rows) {
    const auto found = wanted.find(row.key);
    if (found == wanted.end()) {
      others.emplace_back(row.key);
    } else {
      values[found->second] = std::move(row.value);
    }
  }
  // What the page did not reach.
  auto left = wanted.end();
  if (page->more) left = page->rows.empty() ? wanted.begin() : wanted.upper_bound(page->rows.back().key);
  const bool in_runs = conflicts == RowConflicts::of_runs;
  auto other = others.begin();
  for (auto key = wanted.begin(); key != left;) {
    const std::string_view first = key->first;
    std::string_view last = first;
    other = std::lower_bound(other, others.end(), first);
    while (++key != left && in_runs && (other == others.end() || key->first < *other)) last = key->first;
    const std::string behind = key_after(last);
    transaction.add_read_conflict({first, behind});
  }
  std::vector<std::string> left_keys;
  for (auto key = left; key != wanted.end(); ++key) left_keys.emplace_back(key->first);
  ASSIGN_OR_CO_RETURN(Values left_values, co_await read_points(transaction, left_keys));
  auto value = left_values.begin();
  for (auto key = left; key != wanted.end(); ++key, ++value) values[key->second] = std::move(*value);
  co_return values;
}

}  // namespace fdbnbd::volume
