#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/process_mark.h"
#include "base/result.h"
#include "volume/keys.h"
#include "volume/store.h"

// The records of a store (docs/format.md, "Records"). Each value is
//
//   kind (1 byte) | version (1 byte) | fields, big-endian | XXH3-64 of all before it (8 bytes, big-endian)
//
// decode: Errc::corruption where the checksum or the form is wrong, Errc::newer_format where the version is
// higher than ours. encode writes the lowest version that can say it, so that older programs read what they
// can.

namespace fdbnbd::volume {

// The version of the whole format; a store with another one is not touched.
inline constexpr uint32_t kFormatVersion = 1;

struct StoreHeader {
  uint32_t format_version = kFormatVersion;
  std::array<uint8_t, 16> uuid{};
  WallTime created{};

  std::string encode() const;
  static Result<StoreHeader> decode(std::string_view value);
};

struct NameRecord {
  VolumeId volume;

  std::string encode() const;
  static Result<NameRecord> decode(std::string_view value);
};

struct VolumeRecord {
  VolumeId id;
  uint64_t size_bytes = 0;
  uint8_t block_shift = 12;  // block size is 1 << block_shift
  Compression compression = Compression::none;
  Striping striping;
  WallTime created{};
  // Version 2:
  bool is_trashed = false;   // it has a trash record instead of a name
  uint64_t quota_bytes = 0;  // bound of what it uses; 0: none
  Labels labels;             // at most limits::kMaxLabels
  // Version 3: a shrink has yet to clear what is stored from the end of the volume to here; 0: nothing is
  // stored behind the end.
  uint64_t stale_end_bytes = 0;

  uint32_t block_bytes() const { return uint32_t{1} << block_shift; }

  std::string encode() const;
  static Result<VolumeRecord> decode(std::string_view value);
};

// One process that serves volumes; zeroes: none.
using InstanceId = std::array<uint8_t, 16>;

// Who may write a volume, and to which layer. Written by taking over, by snapshots and by barriers; every
// data commit has it in its read conflicts.
struct FenceRecord {
  uint64_t epoch = 0;    // grows with each take-over
  uint64_t barrier = 0;  // grows with each barrier
  InstanceId owner{};
  LayerId top_layer;

  bool is_free() const { return owner == InstanceId{}; }
  bool same_tenure(const FenceRecord& other) const { return epoch == other.epoch && owner == other.owner; }

  std::string encode() const;
  static Result<FenceRecord> decode(std::string_view value);
};

// The sign of life of a volume's owner. In nobody's conflicts but of who takes the volume from an owner that
// was silent, so that it disturbs no commit.
struct HeartbeatRecord {
  InstanceId owner{};
  uint64_t counter = 0;            // grows with each beat
  uint32_t lease_duration_ms = 0;  // how long the owner may be silent
  ProcessMark process;             // the owner as other processes of its host know it
  std::string holder;              // the owner as people know it: host and process

  friend bool operator==(const HeartbeatRecord&, const HeartbeatRecord&) = default;

  std::string encode() const;
  static Result<HeartbeatRecord> decode(std::string_view value);
};

// A server asks the owner of a volume to hand it over. The one who takes the volume removes it.
struct HandoverRecord {
  InstanceId requester{};
  std::string holder;  // the requester as people know it

  std::string encode() const;
  static Result<HandoverRecord> decode(std::string_view value);
};

enum class LayerState : uint8_t {
  live = 0,      // the top layer of a volume, or a snapshot's
  deleting = 1,  // nobody reads it any more; a job clears it
  unnamed = 2,   // its snapshot was removed; layers above still read it, until a job has merged it into them
};

struct LayerRecord {
  LayerId parent;  // 0: none
  LayerState state = LayerState::live;
  VolumeId origin;  // the volume it was made for
  uint8_t block_shift = 12;
  Striping striping;

  std::string encode() const;
  static Result<LayerRecord> decode(std::string_view value);
};

// Stands under the volume's id and the snapshot's name.
struct SnapshotRecord {
  LayerId layer;            // frozen
  uint64_t size_bytes = 0;  // of the volume at that time
  WallTime created{};
  uint64_t sequence = 0;  // grows from snapshot to snapshot of one volume
  // Version 2:
  uint64_t original_id = 0;  // of a copy that import-diff made: the id() of the original
  // Version 3: as VolumeRecord, of the volume at that time.
  uint64_t stale_end_bytes = 0;

  // What it is told by, in this store and wherever copies of it are.
  uint64_t id() const { return original_id != 0 ? original_id : layer.value; }

  std::string encode() const;
  static Result<SnapshotRecord> decode(std::string_view value);
};

// That one layer has another as its parent: LayerRecord::parent, read backwards.
struct ChildRecord {
  std::string encode() const;
  static Result<ChildRecord> decode(std::string_view value);
};

// The exact number of data blocks that are seen through a layer, its parents' included, where nobody has it
// open for writing. Missing while somebody has, and after a crash.
struct UsageRecord {
  uint64_t data_blocks_count = 0;

  std::string encode() const;
  static Result<UsageRecord> decode(std::string_view value);
};

// A volume in the trash. Stands under its id; its volume record says so, too.
struct TrashRecord {
  std::string name;  // the one it had
  WallTime trashed{};
  WallTime expires{};  // from then on it may be purged

  // Whether some of its snapshots may be gone already, so that it cannot be restored.
  bool is_being_purged() const { return expires == WallTime{}; }

  std::string encode() const;
  static Result<TrashRecord> decode(std::string_view value);
};

// Volumes that snapshots are taken of together. Stands under the group's name. A volume that has been removed
// stays in the list until the group is changed; one in the trash is a member again once it is restored.
struct GroupRecord {
  std::vector<VolumeId> members;  // ascending; at most limits::kMaxGroupMembers

  std::string encode() const;
  static Result<GroupRecord> decode(std::string_view value);
};

// That a verb's transaction has happened: written by that transaction itself, for the one who ran it and may
// not learn its outcome otherwise. It goes when that one knows.
struct ReceiptRecord {
  // Which of the attempts it was. kRefused: none of them, nor will one.
  static constexpr uint32_t kRefused = UINT32_MAX;
  uint32_t attempt = 0;
  WallTime created{};

  std::string encode() const;
  static Result<ReceiptRecord> decode(std::string_view value);
};

enum class JobKind : uint8_t {
  reclaim_layer = 1,  // clear all of a layer that is deleting
  merge_layer = 2,    // move what an unnamed layer holds into its only child
};

// Work that goes on after a restart.
struct JobRecord {
  JobKind kind = JobKind::reclaim_layer;
  LayerId layer;

  std::string encode() const;
  static Result<JobRecord> decode(std::string_view value);
};

}  // namespace fdbnbd::volume
