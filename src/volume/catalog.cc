#include "volume/catalog.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "base/assert.h"
#include "base/endian.h"
#include "base/log.h"
#include "volume/labels.h"

namespace fdbnbd::volume {

namespace {

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

InstanceId make_instance_id(Random& random) {
  InstanceId id{};
  store_be(id.data(), random.next());
  store_be(id.data() + 8, random.next());
  return id;
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
      random_(options_.seed != 0 ? Random(options_.seed) : Random::from_entropy()),
      records_(engine, home, keys_, random_.next()),
      open_volumes_(records_, options_.volume_executors, options_.ownership, make_instance_id(random_)),
      open_snapshots_(records_, open_volumes_),
      jobs_(records_, open_volumes_, random_.next()),
      trash_(records_, open_volumes_, open_snapshots_, jobs_, options_.trash_retention),
      groups_(records_, open_volumes_, jobs_, random_.next()) {}

Catalog::~Catalog() = default;

Task<Result<void>> Catalog::start() {
  CO_RETURN_IF_ERROR(co_await check_header());
  co_await records_.receipts().clear_expired();
  CO_RETURN_IF_ERROR(co_await jobs_.resume());
  trash_.start();
  if (engine_.capabilities().shared_between_hosts) jobs_.start_scanning();
  co_return Result<void>{};
}

Task<Result<void>> Catalog::check_header() {
  StoreHeader header;
  store_be(header.uuid.data(), random_.next());
  store_be(header.uuid.data() + 8, random_.next());
  header.created = home_.clock().wall_now();
  // Whoever writes it: what counts is what stands there in the end.
  auto body = [&](kv::Transaction& transaction) { return check_header_in(transaction, header); };
  co_return co_await records_.transact<void>(body);
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

Task<Result<OpenVolumes::Hold>> Catalog::hold(std::string name) {
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await records_.find(name));
  co_return co_await open_volumes_.hold(id, std::move(name));
}

// The empty name means the only volume.
Task<Result<std::string>> Catalog::resolve(std::string name) {
  if (!name.empty()) co_return name;
  const std::string begin = keys_.type_begin('V');
  const std::string end = keys_.type_end('V');
  auto read_names = [&](kv::Transaction& transaction) {
    return transaction.get_range({begin, end}, {.rows_limit = 2}, kv::Isolation::snapshot);
  };
  auto page = co_await records_.transact<kv::RangeResult>(read_names);
  if (!page) co_return propagate(page);
  if (page->rows.size() != 1) {
    co_return fail(Errc::not_found,
                   page->rows.empty() ? "there is no volume" : "there are several volumes: name one");
  }
  co_return std::string(keys_.name_of(page->rows.front().key));
}

Task<Result<VolumeInfo>> Catalog::describe_volume(std::string name, const VolumeRecords& records,
                                                  std::vector<SnapshotInfo> snapshots) {
  uint64_t data_blocks_count = 0;
  if (const auto opened = open_volumes_.find(records.volume.id);
      opened && opened->volume && !opened->closing && !opened->volume->is_retired()) {
    data_blocks_count = opened->volume->used_bytes() >> records.volume.block_shift;
  } else {
    ASSIGN_OR_CO_RETURN(data_blocks_count,
                        co_await records_.count_data_blocks(records.fence.top_layer, records.volume));
  }
  VolumeInfo info;
  info.name = std::move(name);
  info.id = records.volume.id.value;
  info.size_bytes = records.volume.size_bytes;
  info.used_bytes = data_blocks_count << records.volume.block_shift;
  info.block_bytes = records.volume.block_bytes();
  info.compression = records.volume.compression;
  info.created = records.volume.created;
  info.quota_bytes = records.volume.quota_bytes;
  info.labels = records.volume.labels;
  info.snapshots = std::move(snapshots);
  if (const auto opened = open_volumes_.find(records.volume.id)) info.sessions_count = opened->sessions_count;
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
  record.quota_bytes = options.quota_bytes;
  // An embedded store is one server: nothing to spread over.
  record.striping.stripes_count = engine_.capabilities().shared_between_hosts ? 16 : 1;
  record.created = options.created.value_or(home_.clock().wall_now());
  const LayerId layer{new_id()};
  auto body = [&](kv::Transaction& transaction) { return create_in(transaction, name, record, layer); };
  CO_RETURN_IF_ERROR(co_await records_.decide<void>(body));
  CO_RETURN_IF_ERROR(co_await engine_.sync(home_));
  co_return co_await info(std::move(name));
}

Task<Result<void>> Catalog::create_in(kv::Transaction& transaction, const std::string& name,
                                      const VolumeRecord& record, LayerId layer) {
  CO_RETURN_IF_ERROR(co_await records_.check_unused(transaction, name));
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
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await records_.find(name));
  ASSIGN_OR_CO_RETURN(const VolumeRecords records, co_await records_.load(id, name));
  auto body = [&](kv::Transaction& transaction) { return records_.read_snapshots(transaction, id, name); };
  ASSIGN_OR_CO_RETURN(const auto rows, co_await records_.transact<std::vector<SnapshotRow>>(body));
  for (const SnapshotRow& row : rows)
    snapshots.push_back({row.name, row.record.id(), row.record.size_bytes, row.record.created});
  co_return co_await describe_volume(std::move(name), records, std::move(snapshots));
}

Task<Result<std::vector<VolumeInfo>>> Catalog::list_volumes() {
  ASSIGN_OR_CO_RETURN(const auto names,
                      co_await records_.read_all(keys_.type_begin('V'), keys_.type_end('V')));
  ASSIGN_OR_CO_RETURN(const auto volumes,
                      co_await records_.read_all(keys_.type_begin('I'), keys_.type_end('I')));
  ASSIGN_OR_CO_RETURN(const auto fences,
                      co_await records_.read_all(keys_.type_begin('F'), keys_.type_end('F')));
  ASSIGN_OR_CO_RETURN(auto snapshots, co_await records_.read_all_snapshots());
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
      described = co_await describe_volume(name, VolumeRecords{*volume_record, *fence_record},
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
    ASSIGN_OR_CO_RETURN(const OpenVolumes::Hold held, co_await hold(name));
    co_await go_to(held.executor());
    const Result<void> resized = co_await held.volume().resize(size_bytes, allow_shrink);
    co_await go_to(home_);
    if (!resized) co_return tl::unexpected(resized.error());
  }
  CO_RETURN_IF_ERROR(co_await engine_.sync(home_));
  co_return co_await info(std::move(name));
}

Task<Result<std::optional<TrashEntry>>> Catalog::remove(std::string name, RemoveOptions options) {
  if (!is_snapshot_name(name)) co_return co_await trash_.remove(std::move(name), options);
  ASSIGN_OR_CO_RETURN(SnapshotName parsed, parse_snapshot_name(name));
  CO_RETURN_IF_ERROR(co_await remove_snapshot(std::move(parsed)));
  co_return std::nullopt;
}

Task<Result<VolumeInfo>> Catalog::restore(std::string name_or_id, std::string new_name) {
  ASSIGN_OR_CO_RETURN(std::string name, co_await trash_.restore(std::move(name_or_id), std::move(new_name)));
  co_return co_await info(std::move(name));
}

Task<Result<void>> Catalog::purge(std::optional<std::string> name_or_id) {
  return trash_.purge(std::move(name_or_id));
}

Task<Result<VolumeInfo>> Catalog::change_labels(std::string name, LabelChange change) {
  CO_RETURN_IF_ERROR(co_await volume::change_labels(records_, name, std::move(change)));
  co_return co_await info(std::move(name));
}

Task<Result<VolumeInfo>> Catalog::set_quota(std::string name, uint64_t quota_bytes) {
  {
    ASSIGN_OR_CO_RETURN(const OpenVolumes::Hold held, co_await hold(name));
    co_await go_to(held.executor());
    const Result<void> set = co_await held.volume().set_quota(quota_bytes);
    co_await go_to(home_);
    if (!set) co_return tl::unexpected(set.error());
  }
  CO_RETURN_IF_ERROR(co_await engine_.sync(home_));
  co_return co_await info(std::move(name));
}

Task<Result<void>> Catalog::rename(std::string name, std::string new_name) {
  CO_RETURN_IF_ERROR(check_volume_name(new_name));
  auto body = [&](kv::Transaction& transaction) { return rename_in(transaction, name, new_name); };
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await records_.decide<VolumeId>(body));
  if (const auto opened = open_volumes_.find(id); opened && opened->volume && !opened->closing) {
    // It may be closed on that executor before this runs there.
    post(*opened->executor, [opened, new_name] {
      if (opened->volume) opened->volume->set_name(new_name);
    });
  }
  co_return co_await engine_.sync(home_);
}

// The volume that has the new name.
Task<Result<VolumeId>> Catalog::rename_in(kv::Transaction& transaction, const std::string& name,
                                          const std::string& new_name) {
  CO_RETURN_IF_ERROR(co_await records_.check_unused(transaction, new_name));
  auto found = co_await records_.find(transaction, name);
  if (!found) co_return propagate(found);
  transaction.clear(keys_.name(name));
  transaction.set(keys_.name(new_name), NameRecord{*found}.encode());
  co_return *found;
}

}  // namespace fdbnbd::volume
