#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/result.h"
#include "cli/nbd_disk.h"
#include "cli/progress.h"

namespace fdbnbd::cli {

// A stretch of a disk.
struct DiskRange {
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;
};

// Where on a disk there is something to look at: ranges in order that do not touch or overlap.
class RangeSource {
 public:
  virtual ~RangeSource() = default;

  // Nothing behind the last one.
  virtual Result<std::optional<DiskRange>> next() = 0;
};

// One range: a whole disk, say.
class SingleRange final : public RangeSource {
 public:
  explicit SingleRange(DiskRange range) : range_(range) {}
  Result<std::optional<DiskRange>> next() override { return std::exchange(range_, std::nullopt); }

 private:
  std::optional<DiskRange> range_;
};

// Compares two disks and, where it is asked to, makes the second one as the first, with many requests in
// flight. What both have as holes is not read, and nothing is written that is there already. One thread.
class DiskSync {
 public:
  enum class Mode : uint8_t {
    copy,     // what differs is written to the second disk, which is flushed in the end
    compare,  // what differs ends it: Errc::differs, with the offset
  };

  // All outlive it.
  DiskSync(NbdDisk& from, NbdDisk& to, Mode mode, ProgressDisplay& display)
      : from_(from), to_(to), mode_(mode), display_(display), from_extents_(from), to_extents_(to) {}

  // Once. Errc::cancelled after an interrupt; past_end where a disk lacks what a range names.
  Result<void> run(RangeSource& ranges);

  // Written, or made zero.
  uint64_t changed_bytes() const { return changed_bytes_; }

 private:
  // Which parts of a disk are zero, asked for as it is walked through.
  class Extents {
   public:
    explicit Extents(NbdDisk& disk) : disk_(disk) {}
    // The extent at `offset_bytes`, which never goes back, cut at `end_bytes`.
    Result<DiskExtent> at(uint64_t offset_bytes, uint64_t end_bytes);

   private:
    NbdDisk& disk_;
    std::deque<DiskExtent> known_;
    uint64_t begin_bytes_ = 0;  // of known_
  };

  // A stretch of both disks that is being read.
  struct Piece {
    uint64_t offset_bytes = 0;
    uint64_t length_bytes = 0;
    std::vector<std::byte> from;
    std::vector<std::byte> to;
    size_t reads_count = 0;  // not done yet
  };

  Result<void> add(DiskRange range);
  // A stretch in which both disks are either all zero or not.
  Result<void> add_stretch(DiskRange range, bool from_is_zero, bool to_is_zero);
  Result<void> begin_read(NbdDisk& disk, const std::shared_ptr<Piece>& piece, std::vector<std::byte>& into);
  // Deals with the oldest pieces until fewer than `count` are left.
  Result<void> settle_below(size_t count);
  Result<void> settle(const std::shared_ptr<Piece>& piece);
  Result<void> change(const std::shared_ptr<Piece>& piece, uint64_t begin_bytes, uint64_t end_bytes);
  Result<void> zero(DiskRange range);
  // Waits until another request can be sent to the second disk.
  Result<void> wait_for_room();

  NbdDisk& from_;
  NbdDisk& to_;
  const Mode mode_;
  ProgressDisplay& display_;
  Extents from_extents_;
  Extents to_extents_;
  std::deque<std::shared_ptr<Piece>> pieces_;
  uint64_t changed_bytes_ = 0;
};

}  // namespace fdbnbd::cli
