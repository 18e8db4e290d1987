#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/context.h"
#include "cli/disk_sync.h"
#include "cli/nbd_disk.h"
#include "cli/store_access.h"
#include "volume/store.h"

// Moving one volume with its snapshots to another store (docs/migrate.md).
//
// The copy is volume VOL.migrating of the destination until it is complete, and that volume is all the state
// there is: its snapshots are the ones that are copied, and what it holds beyond the newest of them is
// compared with the source before anything is written. So it can be ended at any point and run again.

namespace fdbnbd::cli {

// The volume's name in the destination as long as the copy is not complete.
std::string unfinished_name(const std::string& volume);
// Whether the name is one of those.
bool is_unfinished_name(std::string_view volume);

// Whether a snapshot (its name without the volume's) was made by a round of catching up.
bool is_round_name(std::string_view snapshot);

// The snapshots of the source that are to be in the copy, in order: all but those of rounds that the copy
// does not have.
std::vector<volume::SnapshotInfo> snapshots_to_copy(const std::vector<volume::SnapshotInfo>& source,
                                                    const std::vector<volume::SnapshotInfo>& copied);

class Migration {
 public:
  enum class Outcome : uint8_t {
    complete,   // under its name, compared
    was_there,  // an earlier run had completed it
    caught_up,  // the copy follows the source closely, and is not complete
  };

  // All outlive it.
  Migration(const Context& context, StoreAccess& source, StoreAccess& destination, std::string volume);

  // The volume must not be in use, and is kept from others meanwhile: busy. exists where the destination has
  // another volume of that name; differs where the copy is not as the source. Once.
  Result<Outcome> complete();

  // Copies what is there now, by snapshots of the source, again and again until there is little to copy.
  // Clients may go on. Once.
  Result<Outcome> catch_up();

  const volume::VolumeInfo& source() const { return source_info_; }

 private:
  // A point of the volume: a snapshot, or what it is now where there is no name.
  struct Point {
    std::optional<std::string> snapshot;
    uint64_t size_bytes = 0;
  };

  Result<volume::VolumeInfo> info(StoreAccess& access, const std::string& name) const;
  // Repeats what is refused as busy for a moment: sessions that have just ended may still count.
  Result<void> when_free(StoreAccess& access, const control::Request& request) const;

  // Whether the destination has the volume under its name; exists where that is another one.
  Result<bool> is_there();
  Result<void> check_unused() const;
  // Makes or takes up the copy.
  Result<void> prepare_copy();
  // Removes snapshots that the source does not have any more from the copy. exists where what is left is not
  // the beginning of the source's.
  Result<void> match_snapshots();
  // All snapshots of the source that are to be copied and are not.
  Result<void> copy_snapshots();
  // Makes the copy as the source is at `point`, which comes behind its newest snapshot. `live` is the
  // source's volume where it is open already. How much was written.
  Result<uint64_t> copy_point(const Point& point, NbdDisk* live);
  Result<void> compare(const Point& point, NbdDisk* live);
  Result<void> compare_all(NbdDisk& live);
  // Nobody has changed the source since it was looked at.
  Result<void> check_unchanged() const;
  Result<void> publish();
  // A round of catching up: how much was written.
  Result<uint64_t> run_round();
  Result<void> remove_rounds(StoreAccess& access, const std::string& volume,
                             const std::vector<volume::SnapshotInfo>& snapshots,
                             const std::string& but) const;

  std::string source_name(const Point& point) const;

  const Context& context_;
  StoreAccess& source_;
  StoreAccess& destination_;
  const std::string volume_;
  const std::string copy_;  // its name in the destination until it is complete
  volume::VolumeInfo source_info_;
  std::vector<volume::SnapshotInfo> copied_;  // the copy's snapshots
};

}  // namespace fdbnbd::cli
