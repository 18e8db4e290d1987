#include <fmt/core.h>

#include <utility>

#include "base/assert.h"
#include "base/log.h"
#include "volume/catalog.h"

// Which volumes are open, for whom, and when they are let go.

namespace fdbnbd::volume {

Task<void> Catalog::go_to(Executor& executor) {
  if (!executor.runs_here()) co_await reschedule(executor);
}

Task<Result<std::unique_ptr<Volume>>> Catalog::open_volume(Executor& executor, std::string name,
                                                           VolumeRecord record) {
  Ownership ownership = options_.ownership;
  if (taken_once_.contains(record.id)) ownership.takeover = Takeover::when_free;
  co_await go_to(executor);
  auto volume = co_await Volume::open({engine_, executor, keys_, owner_, ownership, stopping_},
                                      std::move(name), record);
  co_await go_to(home_);
  if (volume && ownership.takeover != Takeover::when_free) taken_once_.insert(record.id);
  co_return volume;
}

Task<Result<Catalog::Hold>> Catalog::hold(std::string name) {
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await find(name));
  co_return co_await hold_id(id, std::move(name));
}

std::shared_ptr<Catalog::OpenVolume> Catalog::find_open(VolumeId id) const {
  const auto found = open_.find(id);
  return found == open_.end() ? nullptr : found->second;
}

void Catalog::forget(const OpenVolume& opened) {
  if (const auto found = open_.find(opened.id); found != open_.end() && found->second.get() == &opened)
    open_.erase(found);
  open_changed_.notify_all();
}

Task<Result<Catalog::Hold>> Catalog::hold_id(VolumeId id, std::string name) {
  while (true) {
    if (stopping_) co_return fail(Errc::cancelled, "the server is stopping");
    const std::shared_ptr<OpenVolume> opened = find_open(id);
    if (!opened) break;
    if (opened->volume && !opened->closing) {
      if (!opened->volume->is_retired()) {
        ++opened->holders_count;
        co_return Hold(*this, opened);
      }
      // Lost to another server: those who have it see errors, and whoever comes now needs a tenure of his
      // own.
      open_.erase(id);
      break;
    }
    co_await open_changed_.wait();
  }
  const auto opening = std::make_shared<OpenVolume>();
  opening->id = id;
  opening->executor = options_.volume_executors[next_executor_++ % options_.volume_executors.size()];
  opening->holders_count = 1;
  open_[id] = opening;
  ++volumes_count_;
  Result<std::unique_ptr<Volume>> volume = fail(Errc::not_found, "");
  if (auto records = co_await load(id, name); records) {
    volume = co_await open_volume(*opening->executor, name, records->volume);
  } else {
    volume = propagate(records);
  }
  if (!volume) {
    --volumes_count_;
    forget(*opening);
    co_return propagate(volume);
  }
  opening->volume = std::move(*volume);
  Hold hold(*this, opening);
  open_changed_.notify_all();
  co_return hold;
}

Task<Result<Catalog::Reservation>> Catalog::reserve(VolumeId id, std::string name) {
  while (true) {
    if (stopping_) co_return fail(Errc::cancelled, "the server is stopping");
    const std::shared_ptr<OpenVolume> opened = find_open(id);
    if (!opened) co_return Reservation(*this, id);
    if (opened->sessions_count > 0) {
      co_return fail(Errc::busy,
                     fmt::format("volume \"{}\" is in use by {} NBD session{}: detach the clients first",
                                 name, opened->sessions_count, opened->sessions_count == 1 ? "" : "s"));
    }
    if (opened->holders_count > opened->jobs_count && !opened->closing) {
      co_return fail(Errc::busy, fmt::format("volume \"{}\" is being worked on: wait for that to end", name));
    }
    opened->is_wanted.store(true, std::memory_order_relaxed);
    co_await open_changed_.wait();
  }
}

void Catalog::release(std::shared_ptr<OpenVolume> opened, bool session) {
  ASSERT(home_.runs_here());
  ASSERT(opened->holders_count > 0);
  if (session) --opened->sessions_count;
  if (--opened->holders_count == 0 && !opened->closing) {
    opened->closing = true;
    scope_.spawn(close_when_unused(std::move(opened)));
  }
}

Task<void> Catalog::close_when_unused(std::shared_ptr<OpenVolume> opened) {
  co_await go_to(*opened->executor);
  co_await opened->volume->close();
  opened->volume.reset();
  co_await go_to(home_);
  --volumes_count_;
  forget(*opened);
}

Task<Result<std::vector<block::ExportListing>>> Catalog::list(Executor& executor) {
  ASSERT(&executor == &home_);
  ASSIGN_OR_CO_RETURN(const auto names, co_await read_all(keys_.type_begin('V'), keys_.type_end('V')));
  std::vector<block::ExportListing> listings;
  listings.reserve(names.size());
  ASSIGN_OR_CO_RETURN(const auto snapshots, co_await read_all_snapshots());
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
    co_return co_await open_snapshot(std::move(parsed));
  }
  ASSIGN_OR_CO_RETURN(const std::string resolved, co_await resolve(std::move(name)));
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await find(resolved));
  ASSIGN_OR_CO_RETURN(const Hold hold, co_await hold_id(id, resolved));
  const std::shared_ptr<OpenVolume>& opened = hold.opened();
  ++opened->holders_count;
  ++opened->sessions_count;
  co_return std::shared_ptr<block::Export>(opened->volume.get(), [this, opened](block::Export*) {
    // The last owner may let go on any thread.
    post(home_, [this, opened] { release(opened, true); });
  });
}

Task<Result<block::ExportInfo>> Catalog::describe(Executor& executor, std::string name) {
  ASSERT(&executor == &home_);
  if (is_snapshot_name(name)) {
    ASSIGN_OR_CO_RETURN(const SnapshotName parsed, parse_snapshot_name(name));
    ASSIGN_OR_CO_RETURN(const FoundSnapshot found, co_await find_snapshot(parsed));
    ASSIGN_OR_CO_RETURN(const Records of, co_await load(found.volume, parsed.volume));
    block::ExportInfo info;
    info.name = std::move(name);
    info.size_bytes = found.record.size_bytes;
    info.preferred_block_bytes = of.volume.block_bytes();
    info.max_payload_bytes = limits::kMaxPayloadBytes;
    info.read_only = true;
    co_return info;
  }
  ASSIGN_OR_CO_RETURN(const std::string resolved, co_await resolve(std::move(name)));
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await find(resolved));
  ASSIGN_OR_CO_RETURN(const Records records, co_await load(id, resolved));
  block::ExportInfo info;
  info.name = resolved;
  info.size_bytes = records.volume.size_bytes;
  info.preferred_block_bytes = records.volume.block_bytes();
  info.max_payload_bytes = limits::kMaxPayloadBytes;
  co_return info;
}

Task<void> Catalog::close() {
  stopping_ = true;
  home_.cancel_timer(grace_timer_);
  taken_over_.clear();
  for (const auto& [id, opened] : open_) opened->is_wanted.store(true, std::memory_order_relaxed);
  while (volumes_count_ > 0 || !open_snapshots_.empty()) co_await open_changed_.wait();
  co_await scope_.join();
}

}  // namespace fdbnbd::volume
