#include "cli/migration.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <thread>
#include <utility>

#include "base/limits.h"
#include "base/text.h"
#include "cli/progress.h"
#include "cli/transfer.h"

namespace fdbnbd::cli {

namespace {

using volume::SnapshotInfo;
using volume::VolumeInfo;

constexpr std::string_view kUnfinishedSuffix = ".migrating";
constexpr std::string_view kRoundPrefix = "migrating-";

// A volume in use is copied in rounds; one that wrote no more than this is the last of a run.
constexpr uint64_t kEnoughBytes = 64 * limits::kMiB;
constexpr uint32_t kMaxRounds = 10;

// A session that has just ended may still count for a moment.
constexpr auto kSessionEndPatience = std::chrono::seconds(10);
constexpr auto kRetryDelay = std::chrono::milliseconds(20);

bool is_same(const SnapshotInfo& one, const SnapshotInfo& other) {
  return one.name == other.name && one.size_bytes == other.size_bytes && one.created == other.created;
}

bool contains(const std::vector<SnapshotInfo>& snapshots, const SnapshotInfo& wanted) {
  return std::ranges::any_of(snapshots, [&](const SnapshotInfo& one) { return is_same(one, wanted); });
}

// 0 for one that is no round's.
uint64_t round_number(std::string_view snapshot) {
  if (!snapshot.starts_with(kRoundPrefix)) return 0;
  snapshot.remove_prefix(kRoundPrefix.size());
  uint64_t number = 0;
  const auto parsed = std::from_chars(snapshot.data(), snapshot.data() + snapshot.size(), number);
  return parsed.ec == std::errc() && parsed.ptr == snapshot.data() + snapshot.size() ? number : 0;
}

tl::unexpected<Error> with_context(Error error, const std::string& what) {
  return fail(error.code, fmt::format("{}: {}", what, error.what));
}

}  // namespace

std::string unfinished_name(const std::string& volume) {
  return std::string(utf8_prefix(volume, limits::kMaxVolumeNameBytes - kUnfinishedSuffix.size())) +
         std::string(kUnfinishedSuffix);
}

bool is_unfinished_name(std::string_view volume) {
  return volume.ends_with(kUnfinishedSuffix);
}

bool is_round_name(std::string_view snapshot) {
  return round_number(snapshot) != 0;
}

std::vector<SnapshotInfo> snapshots_to_copy(const std::vector<SnapshotInfo>& source,
                                            const std::vector<SnapshotInfo>& copied) {
  std::vector<SnapshotInfo> wanted;
  for (const SnapshotInfo& snapshot : source) {
    if (!is_round_name(snapshot.name) || contains(copied, snapshot)) wanted.push_back(snapshot);
  }
  return wanted;
}

Migration::Migration(const Context& context, StoreAccess& source, StoreAccess& destination,
                     std::string volume)
    : context_(context),
      source_(source),
      destination_(destination),
      volume_(std::move(volume)),
      copy_(unfinished_name(volume_)) {}

Result<VolumeInfo> Migration::info(StoreAccess& access, const std::string& name) const {
  ASSIGN_OR_RETURN(const std::string result, context_.ask(access, control::InfoRequest{name}));
  return control::read_volume(result);
}

Result<void> Migration::when_free(StoreAccess& access, const control::Request& request) const {
  const auto deadline = std::chrono::steady_clock::now() + kSessionEndPatience;
  while (true) {
    RETURN_IF_ERROR(check_interrupt());
    auto done = context_.ask(access, request);
    if (done) return {};
    if (done.error().code != Errc::busy || std::chrono::steady_clock::now() >= deadline)
      return propagate(done);
    std::this_thread::sleep_for(kRetryDelay);
  }
}

std::string Migration::source_name(const Point& point) const {
  return point.snapshot ? volume_ + '@' + *point.snapshot : volume_;
}

Result<Migration::Outcome> Migration::complete() {
  ASSIGN_OR_RETURN(source_info_, info(source_, volume_));
  ASSIGN_OR_RETURN(const bool was_there, is_there());
  if (!was_there) {
    RETURN_IF_ERROR(check_unused());
    // Kept open to the end: so nobody else can have it where servers share the store.
    ASSIGN_OR_RETURN(NbdDisk live, open_disk(source_, volume_));
    RETURN_IF_ERROR(prepare_copy());
    RETURN_IF_ERROR(copy_snapshots());
    RETURN_IF_ERROR(copy_point({std::nullopt, source_info_.size_bytes}, &live));
    RETURN_IF_ERROR(compare_all(live));
    RETURN_IF_ERROR(check_unchanged());
    RETURN_IF_ERROR(publish());
  }
  RETURN_IF_ERROR(remove_rounds(source_, volume_, source_info_.snapshots, ""));
  return was_there ? Outcome::was_there : Outcome::complete;
}

Result<Migration::Outcome> Migration::catch_up() {
  ASSIGN_OR_RETURN(source_info_, info(source_, volume_));
  ASSIGN_OR_RETURN(const bool was_there, is_there());
  if (was_there) return Outcome::was_there;
  RETURN_IF_ERROR(prepare_copy());
  for (uint32_t round = 1; round <= kMaxRounds; ++round) {
    ASSIGN_OR_RETURN(const uint64_t written_bytes, run_round());
    if (written_bytes <= kEnoughBytes) break;
  }
  return Outcome::caught_up;
}

// One that has the same history is the copy of an earlier run. What clients wrote to it since is theirs.
Result<bool> Migration::is_there() {
  const auto there = info(destination_, volume_);
  if (!there && there.error().code == Errc::not_found) return false;
  if (!there) return tl::unexpected(there.error());
  std::vector<SnapshotInfo> wanted;
  for (const SnapshotInfo& snapshot : source_info_.snapshots) {
    if (!is_round_name(snapshot.name)) wanted.push_back(snapshot);
  }
  if (there->created == source_info_.created && there->block_bytes == source_info_.block_bytes &&
      std::ranges::equal(there->snapshots, wanted, is_same)) {
    return true;
  }
  return fail(Errc::exists, fmt::format("the destination has another volume \"{}\"", volume_));
}

Result<void> Migration::check_unused() const {
  if (source_info_.sessions_count > 0) {
    return fail(
        Errc::busy,
        fmt::format("volume \"{}\" is in use by {} NBD session{}: detach the clients first, or copy "
                    "most of it beforehand with --catch-up",
                    volume_, source_info_.sessions_count, source_info_.sessions_count == 1 ? "" : "s"));
  }
  return {};
}

Result<void> Migration::prepare_copy() {
  const control::CreateRequest create{.name = copy_,
                                      .size_bytes = source_info_.size_bytes,
                                      .block_bytes = source_info_.block_bytes,
                                      .compression = source_info_.compression,
                                      .created = source_info_.created};
  const auto created = context_.ask(destination_, create);
  if (!created && created.error().code != Errc::exists) return tl::unexpected(created.error());
  const auto deadline = std::chrono::steady_clock::now() + kSessionEndPatience;
  while (true) {
    RETURN_IF_ERROR(check_interrupt());
    ASSIGN_OR_RETURN(const VolumeInfo copy, info(destination_, copy_));
    copied_ = copy.snapshots;
    if (copy.created != source_info_.created || copy.block_bytes != source_info_.block_bytes) {
      return fail(
          Errc::exists,
          fmt::format("the destination has a volume \"{}\" that is no copy of \"{}\": remove it first", copy_,
                      volume_));
    }
    if (copy.sessions_count == 0) return match_snapshots();
    if (std::chrono::steady_clock::now() >= deadline)
      return fail(Errc::busy,
                  fmt::format("\"{}\" in the destination is in use: another fdb-nbd migrate is at "
                              "work",
                              copy_));
    std::this_thread::sleep_for(kRetryDelay);
  }
}

Result<void> Migration::match_snapshots() {
  for (const SnapshotInfo& snapshot : copied_) {
    if (contains(source_info_.snapshots, snapshot)) continue;
    RETURN_IF_ERROR(when_free(destination_, control::RemoveRequest{copy_ + '@' + snapshot.name}));
  }
  std::erase_if(copied_, [&](const SnapshotInfo& one) { return !contains(source_info_.snapshots, one); });
  const auto wanted = snapshots_to_copy(source_info_.snapshots, copied_);
  if (copied_.size() <= wanted.size() &&
      std::equal(copied_.begin(), copied_.end(), wanted.begin(), is_same)) {
    return {};
  }
  return fail(Errc::exists,
              fmt::format("the snapshots of \"{}\" in the destination are in another order than "
                          "those of \"{}\": remove it and begin anew",
                          copy_, volume_));
}

Result<void> Migration::copy_snapshots() {
  const auto wanted = snapshots_to_copy(source_info_.snapshots, copied_);
  while (copied_.size() < wanted.size()) {
    const SnapshotInfo& snapshot = wanted[copied_.size()];
    RETURN_IF_ERROR(copy_point({snapshot.name, snapshot.size_bytes}, nullptr));
    RETURN_IF_ERROR(context_.ask(destination_, control::SnapRequest{.names = {copy_ + '@' + snapshot.name},
                                                                    .created = snapshot.created}));
    copied_.push_back(snapshot);
  }
  return {};
}

Result<uint64_t> Migration::copy_point(const Point& point, NbdDisk* live) {
  ASSIGN_OR_RETURN(const VolumeInfo copy, info(destination_, copy_));
  if (copy.size_bytes != point.size_bytes) {
    RETURN_IF_ERROR(context_.ask(
        destination_,
        control::ResizeRequest{.name = copy_, .size_bytes = point.size_bytes, .allow_shrink = true}));
  }
  const std::string name = source_name(point);
  std::optional<NbdDisk> opened;
  if (live == nullptr) {
    ASSIGN_OR_RETURN(NbdDisk snapshot, open_disk(source_, name));
    live = &opened.emplace(std::move(snapshot));
  }
  ASSIGN_OR_RETURN(NbdDisk to, open_disk(destination_, copy_));
  ProgressDisplay display("Copying " + name, context_.shows_bar());
  DiskSync sync(*live, to, DiskSync::Mode::copy, display);
  SingleRange whole({0, point.size_bytes});
  if (const auto done = sync.run(whole); !done) return with_context(done.error(), name);
  return sync.changed_bytes();
}

Result<void> Migration::compare_all(NbdDisk& live) {
  for (const SnapshotInfo& snapshot : copied_)
    RETURN_IF_ERROR(compare({snapshot.name, snapshot.size_bytes}, nullptr));
  return compare({std::nullopt, source_info_.size_bytes}, &live);
}

Result<void> Migration::compare(const Point& point, NbdDisk* live) {
  const std::string name = source_name(point);
  const std::string copy_name = point.snapshot ? copy_ + '@' + *point.snapshot : copy_;
  std::optional<NbdDisk> opened;
  if (live == nullptr) {
    ASSIGN_OR_RETURN(NbdDisk snapshot, open_disk(source_, name));
    live = &opened.emplace(std::move(snapshot));
  }
  ASSIGN_OR_RETURN(NbdDisk to, open_disk(destination_, copy_name));
  ProgressDisplay display("Comparing " + name, context_.shows_bar());
  Result<void> same = {};
  if (live->size_bytes() != to.size_bytes()) {
    same = fail(Errc::differs, fmt::format("they have {} and {} bytes", live->size_bytes(), to.size_bytes()));
  } else {
    SingleRange whole({0, point.size_bytes});
    same = DiskSync(*live, to, DiskSync::Mode::compare, display).run(whole);
  }
  if (same) return {};
  const std::string what = fmt::format("{} and its copy", name);
  if (same.error().code != Errc::differs) return with_context(same.error(), what);
  return fail(Errc::differs,
              fmt::format("{}: {}; remove volume \"{}\" from the destination and migrate again", what,
                          same.error().what, copy_));
}

Result<void> Migration::check_unchanged() const {
  ASSIGN_OR_RETURN(const VolumeInfo now, info(source_, volume_));
  // One session is ours.
  if (now.sessions_count <= 1 && now.size_bytes == source_info_.size_bytes &&
      std::ranges::equal(now.snapshots, source_info_.snapshots, is_same)) {
    return {};
  }
  return fail(Errc::busy,
              fmt::format("volume \"{}\" was used or changed while it was copied: run this again", volume_));
}

Result<void> Migration::publish() {
  RETURN_IF_ERROR(remove_rounds(destination_, copy_, copied_, ""));
  RETURN_IF_ERROR(context_.ask(destination_, control::RenameRequest{.name = copy_, .new_name = volume_}));
  // A name is as lasting as what it names.
  ASSIGN_OR_RETURN(NbdDisk disk, open_disk(destination_, volume_));
  return disk.flush();
}

Result<uint64_t> Migration::run_round() {
  uint64_t number = 0;
  for (const auto* snapshots : {&source_info_.snapshots, &copied_}) {
    for (const SnapshotInfo& snapshot : *snapshots) number = std::max(number, round_number(snapshot.name));
  }
  const std::string round = fmt::format("{}{}", kRoundPrefix, number + 1);
  RETURN_IF_ERROR(context_.ask(source_, control::SnapRequest{.names = {volume_ + '@' + round}}));
  ASSIGN_OR_RETURN(source_info_, info(source_, volume_));
  RETURN_IF_ERROR(match_snapshots());
  RETURN_IF_ERROR(copy_snapshots());
  const auto taken = std::ranges::find(source_info_.snapshots, round, &SnapshotInfo::name);
  if (taken == source_info_.snapshots.end())
    return fail(Errc::not_found, fmt::format("somebody has removed snapshot \"{}@{}\"", volume_, round));
  ASSIGN_OR_RETURN(const uint64_t written_bytes, copy_point({round, taken->size_bytes}, nullptr));
  RETURN_IF_ERROR(context_.ask(
      destination_, control::SnapRequest{.names = {copy_ + '@' + round}, .created = taken->created}));
  copied_.push_back(*taken);
  // The newest one is what the next round, or the last one, begins at.
  RETURN_IF_ERROR(remove_rounds(destination_, copy_, copied_, round));
  RETURN_IF_ERROR(remove_rounds(source_, volume_, source_info_.snapshots, round));
  std::erase_if(copied_,
                [&](const SnapshotInfo& one) { return is_round_name(one.name) && one.name != round; });
  return written_bytes;
}

Result<void> Migration::remove_rounds(StoreAccess& access, const std::string& volume,
                                      const std::vector<SnapshotInfo>& snapshots,
                                      const std::string& but) const {
  for (const SnapshotInfo& snapshot : snapshots) {
    if (!is_round_name(snapshot.name) || snapshot.name == but) continue;
    RETURN_IF_ERROR(when_free(access, control::RemoveRequest{volume + '@' + snapshot.name}));
  }
  return {};
}

}  // namespace fdbnbd::cli
