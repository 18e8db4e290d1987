#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "async/executor.h"
#include "async/task.h"
#include "base/clock.h"
#include "base/limits.h"
#include "base/process_mark.h"
#include "base/random.h"
#include "base/result.h"
#include "block/export.h"
#include "kv/engine.h"

// The volumes of one store: made, found, opened, changed, removed. The control service and the NBD registry
// stand on it.

namespace fdbnbd::volume {

enum class Compression : uint8_t { none = 0, lz4 = 1, zstd = 2 };

// "none", "lz4", "zstd".
std::string_view compression_name(Compression compression);
Result<Compression> parse_compression(std::string_view name);

struct CreateOptions {
  uint64_t size_bytes = 0;      // a multiple of 512, up to limits::kMaxVolumeBytes
  uint32_t block_bytes = 4096;  // a power of two, limits::kMinBlockBytes to kMaxBlockBytes
  Compression compression = Compression::lz4;
  std::optional<WallTime> created = {};  // now, where it is not given
  uint64_t quota_bytes = 0;              // bound of what it uses; 0: none

  friend bool operator==(const CreateOptions&, const CreateOptions&) = default;
};

// What people note on a volume, sorted by key.
using Labels = std::map<std::string, std::string>;

struct SnapshotInfo {
  std::string name;  // without the volume's
  uint64_t id = 0;   // in no other store, but for copies that import-diff has made
  uint64_t size_bytes = 0;
  WallTime created{};
};

struct VolumeInfo {
  std::string name;  // of a snapshot: VOL@SNAP
  uint64_t id = 0;
  uint64_t size_bytes = 0;
  uint64_t used_bytes = 0;  // blocks that read as data, times block_bytes: exact
  uint32_t block_bytes = 0;
  Compression compression = Compression::none;
  WallTime created{};
  bool read_only = false;
  uint64_t quota_bytes = 0;  // bound of used_bytes; 0: none
  Labels labels;
  uint32_t sessions_count = 0;          // NBD sessions that have it open now, in this process
  std::vector<SnapshotInfo> snapshots;  // in the order in which they were taken
};

// VOL@SNAP.
struct SnapshotName {
  std::string volume;
  std::string snapshot;

  std::string full() const { return volume + '@' + snapshot; }
};

// Whether the name is one of a snapshot: whether it has an '@'.
inline bool is_snapshot_name(std::string_view name) {
  return name.find('@') != std::string_view::npos;
}

// Splits at the first '@'; both parts follow the rules of volume names. Errc::invalid.
Result<SnapshotName> parse_snapshot_name(std::string_view name);

struct RemoveOptions {
  bool with_snapshots = false;  // of a volume
  bool now = false;             // not by way of the trash
  uint64_t id = 0;              // only while the name is this volume's; 0: whatever has it
};

// A volume in the trash. Its name may be there several times, its id is there once.
struct TrashEntry {
  std::string name;  // the one it had
  uint64_t id = 0;
  uint64_t size_bytes = 0;
  uint64_t used_bytes = 0;  // as VolumeInfo
  uint64_t snapshots_count = 0;
  WallTime trashed{};
  WallTime expires{};  // it is purged some time after that
};

struct LabelChange {
  Labels set;
  std::vector<std::string> removed;  // keys
};

// Errc::invalid where the key or the value is not as it has to be: a key has 1 to limits::kMaxLabelKeyBytes
// bytes of UTF-8 without '=' and control characters, a value at most limits::kMaxLabelValueBytes without
// control characters.
Result<void> check_label(std::string_view key, std::string_view value);

// Whether the labels have all that `filters` name, each KEY or KEY=VALUE.
bool labels_match(const Labels& labels, const std::vector<std::string>& filters);

// Volumes that snapshots are taken of together.
struct GroupInfo {
  std::string name;
  std::vector<std::string> members;     // names of volumes, sorted; without those in the trash
  std::vector<SnapshotInfo> snapshots;  // that all members have, of one instant; size_bytes is their sum
};

struct GroupChange {
  std::vector<std::string> added;  // names of volumes
  std::vector<std::string> removed;
};

// What a snapshot takes, or a volume without its snapshots. Bytes but used_bytes are of keys and values as
// stored: after compression, before the engine's own overhead.
struct SpaceUsage {
  uint64_t used_bytes = 0;    // logical, as VolumeInfo
  uint64_t stored_bytes = 0;  // all that it reads
  uint64_t unique_bytes = 0;  // come back when it alone is removed and background work is done
  uint64_t shared_bytes = 0;  // of what it reads, the rest
};

// What `du` tells: found by reading every block that is stored of the volume and its snapshots, and exact
// where nothing of them changes meanwhile.
struct VolumeUsage {
  std::string name;
  uint64_t size_bytes = 0;
  SpaceUsage space;
  struct Snapshot {
    std::string name;  // without the volume's
    SpaceUsage space;
  };
  std::vector<Snapshot> snapshots;  // in the order in which they were taken
};

enum class DiffKind : uint8_t {
  data,  // may hold anything
  zero,  // reads as zeroes
};

// A stretch that differs, and what the later point has there.
struct DiffRange {
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;
  DiffKind kind = DiffKind::data;

