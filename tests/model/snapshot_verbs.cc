#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "snapshot_world.h"

// The verbs, each in the store and in the model, also where the server dies on the way.

namespace fdbnbd::model {

namespace {

constexpr uint64_t kMaxVolumeBytes = 5 * limits::kMiB;
constexpr size_t kMaxVolumes = 5;

}  // namespace

// Some reach into a second extent; most are small, so that changes meet and verifying is quick.
uint64_t SnapshotWorld::any_size_bytes() {
  const uint64_t limit_bytes = kMaxVolumeBytes >> random_.below(6);
  return 512 * (1 + random_.below(limit_bytes / 512));
}

Task<void> SnapshotWorld::create_volume() {
  ++operations_done_;
  Disk disk;
  disk.name = fmt::format("v{}", ++names_count_);
  disk.bytes.resize(any_size_bytes());
  attempt([&](Disks& disks) { disks[disk.name] = disk; });
  const auto created = co_await store_->create(
      disk.name, {.size_bytes = disk.bytes.size(),
                  .block_bytes = block_bytes_,
                  .compression = random_.one_in(2) ? volume::Compression::lz4 : volume::Compression::none});
  if (took_effect(created, "create")) disks_[disk.name] = std::move(disk);
}

void SnapshotWorld::attempt(FunctionRef<void(Disks&)> change) {
  if (!notes_attempts_) return;
  attempted_.emplace();
  for (const auto& [name, disk] : disks_) {
    Disk& copy = (*attempted_)[name];
    copy.name = name;
    copy.bytes = disk.bytes;
    copy.snapshots = disk.snapshots;
  }
  change(*attempted_);
}

template <typename T>
bool SnapshotWorld::took_effect(const Result<T>& result, std::string_view verb) {
  if (result) {
    attempted_.reset();
  } else if (!crashed_) {
    difference(fmt::format("{}: {}", verb, result.error().what));
  }
  return result.has_value();
}

// A verb that was under way when the server died has done all of what it does, or nothing.
Task<void> SnapshotWorld::verb_and_crash() {
  co_await flush();
  if (failed()) co_return;
  attempted_.reset();
  notes_attempts_ = true;
  crash_at_some_call(loses_power());
  co_await verb();
  engine_->die();
  notes_attempts_ = false;
  if (failed()) co_return;
  co_await close_store();
  if (!co_await open_store()) co_return;
  const auto removed = co_await store_->remove_group("g");
  if (!removed && removed.error().code != Errc::not_found) difference("group rm: " + removed.error().what);
  const std::string from_before = co_await compare(disks_);
  if (from_before.empty()) co_return;
  const std::string from_after = attempted_ ? co_await compare(*attempted_) : from_before;
  if (from_after.empty()) {
    disks_ = std::move(*attempted_);
  } else {
    difference(fmt::format("a crash in a verb left neither what was ({}) nor what was to be ({})",
                           from_before, from_after));
  }
}

Task<std::string> SnapshotWorld::compare(const Disks& expected) {
  const auto volumes = co_await store_->list_volumes();
  if (!volumes) co_return "list: " + volumes.error().what;
  if (volumes->size() != expected.size())
    co_return fmt::format("{} volumes instead of {}", volumes->size(), expected.size());
  for (const volume::VolumeInfo& info : *volumes) {
    const auto found = expected.find(info.name);
    if (found == expected.end()) co_return fmt::format("there is a volume {}", info.name);
    const Disk& disk = found->second;
    if (info.snapshots.size() != disk.snapshots.size()) {
      co_return fmt::format("{} has {} snapshots instead of {}", info.name, info.snapshots.size(),
                            disk.snapshots.size());
    }
    std::string difference = co_await compare_bytes(info.name, disk.bytes);
    if (!difference.empty()) co_return difference;
    for (const volume::SnapshotInfo& snapshot : info.snapshots) {
      const std::string full_name = info.name + '@' + snapshot.name;
      const auto bytes = disk.snapshots.find(snapshot.name);
      if (bytes == disk.snapshots.end()) co_return fmt::format("there is a snapshot {}", full_name);
      difference = co_await compare_bytes(full_name, *bytes->second);
      if (!difference.empty()) co_return difference;
    }
  }
  co_return std::string();
}

Task<std::string> SnapshotWorld::compare_bytes(std::string name, const Bytes& expected) {
  auto session = co_await store_->open(executor_, name);
  if (!session) co_return fmt::format("open {}: {}", name, session.error().what);
  const Bytes bytes = co_await read_disk(**session, name);
  if (bytes == expected) co_return std::string();
  const auto wrong = std::ranges::mismatch(bytes, expected);
  co_return fmt::format("{} differs at {} of {} bytes ({} expected)", name, wrong.in1 - bytes.begin(),
                        bytes.size(), expected.size());
}

Task<void> SnapshotWorld::verb() {
  ++operations_done_;
  const uint64_t kind = random_.below(26);
  if (kind < 3) {
    if (disks_.size() < kMaxVolumes) co_await create_volume();
  } else if (kind < 6) {
    co_await verb_clone();
  } else if (kind < 9) {
    co_await verb_rollback();
  } else if (kind < 15) {
    co_await verb_remove_snapshot();
  } else if (kind < 16) {
    co_await verb_remove_volume();
  } else if (kind < 18) {
    co_await verb_resize();
  } else if (kind < 20) {
    co_await verb_flatten();
  } else if (kind < 22) {
    co_await verb_trash();
  } else if (kind < 24) {
    co_await verb_group();
  } else if (Disk* disk = any_disk(); disk != nullptr) {
    disk->session.reset();  // its clients leave
  }
}

Task<void> SnapshotWorld::verb_clone() {
  Disk* disk = any_disk();
  if (disk == nullptr || disk->snapshots.empty() || disks_.size() >= kMaxVolumes) co_return;
  const auto chosen =
      std::next(disk->snapshots.begin(), static_cast<ptrdiff_t>(random_.below(disk->snapshots.size())));
  Disk copy;
  copy.name = fmt::format("v{}", ++names_count_);
  copy.bytes = *chosen->second;
  attempt([&](Disks& disks) { disks[copy.name] = copy; });
  const auto cloned = co_await store_->clone(disk->name + '@' + chosen->first, copy.name);
  if (!took_effect(cloned, "clone")) co_return;
  if (cloned->size_bytes != copy.bytes.size()) difference("clone: another size came back");
  disks_[copy.name] = std::move(copy);
}

// Flattens a volume, or copies one, which is made of it.
Task<void> SnapshotWorld::verb_flatten() {
  Disk* disk = any_disk();
  if (disk == nullptr) co_return;
  if (random_.one_in(2) || disks_.size() >= kMaxVolumes) {
    const auto flattened = co_await store_->flatten(disk->name, nullptr);
    static_cast<void>(took_effect(flattened, "flatten"));
    co_return;
  }
  Disk copy;
  copy.name = fmt::format("v{}", ++names_count_);
  copy.bytes = disk->bytes;
  attempt([&](Disks& disks) { disks[copy.name] = copy; });
  const auto copied = co_await store_->copy(disk->name, copy.name, nullptr);
  if (took_effect(copied, "cp")) disks_[copy.name] = std::move(copy);
}

Task<void> SnapshotWorld::verb_rollback() {
  co_await let_sessions_end();
  Disk* disk = any_disk();
  if (disk == nullptr || disk->snapshots.empty()) co_return;
  const auto chosen =
      std::next(disk->snapshots.begin(), static_cast<ptrdiff_t>(random_.below(disk->snapshots.size())));
  const std::string full_name = disk->name + '@' + chosen->first;
  if (disk->session) {
    const auto refused = co_await store_->rollback(full_name, false);
    if (crashed_) co_return;
    if (refused || refused.error().code != Errc::busy) difference("a volume in use was rolled back");
    if (random_.one_in(2)) {
      co_await roll_back_under_session(*disk, full_name, *chosen->second);
      co_return;
    }
    disk->session.reset();
    co_await let_sessions_end();
  }
  attempt([&](Disks& disks) { disks.at(disk->name).bytes = *chosen->second; });
  const auto rolled = co_await store_->rollback(full_name, false);
  if (!took_effect(rolled, "rollback")) co_return;
  disk->bytes = *chosen->second;
  if (rolled->size_bytes != disk->bytes.size()) difference("rollback: another size came back");
}

Task<void> SnapshotWorld::roll_back_under_session(Disk& disk, std::string full_name, Bytes bytes) {
  attempt([&](Disks& disks) { disks.at(disk.name).bytes = bytes; });
  const auto rolled = co_await store_->rollback(full_name, true);
  if (!took_effect(rolled, "rollback --disconnect")) co_return;
  disk.bytes = std::move(bytes);
  std::vector<std::byte> one_byte(1);
  const auto read = co_await disk.session->read(0, one_byte);
  if (read || read.error().code != Errc::cancelled) difference("a session went on behind a rollback");
  disk.session.reset();
}

bool SnapshotWorld::is_snapshot_open(const std::string& full_name) const {
  return std::ranges::any_of(open_snapshots_,
                             [&](const OpenSnapshot& snapshot) { return snapshot.name == full_name; });
}

// Whoever let go of them did so on the loop.
Task<void> SnapshotWorld::let_sessions_end() {
  // Simulated time passes only when all that was posted has run.
  co_await sleep_for(executor_, Duration(1));
}

Task<void> SnapshotWorld::verb_remove_snapshot() {
  co_await let_sessions_end();
  Disk* disk = any_disk();
  if (disk == nullptr || disk->snapshots.empty()) co_return;
  const auto chosen =
      std::next(disk->snapshots.begin(), static_cast<ptrdiff_t>(random_.below(disk->snapshots.size())));
  const std::string full_name = disk->name + '@' + chosen->first;
  const bool is_open = is_snapshot_open(full_name);
  if (!is_open) attempt([&](Disks& disks) { disks.at(disk->name).snapshots.erase(chosen->first); });
  const auto removed = co_await store_->remove(full_name, {});
  if (is_open && !crashed_) {
    if (removed || removed.error().code != Errc::busy) difference("a snapshot in use was removed");
    co_return;
  }
  if (took_effect(removed, "rm")) disk->snapshots.erase(chosen);
}

Task<void> SnapshotWorld::verb_remove_volume() {
  Disk* disk = any_disk();
  if (disk == nullptr) co_return;
  disk->session.reset();
  std::erase_if(open_snapshots_,
                [&](const OpenSnapshot& snapshot) { return snapshot.name.starts_with(disk->name + '@'); });
  co_await let_sessions_end();
  if (!disk->snapshots.empty()) {
    const auto refused = co_await store_->remove(disk->name, {.now = true});
    if (crashed_) co_return;
    if (refused || refused.error().code != Errc::busy) difference("a volume with snapshots was removed");
  }
  attempt([&](Disks& disks) { disks.erase(disk->name); });
  const auto removed = co_await store_->remove(disk->name, {.with_snapshots = true, .now = true});
  if (took_effect(removed, "rm")) disks_.erase(disk->name);
}

// A volume goes to the trash with its snapshots, and comes back under another name.
Task<void> SnapshotWorld::verb_trash() {
  Disk* disk = any_disk();
  if (disk == nullptr) co_return;
  disk->session.reset();
  std::erase_if(open_snapshots_,
                [&](const OpenSnapshot& snapshot) { return snapshot.name.starts_with(disk->name + '@'); });
  co_await let_sessions_end();
  attempt([&](Disks& disks) { disks.erase(disk->name); });
  const auto trashed = co_await store_->remove(disk->name, {.with_snapshots = true});
  if (!took_effect(trashed, "rm")) co_return;
  Disks::node_type removed = disks_.extract(disk->name);
  if (!*trashed) {
    difference("rm: it is not in the trash");
    co_return;
  }
  if (random_.one_in(4)) {
    co_await close_store();
    if (!co_await open_store()) co_return;
  }
  const std::string name = fmt::format("v{}", ++names_count_);
  removed.key() = removed.mapped().name = name;
  attempt([&](Disks& disks) { disks[name] = removed.mapped(); });
  const auto restored = co_await store_->restore(std::to_string((*trashed)->id), name);
  if (took_effect(restored, "trash restore")) disks_.insert(std::move(removed));
}

// All volumes are taken a snapshot of as a group, and brought back to it.
Task<void> SnapshotWorld::verb_group() {
  for (auto& [name, disk] : disks_) disk.session.reset();
  co_await let_sessions_end();
  std::vector<std::string> members;
  for (const auto& [name, disk] : disks_) members.push_back(name);
  if (members.empty()) co_return;
  if (!took_effect(co_await store_->create_group("g", members), "group create")) co_return;
  const std::string snapshot = fmt::format("g{}", ++names_count_);
  const auto take = [&](Disks& disks) {
    for (auto& [name, disk] : disks) disk.snapshots[snapshot] = std::make_shared<const Bytes>(disk.bytes);
  };
  attempt(take);
  if (!took_effect(co_await store_->snapshot_group("g@" + snapshot), "group snap")) co_return;
  take(disks_);
  const std::string resized = members[random_.below(members.size())];
  const uint64_t size_bytes = any_size_bytes();
  attempt([&](Disks& disks) { disks.at(resized).bytes.resize(size_bytes); });
  if (!took_effect(co_await store_->resize(resized, size_bytes, true), "resize")) co_return;
  disks_.at(resized).bytes.resize(size_bytes);
  const auto roll_back = [&](Disks& disks) {
    for (auto& [name, disk] : disks) disk.bytes = *disk.snapshots.at(snapshot);
  };
  attempt(roll_back);
  if (!took_effect(co_await store_->rollback_group("g@" + snapshot), "group rollback")) co_return;
  roll_back(disks_);
  static_cast<void>(took_effect(co_await store_->remove_group("g"), "group rm"));
}

Task<void> SnapshotWorld::verb_resize() {
  Disk* disk = any_disk();
  if (disk == nullptr) co_return;
  const uint64_t size_bytes = any_size_bytes();
  attempt([&](Disks& disks) { disks.at(disk->name).bytes.resize(size_bytes); });
  const auto resized = co_await store_->resize(disk->name, size_bytes, true);
  if (took_effect(resized, "resize")) disk->bytes.resize(size_bytes);
}

}  // namespace fdbnbd::model
