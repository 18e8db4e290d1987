#include "volume/catalog.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "base/assert.h"
#include "base/endian.h"
#include "base/log.h"

namespace fdbnbd::volume {

namespace {

Error no_volume(const std::string& name) {
  return {Errc::not_found, fmt::format("there is no volume \"{}\"", name)};
}

Result<void> check_size(uint64_t size_bytes) {
  if (size_bytes % limits::kSizeGranularityBytes != 0) {
    return fail(Errc::invalid, fmt::format("a size of {} bytes is not a multiple of {}", size_bytes,
                                           limits::kSizeGranularityBytes));
  }
  if (size_bytes == 0) return fail(Errc::invalid, "a volume needs a size above zero");
  if (size_bytes > limits::kMaxVolumeBytes) {
    return fail(Errc::invalid, fmt::format("a size of {} bytes is above the limit of 8 EiB - {}", size_bytes,
                                           limits::kSizeGranularityBytes));
  }
  return {};
}

}  // namespace

Task<Result<std::unique_ptr<Store>>> open_store(kv::Engine& engine, Executor& home, Store::Options options) {
  auto catalog = std::make_unique<Catalog>(engine, home, std::move(options));
  CO_RETURN_IF_ERROR(co_await catalog->start());
  co_return std::unique_ptr<Store>(std::move(catalog));
}

Catalog::Catalog(kv::Engine& engine, Executor& home, Options options)
    : engine_(engine),
      home_(home),
      options_(std::move(options)),
      keys_(options_.key_prefix),
      random_(options_.seed != 0 ? Random(options_.seed) : Random::from_entropy()) {
  ASSERT(!options_.volume_executors.empty());
  store_be(owner_.data(), random_.next());
  store_be(owner_.data() + 8, random_.next());
}

Catalog::~Catalog() = default;

Task<Result<void>> Catalog::start() {
  CO_RETURN_IF_ERROR(co_await check_header());
  co_return co_await resume_jobs();
}

Task<Result<void>> Catalog::check_header() {
  StoreHeader header;
  store_be(header.uuid.data(), random_.next());
  store_be(header.uuid.data() + 8, random_.next());
  header.created = home_.clock().wall_now();
  // Whoever writes it: what counts is what stands there in the end.
  auto body = [&](kv::Transaction& transaction) { return check_header_in(transaction, header); };
  co_return co_await transact<void>(body);
}

Task<Result<void>> Catalog::check_header_in(kv::Transaction& transaction, const StoreHeader& ours) {
  const std::string key = keys_.store_header();
  auto value = co_await transaction.get(key, kv::Isolation::serializable);
  if (!value) co_return propagate(value);
  if (value->has_value()) {
    ASSIGN_OR_CO_RETURN(const StoreHeader header, StoreHeader::decode(**value));
    if (header.format_version > kFormatVersion) {
      co_return fail(
          Errc::newer_format,
          fmt::format("the store has format version {}, this program knows up to {}: use a newer fdb-nbd",
                      header.format_version, kFormatVersion));
    }
    co_return Result<void>{};
  }
  const std::string begin = keys_.prefix();
  const std::string end = keys_.type_end('\x7e');
  auto others = co_await transaction.get_range({begin, end}, {.rows_limit = 1}, kv::Isolation::serializable);
  if (!others) co_return propagate(others);
  if (!others->rows.empty())
    co_return fail(Errc::corruption, "the store holds data, but its header is missing");
  transaction.set(key, ours.encode());
  co_return Result<void>{};
}

uint64_t Catalog::new_id() {
  // 0 means none in the records; the highest one has no successor.
  while (true) {
    const uint64_t id = random_.next();
    if (id != 0 && id != UINT64_MAX) return id;
  }
}

Task<Result<std::vector<kv::KeyValue>>> Catalog::read_all(std::string begin, std::string end) {
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

Task<Result<VolumeId>> Catalog::find(kv::Transaction& transaction, const std::string& name) {
  const std::string key = keys_.name(name);
  auto value = co_await transaction.get(key, kv::Isolation::serializable);
  if (!value) co_return propagate(value);
  if (!value->has_value()) co_return tl::unexpected(no_volume(name));
  ASSIGN_OR_CO_RETURN(const NameRecord record, NameRecord::decode(**value));
  co_return record.volume;
}

Task<Result<VolumeId>> Catalog::find(const std::string& name) {
  auto body = [&](kv::Transaction& transaction) { return find(transaction, name); };
  co_return co_await transact<VolumeId>(body);
}

Task<Result<Catalog::Records>> Catalog::load(kv::Transaction& transaction, VolumeId id,
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
  co_return Records{*volume_record, *fence_record};
}

Task<Result<Catalog::Records>> Catalog::load(VolumeId id, const std::string& name) {
  auto body = [&](kv::Transaction& transaction) { return load(transaction, id, name); };
  co_return co_await transact<Records>(body);
}

// The empty name means the only volume.
Task<Result<std::string>> Catalog::resolve(std::string name) {
  if (!name.empty()) co_return name;
  const std::string begin = keys_.type_begin('V');
  const std::string end = keys_.type_end('V');
  auto read_names = [&](kv::Transaction& transaction) {
    return transaction.get_range({begin, end}, {.rows_limit = 2}, kv::Isolation::snapshot);
  };
  auto page = co_await transact<kv::RangeResult>(read_names);
  if (!page) co_return propagate(page);
  if (page->rows.size() != 1) {
    co_return fail(Errc::not_found,
                   page->rows.empty() ? "there is no volume" : "there are several volumes: name one");
  }
  co_return std::string(keys_.name_of(page->rows.front().key));
}

Task<Result<uint64_t>> Catalog::count_data_blocks(LayerId top, const VolumeRecord& volume) {
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
  ChainReader chain(engine_, home_, keys_, {volume.block_shift, volume.striping});
  CO_RETURN_IF_ERROR(co_await chain.load(top));
  co_return chain.map().data_blocks_count();
}

Task<Result<VolumeInfo>> Catalog::describe_volume(std::string name, const Records& records,
                                                  std::vector<SnapshotInfo> snapshots) {
  uint64_t data_blocks_count = 0;
  if (const auto opened = find_open(records.volume.id);
      opened && opened->volume && !opened->closing && !opened->volume->is_retired()) {
    data_blocks_count = opened->volume->used_bytes() >> records.volume.block_shift;
  } else {
    ASSIGN_OR_CO_RETURN(data_blocks_count,
                        co_await count_data_blocks(records.fence.top_layer, records.volume));
  }
  VolumeInfo info;
  info.name = std::move(name);
  info.id = records.volume.id.value;
  info.size_bytes = records.volume.size_bytes;
  info.used_bytes = data_blocks_count << records.volume.block_shift;
  info.block_bytes = records.volume.block_bytes();
  info.compression = records.volume.compression;
  info.created = records.volume.created;
  info.snapshots = std::move(snapshots);
  if (const auto opened = find_open(records.volume.id)) info.sessions_count = opened->sessions_count;
  co_return info;
}

Task<Result<VolumeInfo>> Catalog::create(std::string name, CreateOptions options) {
  CO_RETURN_IF_ERROR(check_volume_name(name));
  CO_RETURN_IF_ERROR(check_size(options.size_bytes));
  if (!std::has_single_bit(options.block_bytes) || options.block_bytes < limits::kMinBlockBytes ||
      options.block_bytes > limits::kMaxBlockBytes) {
    co_return fail(Errc::invalid,
                   fmt::format("a block size of {} bytes is not a power of two from 4 KiB to 64 KiB",
                               options.block_bytes));
  }
  VolumeRecord record;
  record.id = VolumeId{new_id()};
  record.size_bytes = options.size_bytes;
  record.block_shift = static_cast<uint8_t>(std::countr_zero(options.block_bytes));
  record.compression = options.compression;
  // An embedded store is one server: nothing to spread over.
  record.striping.stripes_count = engine_.capabilities().shared_between_hosts ? 16 : 1;
  record.created = home_.clock().wall_now();
  const LayerId layer{new_id()};
  auto body = [&](kv::Transaction& transaction) { return create_in(transaction, name, record, layer); };
  CO_RETURN_IF_ERROR(co_await transact<void>(body));
  co_return co_await info(std::move(name));
}

Task<Result<void>> Catalog::create_in(kv::Transaction& transaction, const std::string& name,
                                      const VolumeRecord& record, LayerId layer) {
  auto existing = co_await find(transaction, name);
  if (existing) {
    if (*existing == record.id) co_return Result<void>{};  // an attempt with an unknown result had happened
    co_return fail(Errc::exists, fmt::format("volume \"{}\" exists already", name));
  }
  if (existing.error().code != Errc::not_found) co_return propagate(existing);
  transaction.set(keys_.name(name), NameRecord{record.id}.encode());
  transaction.set(keys_.volume(record.id), record.encode());
  FenceRecord fence;
  fence.top_layer = layer;
  transaction.set(keys_.fence(record.id), fence.encode());
  LayerRecord layer_record;
  layer_record.origin = record.id;
  layer_record.block_shift = record.block_shift;
  layer_record.striping = record.striping;
  transaction.set(keys_.layer(layer), layer_record.encode());
  transaction.set(keys_.usage(layer), UsageRecord{}.encode());
  co_return Result<void>{};
}

Task<Result<VolumeInfo>> Catalog::info(std::string name) {
  if (is_snapshot_name(name)) {
    ASSIGN_OR_CO_RETURN(SnapshotName parsed, parse_snapshot_name(name));
    co_return co_await describe_snapshot(std::move(parsed));
  }
  std::vector<SnapshotInfo> snapshots;
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await find(name));
  ASSIGN_OR_CO_RETURN(const Records records, co_await load(id, name));
  auto body = [&](kv::Transaction& transaction) { return read_snapshots(transaction, id, name); };
  ASSIGN_OR_CO_RETURN(const auto rows, co_await transact<std::vector<SnapshotRow>>(body));
  for (const SnapshotRow& row : rows)
    snapshots.push_back({row.name, row.record.size_bytes, row.record.created});
  co_return co_await describe_volume(std::move(name), records, std::move(snapshots));
}

Task<Result<std::vector<VolumeInfo>>> Catalog::list_volumes() {
  ASSIGN_OR_CO_RETURN(const auto names, co_await read_all(keys_.type_begin('V'), keys_.type_end('V')));
  ASSIGN_OR_CO_RETURN(const auto volumes, co_await read_all(keys_.type_begin('I'), keys_.type_end('I')));
  ASSIGN_OR_CO_RETURN(const auto fences, co_await read_all(keys_.type_begin('F'), keys_.type_end('F')));
  ASSIGN_OR_CO_RETURN(auto snapshots, co_await read_all_snapshots());
  // Both are in the order of the ids.
  const auto find_row = [](const std::vector<kv::KeyValue>& rows,
                           const std::string& key) -> const kv::KeyValue* {
    const auto found = std::ranges::lower_bound(rows, key, {}, &kv::KeyValue::key);
    return found != rows.end() && found->key == key ? &*found : nullptr;
  };
  std::vector<VolumeInfo> infos;
  infos.reserve(names.size());
  for (const kv::KeyValue& row : names) {
    std::string name(keys_.name_of(row.key));
    const auto name_record = NameRecord::decode(row.value);
    const kv::KeyValue* volume = name_record ? find_row(volumes, keys_.volume(name_record->volume)) : nullptr;
    const kv::KeyValue* fence = name_record ? find_row(fences, keys_.fence(name_record->volume)) : nullptr;
    // Made or removed while we read, or damaged: one volume must not hide the others.
    if (volume == nullptr || fence == nullptr) continue;
    const auto volume_record = VolumeRecord::decode(volume->value);
    const auto fence_record = FenceRecord::decode(fence->value);
    Result<VolumeInfo> described = fail(Errc::corruption, "its records are damaged");
    if (volume_record && fence_record)
      described = co_await describe_volume(name, Records{*volume_record, *fence_record},
                                           std::move(snapshots[name_record->volume]));
    if (!described) {
      log::error("volume \"{}\" is left out of the list: {}; run fdb-nbd check", name,
                 described.error().what);
      continue;
    }
    infos.push_back(std::move(*described));
  }
  co_return infos;
}

Task<Result<VolumeInfo>> Catalog::resize(std::string name, uint64_t size_bytes, bool allow_shrink) {
  CO_RETURN_IF_ERROR(check_size(size_bytes));
  {
    ASSIGN_OR_CO_RETURN(const Hold held, co_await hold(name));
    if (size_bytes < held.volume().size_bytes() && !allow_shrink) {
      co_return fail(
          Errc::invalid,
          fmt::format("volume \"{}\" has {} bytes: shrinking it to {} discards data and has to be allowed "
                      "(--allow-shrink)",
                      name, held.volume().size_bytes(), size_bytes));
    }
    co_await go_to(held.executor());
    const Result<void> resized = co_await held.volume().resize(size_bytes);
    co_await go_to(home_);
    if (!resized) co_return tl::unexpected(resized.error());
  }
  co_return co_await info(std::move(name));
}

Task<Result<void>> Catalog::remove(std::string name, bool with_snapshots) {
  if (!is_snapshot_name(name)) co_return co_await remove_volume(std::move(name), with_snapshots);
  ASSIGN_OR_CO_RETURN(SnapshotName parsed, parse_snapshot_name(name));
  co_return co_await remove_snapshot(std::move(parsed));
}

Task<Result<void>> Catalog::remove_volume(std::string name, bool with_snapshots) {
  ASSIGN_OR_CO_RETURN(const VolumeId found, co_await find(name));
  {
    ASSIGN_OR_CO_RETURN(const Reservation reservation, co_await reserve(found, name));
    ASSIGN_OR_CO_RETURN(const auto claimed, co_await claim(found, name));
    std::optional<VolumeId> id;
    auto body = [&](kv::Transaction& transaction) {
      return remove_in(transaction, name, with_snapshots, id, claimed);
    };
    CO_RETURN_IF_ERROR(co_await transact<void>(body));
  }
  co_await take_up_jobs();
  co_return Result<void>{};
}

Task<Result<void>> Catalog::remove_in(kv::Transaction& transaction, const std::string& name,
                                      bool with_snapshots, std::optional<VolumeId>& id,
                                      const std::optional<FenceRecord>& claimed) {
  auto found = co_await find(transaction, name);
  // Gone or another one: an attempt with an unknown result had happened.
  if (id && ((!found && found.error().code == Errc::not_found) || (found && *found != *id)))
    co_return Result<void>{};
  if (!found) co_return propagate(found);
  id = *found;
  ASSIGN_OR_CO_RETURN(const Records records, co_await load(transaction, *id, name));
  if (claimed && !records.fence.same_tenure(*claimed))
    co_return fail(Errc::busy, fmt::format("volume \"{}\" has just been opened by another server", name));
  ASSIGN_OR_CO_RETURN(const auto snapshots, co_await read_snapshots(transaction, *id, name));
  if (!snapshots.empty() && !with_snapshots) {
    co_return fail(
        Errc::busy,
        fmt::format(
            "volume \"{}\" has {} snapshot{} (the newest is \"{}\"): remove them first, or all at once "
            "with --snapshots",
            name, snapshots.size(), snapshots.size() == 1 ? "" : "s", snapshots.back().name));
  }
  if (snapshots.size() > limits::kMaxSnapshotsPerRemoval) {
    co_return fail(Errc::too_large,
                   fmt::format("volume \"{}\" has {} snapshots, more than go at once: remove some first",
                               name, snapshots.size()));
  }
  for (const SnapshotRow& snapshot : snapshots) {
    if (!open_snapshots_.contains(snapshot.record.layer)) continue;
    co_return fail(Errc::busy, fmt::format("snapshot \"{}@{}\" is in use by NBD sessions: detach the clients "
                                           "first",
                                           name, snapshot.name));
  }
  CO_RETURN_IF_ERROR(co_await drop_snapshots_in(transaction, snapshots, *id));
  transaction.clear(keys_.name(name));
  transaction.clear(keys_.volume(*id));
  transaction.clear(keys_.fence(*id));
  transaction.clear(keys_.heartbeat(*id));
  transaction.clear(keys_.handover(*id));
  co_return co_await drop_top(transaction, records.fence.top_layer);
}

Task<Result<void>> Catalog::rename(std::string name, std::string new_name) {
  CO_RETURN_IF_ERROR(check_volume_name(new_name));
  std::optional<VolumeId> id;
  auto body = [&](kv::Transaction& transaction) { return rename_in(transaction, name, new_name, id); };
  CO_RETURN_IF_ERROR(co_await transact<void>(body));
  if (const auto opened = find_open(*id); opened && opened->volume && !opened->closing) {
    // It may be closed on that executor before this runs there.
    post(*opened->executor, [opened, new_name] {
      if (opened->volume) opened->volume->set_name(new_name);
    });
  }
  co_return Result<void>{};
}

Task<Result<void>> Catalog::rename_in(kv::Transaction& transaction, const std::string& name,
                                      const std::string& new_name, std::optional<VolumeId>& id) {
  auto existing = co_await find(transaction, new_name);
  if (existing) {
    if (id && *existing == *id) co_return Result<void>{};  // an attempt with an unknown result had happened
    co_return fail(Errc::exists, fmt::format("volume \"{}\" exists already", new_name));
  }
  if (existing.error().code != Errc::not_found) co_return propagate(existing);
  auto found = co_await find(transaction, name);
  if (!found) co_return propagate(found);
  id = *found;
  transaction.clear(keys_.name(name));
  transaction.set(keys_.name(new_name), NameRecord{*found}.encode());
  co_return Result<void>{};
}

}  // namespace fdbnbd::volume