  friend bool operator==(const DiffRange&, const DiffRange&) = default;
};

// "data", "zero".
std::string_view diff_kind_name(DiffKind kind);

// A part of what differs between two points of a volume.
struct DiffPage {
  uint64_t from_size_bytes = 0;  // of the earlier point; 0 where that is nothing
  uint64_t to_size_bytes = 0;    // of the later one
  uint32_t block_bytes = 0;
  std::vector<DiffRange> ranges;  // in order; neighbours that touch differ in their kind
  uint64_t end_bytes = 0;         // all before it has been compared
};

// A snapshot wherever it is: SnapshotInfo's name and id.
struct SnapshotRef {
  std::string name;
  uint64_t id = 0;

  friend bool operator==(const SnapshotRef&, const SnapshotRef&) = default;
};

// What `import-diff` makes of a volume.
struct DiffImport {
  std::string volume;               // that is changed; made where there is no `from`
  std::string partial;              // a volume of its own, in which the changes are gathered
  uint64_t partial_id = 0;          // its id, once the import has begun; 0: whatever has the name
  std::optional<SnapshotRef> from;  // what the volume has to be, unchanged
  std::optional<SnapshotRef> to;    // the snapshot that is taken of it in the end, if one is
  CreateOptions options;            // the size that it gets; the rest is for a new volume

  friend bool operator==(const DiffImport&, const DiffImport&) = default;
};

// One thing that is wrong, as `check` tells it.
struct CheckFinding {
  std::string volume;  // empty where no volume is concerned
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;
  std::string what;
  bool is_mended = false;
};

struct CheckReport {
  uint64_t volumes_count = 0;
  uint64_t blocks_count = 0;           // read and verified
  std::vector<CheckFinding> findings;  // at most kMaxCheckFindings; the rest is counted
  uint64_t findings_count = 0;
  uint64_t mended_count = 0;  // of these
};
inline constexpr size_t kMaxCheckFindings = 10'000;

// What long work reports to, and asks whether to go on. Called on the store's executor.
class Progress {
 public:
  virtual void on_progress(uint64_t done_bytes, uint64_t total_bytes) = 0;
  virtual bool cancelled() const = 0;

 protected:
  ~Progress() = default;
};

// How a server comes by a volume that another one holds, where several share the store. Each volume is taken
// so once; a server that has lost it again comes by it when_free.
enum class Takeover : uint8_t {
  when_free,  // once it is free or its holder has given no sign of life for the lease time; busy otherwise
  handover,   // the holder is asked to finish and let it go
  force,      // at once; what the holder had not answered is lost to its clients
};

struct Ownership {
  Takeover takeover = Takeover::when_free;
  Duration lease_duration = limits::kLeaseDuration;
  // This process as others of its host know it: when it has ended they need not wait.
  ProcessMark process = {};
  // This process as people know it: "host db1, pid 17". At most limits::kMaxHolderBytes.
  std::string holder;
};

// Who holds a volume, as `lock ls` tells it.
struct LockInfo {
  enum class State : uint8_t {
    ours,    // this process
    alive,   // the holder has just given a sign of life
    silent,  // it has not, while we looked; it may be dead
  };
  std::string volume;
  std::string holder;
  uint64_t epoch = 0;  // grows each time the volume is taken
  State state = State::silent;
};

// "ours", "alive", "silent".
std::string_view lock_state_name(LockInfo::State state);

// Checks the rules of product names: 1 to 255 bytes of UTF-8 without '/', '@' and control characters.
Result<void> check_volume_name(std::string_view name);

// All calls on the thread of `home`. Strings and options are taken by value: the caller's may end. What a
// change has done when it succeeds is on stable storage.
class Store : public block::ExportRegistry {
 public:
  struct Options {
    // Where the store's own records are kept under; empty for an embedded store.
    std::string key_prefix;
    // The executors that volumes live on; each volume is given one when it is opened. Not empty.
    std::vector<Executor*> volume_executors;
    // How long removed volumes stay in the trash; 0: there is none.
    Duration trash_retention = limits::kDefaultTrashRetention;
    // Means nothing in an embedded store, which one process has to itself.
    Ownership ownership;
    // Where ids come from; 0: from the operating system.
    uint64_t seed = 0;
  };

