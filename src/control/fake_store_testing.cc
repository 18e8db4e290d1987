#include "control/fake_store_testing.h"

#include <utility>

namespace fdbnbd::control {

namespace {

tl::unexpected<Error> no_volume(const std::string& name) {
  return fail(Errc::not_found, "there is no volume " + name);
}

}  // namespace

Task<Result<volume::VolumeInfo>> FakeStore::create(std::string name, volume::CreateOptions options) {
  if (volumes.contains(name)) co_return fail(Errc::exists, "there is a volume " + name);
  const volume::VolumeInfo info{
      .name = name,
      .id = volumes.size() + 1,
      .size_bytes = options.size_bytes,
      .used_bytes = 0,
      .block_bytes = options.block_bytes,
      .compression = options.compression,
      .created = options.created.value_or(WallTime(std::chrono::seconds(1'700'000'000))),
      .read_only = false,
      .quota_bytes = options.quota_bytes,
      .labels = {},
      .sessions_count = 0,
      .snapshots = {}};
  volumes[std::move(name)] = info;
  co_return info;
}

Task<Result<std::vector<volume::VolumeInfo>>> FakeStore::list_volumes() {
  std::vector<volume::VolumeInfo> list;
  for (const auto& [name, info] : volumes) list.push_back(info);
  co_return list;
}

Task<Result<volume::VolumeInfo>> FakeStore::info(std::string name) {
  const auto found = volumes.find(name);
  if (found == volumes.end()) co_return no_volume(name);
  co_return found->second;
}

Task<Result<volume::VolumeInfo>> FakeStore::resize(std::string name, uint64_t size_bytes, bool allow_shrink) {
  const auto found = volumes.find(name);
  if (found == volumes.end()) co_return no_volume(name);
  if (size_bytes < found->second.size_bytes && !allow_shrink)
    co_return fail(Errc::invalid, "it would shrink");
  found->second.size_bytes = size_bytes;
  co_return found->second;
}

Task<Result<std::optional<volume::TrashEntry>>> FakeStore::remove(std::string name,
                                                                  volume::RemoveOptions options) {
  const auto found = volumes.find(name);
  if (found == volumes.end()) co_return no_volume(name);
  if (options.id != 0 && options.id != found->second.id) co_return no_volume(name);
  if (found->second.sessions_count > 0) co_return fail(Errc::busy, name + " is in use");
  if (!found->second.snapshots.empty() && !options.with_snapshots)
    co_return fail(Errc::busy, name + " has snapshots");
  if (options.now) {
    volumes.erase(found);
    co_return std::nullopt;
  }
  trash.insert(volumes.extract(found));
  co_return (co_await list_trash()).value().front();
}

Task<Result<std::vector<volume::TrashEntry>>> FakeStore::list_trash() {
  std::vector<volume::TrashEntry> entries;
  for (const auto& [name, info] : trash) {
    entries.push_back({.name = name,
                       .id = info.id,
                       .size_bytes = info.size_bytes,
                       .used_bytes = info.used_bytes,
                       .snapshots_count = info.snapshots.size(),
                       .trashed = info.created,
                       .expires = info.created + std::chrono::hours(24)});
  }
  co_return entries;
}

Task<Result<volume::VolumeInfo>> FakeStore::restore(std::string name_or_id, std::string new_name) {
  auto node = trash.extract(name_or_id);
  if (node.empty()) co_return no_volume(name_or_id);
  if (!new_name.empty()) node.key() = node.mapped().name = new_name;
  co_return volumes.insert(std::move(node)).position->second;
}

Task<Result<void>> FakeStore::purge(std::optional<std::string> name_or_id) {
  if (!name_or_id) {
    trash.clear();
  } else if (trash.erase(*name_or_id) == 0) {
    co_return no_volume(*name_or_id);
  }
  co_return Result<void>();
}

Task<Result<volume::VolumeInfo>> FakeStore::change_labels(std::string name, volume::LabelChange change) {
  const auto found = volumes.find(name);
  if (found == volumes.end()) co_return no_volume(name);
  for (const std::string& key : change.removed) found->second.labels.erase(key);
  for (const auto& [key, value] : change.set) found->second.labels[key] = value;
  co_return found->second;
}

Task<Result<volume::VolumeInfo>> FakeStore::set_quota(std::string name, uint64_t quota_bytes) {
  const auto found = volumes.find(name);
  if (found == volumes.end()) co_return no_volume(name);
  found->second.quota_bytes = quota_bytes;
  co_return found->second;
}

Task<Result<void>> FakeStore::rename(std::string name, std::string new_name) {
  const auto found = volumes.find(name);
  if (found == volumes.end()) co_return no_volume(name);
  auto node = volumes.extract(found);
  node.key() = new_name;
  node.mapped().name = std::move(new_name);
  volumes.insert(std::move(node));
  co_return Result<void>();
}

Task<Result<volume::CheckReport>> FakeStore::repair(volume::Progress* /*progress*/) {
  volume::CheckReport report;
  for (volume::CheckFinding finding : findings) {
    finding.is_mended = true;
    report.findings.push_back(std::move(finding));
  }
  report.findings_count = report.mended_count = report.findings.size();
  co_return report;
}

Task<Result<std::vector<volume::LockInfo>>> FakeStore::list_locks() {
  std::vector<volume::LockInfo> locks;
  for (const auto& [name, volume] : volumes)
    locks.push_back(
        {.volume = name, .holder = "host a", .epoch = 3, .state = volume::LockInfo::State::alive});
  co_return locks;
}

Task<Result<std::string>> FakeStore::break_lock(std::string name) {
  if (!volumes.contains(name)) co_return no_volume(name);
  co_return "host a";
}

Task<Result<void>> FakeStore::snapshot(std::vector<std::string> names, std::optional<WallTime> created) {
  for (const std::string& name : names) {
    auto parsed = volume::parse_snapshot_name(name);
    if (!parsed) co_return propagate(parsed);
    const auto found = volumes.find(parsed->volume);
    if (found == volumes.end()) co_return no_volume(parsed->volume);
    found->second.snapshots.push_back(
        {parsed->snapshot, 1, found->second.size_bytes, created.value_or(found->second.created)});
  }
  co_return Result<void>();
}

Task<Result<volume::VolumeInfo>> FakeStore::rollback(std::string snapshot_name, bool /*disconnect*/) {
  co_return co_await info(snapshot_name.substr(0, snapshot_name.find('@')));
}

Task<Result<volume::VolumeInfo>> FakeStore::clone(std::string snapshot_name, std::string new_name) {
  const auto found = volumes.find(snapshot_name.substr(0, snapshot_name.find('@')));
  if (found == volumes.end()) co_return no_volume(snapshot_name);
  volume::VolumeInfo info = found->second;
  info.name = new_name;
  info.snapshots.clear();
  volumes[new_name] = info;
  co_return info;
}

Task<Result<volume::VolumeInfo>> FakeStore::flatten(std::string name, volume::Progress* progress) {
  progress->on_progress(1, 2);
  co_return co_await info(std::move(name));
}

Task<Result<volume::VolumeInfo>> FakeStore::copy(std::string source, std::string new_name,
                                                 volume::Progress* progress) {
  progress->on_progress(1, 2);
  co_return co_await clone(std::move(source), std::move(new_name));
}

Task<Result<volume::DiffPage>> FakeStore::diff(std::string name, std::optional<std::string> from,
                                               uint64_t begin_bytes, volume::Progress* /*progress*/) {
  const auto found = volumes.find(name.substr(0, name.find('@')));
  if (found == volumes.end()) co_return no_volume(name);
  volume::DiffPage page;
  page.from_size_bytes = from ? found->second.size_bytes : 0;
  page.to_size_bytes = found->second.size_bytes;
  page.block_bytes = found->second.block_bytes;
  page.ranges.push_back({begin_bytes, 4096, volume::DiffKind::data});
  page.ranges.push_back({begin_bytes + 4096, 512, volume::DiffKind::zero});
  page.end_bytes = found->second.size_bytes;
  co_return page;
}

Task<Result<volume::VolumeInfo>> FakeStore::begin_import(volume::DiffImport import) {
  co_return co_await create(std::move(import.partial), import.options);
}

Task<Result<volume::VolumeInfo>> FakeStore::finish_import(volume::DiffImport import) {
  CO_RETURN_IF_ERROR(co_await rename(std::move(import.partial), import.volume));
  co_return co_await info(std::move(import.volume));
}

Task<Result<volume::VolumeUsage>> FakeStore::usage(std::string name, volume::Progress* progress) {
  const auto found = volumes.find(name);
  if (found == volumes.end()) co_return no_volume(name);
  const volume::VolumeInfo& info = found->second;
  progress->on_progress(info.used_bytes, info.used_bytes);
  co_return volume::VolumeUsage{.name = info.name,
                                .size_bytes = info.size_bytes,
                                .space = {.used_bytes = info.used_bytes,
                                          .stored_bytes = info.used_bytes / 2,
                                          .unique_bytes = info.used_bytes / 4,
                                          .shared_bytes = info.used_bytes / 4},
                                .snapshots = {{.name = "monday", .space = {}}}};
}

Task<Result<void>> FakeStore::create_group(std::string name, std::vector<std::string> members) {
  if (groups.contains(name)) co_return fail(Errc::exists, "there is a group " + name);
  groups[name] = {.name = name, .members = std::move(members), .snapshots = {}};
  co_return Result<void>();
}

Task<Result<void>> FakeStore::remove_group(std::string name) {
  if (groups.erase(name) == 0) co_return no_volume(name);
  co_return Result<void>();
}

Task<Result<void>> FakeStore::change_group(std::string name, volume::GroupChange change) {
  const auto found = groups.find(name);
  if (found == groups.end()) co_return no_volume(name);
  for (const std::string& one : change.removed) std::erase(found->second.members, one);
  for (std::string& one : change.added) found->second.members.push_back(std::move(one));
  co_return Result<void>();
}

Task<Result<std::vector<volume::GroupInfo>>> FakeStore::list_groups() {
  std::vector<volume::GroupInfo> list;
  for (const auto& [name, group] : groups) list.push_back(group);
  co_return list;
}

Task<Result<void>> FakeStore::snapshot_group(std::string name) {
  const auto parsed = volume::parse_snapshot_name(name);
  if (!parsed || !groups.contains(parsed->volume)) co_return no_volume(name);
  groups[parsed->volume].snapshots.push_back({parsed->snapshot, 0, 0, {}});
  co_return Result<void>();
}

Task<Result<void>> FakeStore::rollback_group(std::string name) {
  const auto parsed = volume::parse_snapshot_name(name);
  if (!parsed || !groups.contains(parsed->volume)) co_return no_volume(name);
  co_return Result<void>();
}

Task<Result<volume::CheckReport>> FakeStore::check(std::optional<std::string> name,
                                                   volume::Progress* progress) {
  if (name && !volumes.contains(*name)) co_return no_volume(*name);
  progress->on_progress(512, 4096);
  while (hold_check && !progress->cancelled()) {
    check_waits = true;
    check_changed.notify_all();
    co_await check_changed.wait();
  }
  check_waits = false;
  if (progress->cancelled()) {
    check_was_cancelled = true;
    co_return fail(Errc::cancelled, "the check was stopped");
  }
  co_return volume::CheckReport{.volumes_count = name ? 1 : volumes.size(),
                                .blocks_count = 8,
                                .findings = findings,
                                .findings_count = findings.size()};
}

Task<Result<std::vector<block::ExportListing>>> FakeStore::list(Executor& /*executor*/) {
  co_return std::vector<block::ExportListing>();
}

Task<Result<std::shared_ptr<block::Export>>> FakeStore::open(Executor& /*executor*/, std::string name) {
  co_return no_volume(name);
}

Task<Result<block::ExportInfo>> FakeStore::describe(Executor& /*executor*/, std::string name) {
  co_return no_volume(name);
}

StatusReply FakeStatus::status() {
  return {.pid = 42,
          .version = "1.2.3",
          .store = "memory:",
          .engine = "memory",
          .started = WallTime(std::chrono::seconds(1'700'000'000)),
          .uptime_s = 7,
          .listen = {"tcp://127.0.0.1:10809"},
          .control = "/run/c.sock",
          .volumes_count = 0,
          .volumes_open_count = 0,
          .sessions_count = 3,
          .requests_in_flight_count = 2,
          .bytes_in_flight = 8192,
          .store_bytes = 1'000'000,
          .memory_bound_bytes = 1ULL << 30};
}

}  // namespace fdbnbd::control
