#include <fmt/core.h>

#include <utility>

#include "base/assert.h"
#include "base/log.h"
#include "volume/catalog.h"

// The volumes and snapshots as exports.

namespace fdbnbd::volume {

Task<Result<std::vector<block::ExportListing>>> Catalog::list(Executor& executor) {
  ASSERT(&executor == &home_);
  ASSIGN_OR_CO_RETURN(const auto names,
                      co_await records_.read_all(keys_.type_begin('V'), keys_.type_end('V')));
  std::vector<block::ExportListing> listings;
  listings.reserve(names.size());
  ASSIGN_OR_CO_RETURN(const auto snapshots, co_await records_.read_all_snapshots());
  for (const kv::KeyValue& row : names) {
    const std::string name(keys_.name_of(row.key));
    listings.push_back({name, ""});
    const auto record = NameRecord::decode(row.value);
    if (!record) continue;
    const auto found = snapshots.find(record->volume);
    if (found == snapshots.end()) continue;
    for (const SnapshotInfo& snapshot : found->second) listings.push_back({name + '@' + snapshot.name, ""});
  }
  co_return listings;
}

Task<Result<std::shared_ptr<block::Export>>> Catalog::open(Executor& executor, std::string name) {
  ASSERT(&executor == &home_);
  if (is_snapshot_name(name)) {
    ASSIGN_OR_CO_RETURN(SnapshotName parsed, parse_snapshot_name(name));
    co_return co_await open_snapshots_.open(std::move(parsed));
  }
  ASSIGN_OR_CO_RETURN(const std::string resolved, co_await resolve(std::move(name)));
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await records_.find(resolved));
  ASSIGN_OR_CO_RETURN(const OpenVolumes::Hold held, co_await open_volumes_.hold(id, resolved));
  co_return open_volumes_.make_session(held);
}

Task<Result<block::ExportInfo>> Catalog::describe(Executor& executor, std::string name) {
  ASSERT(&executor == &home_);
  if (is_snapshot_name(name)) {
    ASSIGN_OR_CO_RETURN(const SnapshotName parsed, parse_snapshot_name(name));
    ASSIGN_OR_CO_RETURN(const FoundSnapshot found, co_await records_.find_snapshot(parsed));
    ASSIGN_OR_CO_RETURN(const VolumeRecords of, co_await records_.load(found.volume, parsed.volume));
    block::ExportInfo info;
    info.name = std::move(name);
    info.size_bytes = found.record.size_bytes;
    info.preferred_block_bytes = of.volume.block_bytes();
    info.max_payload_bytes = limits::kMaxPayloadBytes;
    info.read_only = true;
    info.has_depth = true;
    CO_RETURN_IF_ERROR(co_await list_snapshots(found.volume, parsed, info.snapshots));
    co_return info;
  }
  ASSIGN_OR_CO_RETURN(const std::string resolved, co_await resolve(std::move(name)));
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await records_.find(resolved));
  ASSIGN_OR_CO_RETURN(const VolumeRecords records, co_await records_.load(id, resolved));
  block::ExportInfo info;
  info.name = resolved;
  info.size_bytes = records.volume.size_bytes;
  info.preferred_block_bytes = records.volume.block_bytes();
  info.max_payload_bytes = limits::kMaxPayloadBytes;
  info.has_depth = true;
  CO_RETURN_IF_ERROR(co_await list_snapshots(id, {.volume = resolved, .snapshot = ""}, info.snapshots));
  co_return info;
}

// All of a volume's snapshots but the one that is named.
Task<Result<void>> Catalog::list_snapshots(VolumeId id, SnapshotName but, std::vector<std::string>& names) {
  auto body = [&](kv::Transaction& transaction) {
    return records_.read_snapshots(transaction, id, but.volume);
  };
  ASSIGN_OR_CO_RETURN(const auto snapshots, co_await records_.transact<std::vector<SnapshotRow>>(body));
  for (const SnapshotRow& snapshot : snapshots) {
    if (snapshot.name != but.snapshot) names.push_back(snapshot.name);
  }
  co_return Result<void>{};
}

Task<void> Catalog::close() {
  open_volumes_.stop();
  home_.cancel_timer(grace_timer_);
  taken_over_.clear();
  co_await open_volumes_.close();
  co_await open_snapshots_.wait_until_unused();
  co_await trash_.close();
  co_await jobs_.join();
  co_await records_.receipts().clear();
}

}  // namespace fdbnbd::volume