  // The process is to end: whoever asks for a volume, or waits until another server lets it go, gets
  // Errc::cancelled from now on. Before sessions are stopped, which otherwise wait for their volumes.
  virtual void stop_opening() = 0;

  // Options::trash_retention for volumes that are removed from now on; those in the trash keep their time.
  virtual void set_trash_retention(Duration retention) = 0;

  // Every open export must have been let go. Writes what is kept in memory only (usage) and lets the volumes
  // go.
  virtual Task<void> close() = 0;

  // exists; invalid; no_space.
  virtual Task<Result<VolumeInfo>> create(std::string name, CreateOptions options) = 0;

  // In the order of the names' bytes.
  virtual Task<Result<std::vector<VolumeInfo>>> list_volumes() = 0;
  // Also of a snapshot.
  virtual Task<Result<VolumeInfo>> info(std::string name) = 0;

  // Online. Shrinking discards what lies behind the new end and needs `allow_shrink` (Errc::invalid without
  // it).
  virtual Task<Result<VolumeInfo>> resize(std::string name, uint64_t size_bytes, bool allow_shrink) = 0;

  // A volume or a snapshot. busy while sessions have it open, and where a volume has snapshots, unless
  // `with_snapshots`. Clones do not mind. Returns when it is gone by name. A volume goes to the trash with
  // all it has, unless the options say `now` or the trash is off: that entry, where it does. The space of
  // what is removed at once is reclaimed in the background and after a restart.
  virtual Task<Result<std::optional<TrashEntry>>> remove(std::string name, RemoveOptions options) = 0;

  // What is in the trash, the oldest first.
  virtual Task<Result<std::vector<TrashEntry>>> list_trash() = 0;

  // Brings a volume back from the trash, as `new_name` or, where that is empty, under the name it had. By
  // name or id: invalid where the name is there several times. exists; not_found.
  virtual Task<Result<VolumeInfo>> restore(std::string name_or_id, std::string new_name) = 0;

  // Removes a volume that is in the trash, or all of them. As restore().
  virtual Task<Result<void>> purge(std::optional<std::string> name_or_id) = 0;

  // invalid; too_large where there would be too many. Also while the volume is open, anywhere.
  virtual Task<Result<VolumeInfo>> change_labels(std::string name, LabelChange change) = 0;

  // Bounds what a volume uses; 0: no bound. Online. It may be below what is used already: then writes that
  // need more are no_space until enough has been trimmed.
  virtual Task<Result<VolumeInfo>> set_quota(std::string name, uint64_t quota_bytes) = 0;

  // Takes snapshots (VOL@SNAP) of several volumes at one instant, also while they are written: what was
  // answered before the call is in them; of what is under way, each volume has a part that a crash could have
  // left, and no volume has a write that was begun after one was answered that another lacks. exists;
  // not_found; invalid where a volume is named twice. `created`: what they tell as their time, instead of
  // now.
  virtual Task<Result<void>> snapshot(std::vector<std::string> names, std::optional<WallTime> created) = 0;

  // The volume is what it was at the snapshot, its size included; newer snapshots stay. busy while sessions
  // have it open, unless `disconnect`: what they have begun is finished, then their next requests stay
  // without an answer and the connections end, so that the clients connect anew.
  virtual Task<Result<VolumeInfo>> rollback(std::string snapshot_name, bool disconnect) = 0;

  // Makes a volume that begins as the snapshot. It takes no space until it is written, and does not need the
  // snapshot's name to stay.
  virtual Task<Result<VolumeInfo>> clone(std::string snapshot_name, std::string new_name) = 0;

  // Also while it is open: sessions go on.
  virtual Task<Result<void>> rename(std::string name, std::string new_name) = 0;

