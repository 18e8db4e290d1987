#include "cli/disk_sync.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "base/limits.h"
#include "cli/transfer.h"

namespace fdbnbd::cli {

namespace {

using limits::kTransferRequestBytes;
using limits::kTransferRequestsInFlight;

// What differs is told apart in pieces of this size: smaller than most volumes' blocks would only make
// requests.
constexpr uint64_t kGrainBytes = limits::kMinBlockBytes;

tl::unexpected<Error> differs(uint64_t offset_bytes) {
  return fail(Errc::differs, fmt::format("they differ at offset {}", offset_bytes));
}

}  // namespace

Result<DiskExtent> DiskSync::Extents::at(uint64_t offset_bytes, uint64_t end_bytes) {
  while (!known_.empty() && begin_bytes_ + known_.front().length_bytes <= offset_bytes) {
    begin_bytes_ += known_.front().length_bytes;
    known_.pop_front();
  }
  if (known_.empty()) {
    ASSIGN_OR_RETURN(const auto extents,
                     disk_.block_status(offset_bytes, std::min(limits::kTransferStatusBytes,
                                                               disk_.size_bytes() - offset_bytes)));
    known_.assign(extents.begin(), extents.end());
    begin_bytes_ = offset_bytes;
  }
  const DiskExtent& extent = known_.front();
  const uint64_t extent_end_bytes = begin_bytes_ + extent.length_bytes;
  return DiskExtent{.length_bytes = std::min(extent_end_bytes, end_bytes) - offset_bytes,
                    .is_zero = extent.is_zero};
}

Result<void> DiskSync::run(RangeSource& ranges) {
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<DiskRange> range, ranges.next());
    if (!range) break;
    RETURN_IF_ERROR(add(*range));
  }
  RETURN_IF_ERROR(settle_below(1));
  if (mode_ == Mode::compare) return {};
  RETURN_IF_ERROR(to_.wait_below(1));
  return to_.flush();
}

Result<void> DiskSync::add(DiskRange range) {
  const uint64_t end_bytes = range.offset_bytes + range.length_bytes;
  if (end_bytes > from_.size_bytes() || end_bytes > to_.size_bytes())
    return fail(Errc::past_end, "somebody has made it smaller meanwhile");
  uint64_t offset_bytes = range.offset_bytes;
  while (offset_bytes < end_bytes) {
    RETURN_IF_ERROR(check_interrupt());
    ASSIGN_OR_RETURN(const DiskExtent from, from_extents_.at(offset_bytes, end_bytes));
    ASSIGN_OR_RETURN(const DiskExtent to, to_extents_.at(offset_bytes, end_bytes));
    const uint64_t length_bytes = std::min(from.length_bytes, to.length_bytes);
    RETURN_IF_ERROR(add_stretch({offset_bytes, length_bytes}, from.is_zero, to.is_zero));
    offset_bytes += length_bytes;
  }
  return {};
}

Result<void> DiskSync::add_stretch(DiskRange range, bool from_is_zero, bool to_is_zero) {
  if (from_is_zero && to_is_zero) {
    display_.update(range.offset_bytes + range.length_bytes, from_.size_bytes());
    return {};
  }
  if (from_is_zero && mode_ == Mode::copy) return zero(range);
  uint64_t done_bytes = 0;
  while (done_bytes < range.length_bytes) {
    RETURN_IF_ERROR(check_interrupt());
    RETURN_IF_ERROR(settle_below(kTransferRequestsInFlight));
    auto piece = std::make_shared<Piece>();
    piece->offset_bytes = range.offset_bytes + done_bytes;
    piece->length_bytes = std::min(kTransferRequestBytes, range.length_bytes - done_bytes);
    piece->from.resize(piece->length_bytes);
    piece->to.resize(piece->length_bytes);
    pieces_.push_back(piece);
    if (!from_is_zero) RETURN_IF_ERROR(begin_read(from_, piece, piece->from));
    if (!to_is_zero) RETURN_IF_ERROR(begin_read(to_, piece, piece->to));
    done_bytes += piece->length_bytes;
  }
  return {};
}

Result<void> DiskSync::begin_read(NbdDisk& disk, const std::shared_ptr<Piece>& piece,
                                  std::vector<std::byte>& into) {
  ++piece->reads_count;
  return disk.begin_read(piece->offset_bytes, into, [piece](bool succeeded) {
    if (succeeded) --piece->reads_count;
  });
}

Result<void> DiskSync::settle_below(size_t count) {
  while (pieces_.size() >= count) {
    const std::shared_ptr<Piece> piece = pieces_.front();
    while (piece->reads_count > 0) {
      RETURN_IF_ERROR(check_interrupt());
      RETURN_IF_ERROR(NbdDisk::wait_for_either(from_, to_));
    }
    RETURN_IF_ERROR(settle(piece));
    pieces_.pop_front();
    display_.update(piece->offset_bytes + piece->length_bytes, from_.size_bytes());
  }
  return {};
}

Result<void> DiskSync::settle(const std::shared_ptr<Piece>& piece) {
  const auto grain_end = [&](uint64_t begin) { return std::min(begin + kGrainBytes, piece->length_bytes); };
  const auto is_same = [&](uint64_t begin) {
    return std::memcmp(piece->from.data() + begin, piece->to.data() + begin, grain_end(begin) - begin) == 0;
  };
  for (uint64_t begin = 0; begin < piece->length_bytes;) {
    const bool same = is_same(begin);
    if (!same && mode_ == Mode::compare) {
      const auto at = std::mismatch(piece->from.begin() + static_cast<ptrdiff_t>(begin), piece->from.end(),
                                    piece->to.begin() + static_cast<ptrdiff_t>(begin));
      return differs(piece->offset_bytes + static_cast<uint64_t>(at.first - piece->from.begin()));
    }
    uint64_t end = grain_end(begin);
    while (end < piece->length_bytes && is_same(end) == same) end = grain_end(end);
    if (!same) RETURN_IF_ERROR(change(piece, begin, end));
    begin = end;
  }
  return {};
}

// Zeroes are left to the server, which does not store them.
Result<void> DiskSync::change(const std::shared_ptr<Piece>& piece, uint64_t begin_bytes, uint64_t end_bytes) {
  RETURN_IF_ERROR(wait_for_room());
  changed_bytes_ += end_bytes - begin_bytes;
  return to_.begin_write(piece->offset_bytes + begin_bytes,
                         ByteView(piece->from).subspan(begin_bytes, end_bytes - begin_bytes),
                         [piece](bool /*succeeded*/) {});
}

Result<void> DiskSync::zero(DiskRange range) {
  changed_bytes_ += range.length_bytes;
  while (range.length_bytes > 0) {
    RETURN_IF_ERROR(wait_for_room());
    const uint64_t part_bytes = std::min(range.length_bytes, limits::kTransferZeroBytes);
    RETURN_IF_ERROR(to_.begin_zero(range.offset_bytes, part_bytes, {}));
    range.offset_bytes += part_bytes;
    range.length_bytes -= part_bytes;
    display_.update(range.offset_bytes, from_.size_bytes());
  }
  return {};
}

Result<void> DiskSync::wait_for_room() {
  // Reads that were begun before count too.
  while (to_.in_flight_count() >= 2 * kTransferRequestsInFlight) {
    RETURN_IF_ERROR(check_interrupt());
    RETURN_IF_ERROR(NbdDisk::wait_for_either(from_, to_));
  }
  return {};
}

}  // namespace fdbnbd::cli