  // Copies what a volume shares with the snapshot that it was cloned from, and with its own, so that it
  // stands alone. Also while it is used. Where a snapshot of it is taken meanwhile it begins again, since it
  // shares with that one, too; busy where that happens limits::kMaxFlattenRounds times.
  virtual Task<Result<VolumeInfo>> flatten(std::string name, Progress* progress) = 0;

  // Makes a volume that is a copy of a volume as it is now, or of a snapshot, and shares nothing with it.
  virtual Task<Result<VolumeInfo>> copy(std::string source, std::string new_name, Progress* progress) = 0;

  // Groups. Their names follow the rules of volume names; a volume may be in several. exists; not_found;
  // too_large above limits::kMaxGroupMembers.
  virtual Task<Result<void>> create_group(std::string name, std::vector<std::string> volumes) = 0;
  // The volumes and their snapshots stay.
  virtual Task<Result<void>> remove_group(std::string name) = 0;
  virtual Task<Result<void>> change_group(std::string name, GroupChange change) = 0;
  virtual Task<Result<std::vector<GroupInfo>>> list_groups() = 0;
  // GROUP@SNAP: takes the snapshot of all members at one instant, as snapshot().
  virtual Task<Result<void>> snapshot_group(std::string name) = 0;
  // GROUP@SNAP: as rollback() for all members, or none. invalid where their snapshots are of several
  // instants.
  virtual Task<Result<void>> rollback_group(std::string name) = 0;
  // What differs between snapshot `from` of a volume, without its name, and `name`, the volume as it is or
  // another snapshot of it (volume/diff.h): the part from `begin_bytes` on, up to limits::kMaxDiffRanges
  // ranges. Without `from`, all that is not zeroes.
  virtual Task<Result<DiffPage>> diff(std::string name, std::optional<std::string> from, uint64_t begin_bytes,
                                      Progress* progress) = 0;

  // Makes the volume `import.partial`, a clone of the snapshot that the import begins at, or an empty one; it
  // is to be written like any other, within what the volume's quota allows. not_found, differs: the volume is
  // not at that snapshot; exists.
  virtual Task<Result<VolumeInfo>> begin_import(DiffImport import) = 0;

  // Puts what was gathered into the volume's place, all at once, and takes the snapshot. On a failure nothing
  // has changed. Errors as begin_import; conflict where `import.partial` is not the volume that the import
  // has begun with; no_space where the volume would use more than before and more than its quota; busy while
  // sessions have either volume open.
  virtual Task<Result<VolumeInfo>> finish_import(DiffImport import) = 0;

  virtual Task<Result<VolumeUsage>> usage(std::string name, Progress* progress) = 0;

  // Reads and verifies everything that is stored for one volume, or for all and the records between them.
  // Works beside clients.
  virtual Task<Result<CheckReport>> check(std::optional<std::string> name, Progress* progress) = 0;

  // Mends what can be mended without a doubt, by changing records and bitmaps that follow from others, then
  // checks everything. Findings of what is left stand beside those of what was mended. Works beside clients;
  // what somebody uses is left and told.
  virtual Task<Result<CheckReport>> repair(Progress* progress) = 0;

  // The volumes that somebody holds, in the order of their names. Takes a moment where another process does:
  // its signs of life are watched for.
  virtual Task<Result<std::vector<LockInfo>>> list_locks() = 0;

  // Takes the volume from its holder, which then answers its clients with errors, and leaves it free. The
  // holder's name; empty where nobody held it.
  virtual Task<Result<std::string>> break_lock(std::string name) = 0;

  // Takes over every volume that another process holds, as the options' ownership says, and keeps it for
  // limits::kTakeoverGrace or until close(), so that its clients find it here. How many were taken; those
  // that could not be are in the log.
  virtual Task<Result<uint32_t>> take_over_held() = 0;

  // Where the background work stands: resolves when all that was removed is reclaimed.
  virtual Task<void> wait_for_reclaim() = 0;
};

// Opens the store over `engine` (which must outlive it), or makes an empty one: checks the format version.
// Errc::newer_format where a newer program wrote it, Errc::corruption where its header makes no sense. On the
// thread of `home`.
Task<Result<std::unique_ptr<Store>>> open_store(kv::Engine& engine, Executor& home, Store::Options options);

}  // namespace fdbnbd::volume
