#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "base/checked_math.h"
#include "base/log.h"
#include "volume/volume.h"

// The size of a volume (docs/architecture.md, "Resize"). A shrink is one transaction, which takes note of how
// far the volume reached. What is stored from its new end to there is stale: nobody can read it, and it is
// cleared afterwards, by whoever has the volume, at the latest before the volume grows again.

namespace fdbnbd::volume {

namespace {

// How many extents are cleared before others get the lock.
constexpr size_t kExtentsPerTurn = 256;

}  // namespace

Task<Result<void>> Volume::resize(uint64_t size_bytes, bool allow_shrink) {
  Semaphore::Slot turn(resizing_);
  co_await turn.acquire();
  const uint64_t old_size = record_.size_bytes;
  if (size_bytes < old_size && !allow_shrink) {
    co_return fail(
        Errc::invalid,
        fmt::format("volume \"{}\" has {} bytes: shrinking it to {} discards data and has to be allowed "
                    "(--allow-shrink)",
                    name_, old_size, size_bytes));
  }
  if (size_bytes > old_size) CO_RETURN_IF_ERROR(co_await clear_stale());
  CO_RETURN_IF_ERROR(co_await set_size(size_bytes));
  if (size_bytes > old_size) co_return Result<void>{};
  // The volume is smaller, whatever becomes of this.
  if (const Result<void> cleared = co_await clear_stale(); !cleared) {
    log::warning("volume \"{}\" has been shrunk; what it gave up is cleared later: {}", name_,
                 cleared.error().what);
  }
  co_return Result<void>{};
}

Task<Result<void>> Volume::set_size(uint64_t size_bytes) {
  // Keeps everybody out of what goes until the record says so; later requests there find the new size.
  const uint64_t kept_blocks = std::min(size_bytes, record_.size_bytes) >> record_.block_shift;
  RangeLock::Guard lock(locks_, kept_blocks, UINT64_MAX, RangeLock::Mode::exclusive);
  co_await lock.acquire();
  CO_RETURN_IF_ERROR(check_tenure());
  const auto change = [size_bytes](VolumeRecord& record) {
    if (size_bytes < record.size_bytes)
      record.stale_end_bytes = std::max(record.stale_end_bytes, record.size_bytes);
    record.size_bytes = size_bytes;
  };
  CO_RETURN_IF_ERROR(co_await change_record(change));
  size_bytes_.store(size_bytes, std::memory_order_relaxed);
  co_return Result<void>{};
}

Task<Result<void>> Volume::clear_stale() {
  for (uint64_t next_bytes = record_.size_bytes; record_.stale_end_bytes != 0;) {
    RangeLock::Guard lock(locks_, record_.size_bytes >> record_.block_shift, UINT64_MAX,
                          RangeLock::Mode::exclusive);
    co_await lock.acquire();
    CO_RETURN_IF_ERROR(check_tenure());
    if (closing_) co_return fail(Errc::cancelled, "the volume is being closed");
    const uint64_t end_bytes = end_of_stale_turn(next_bytes);
    CO_RETURN_IF_ERROR(co_await clear_locked(next_bytes, end_bytes - next_bytes, BlockState::absent));
    next_bytes = end_bytes;
    if (next_bytes < record_.stale_end_bytes) continue;
    const auto change = [](VolumeRecord& record) { record.stale_end_bytes = 0; };
    CO_RETURN_IF_ERROR(co_await change_record(change));
  }
  co_return Result<void>{};
}

// The end of a block.
uint64_t Volume::end_of_stale_turn(uint64_t begin_bytes) const {
  const uint64_t extent_bytes = uint64_t{limits::kBlocksPerExtent} << record_.block_shift;
  const uint64_t stale_end_bytes = round_up(record_.stale_end_bytes, record_.block_bytes());
  uint64_t end_bytes = stale_end_bytes;
  size_t extents_count = 0;
  chain_.map().for_each_extent(begin_bytes / extent_bytes, divide_up(stale_end_bytes, extent_bytes),
                               [&](uint64_t extent_index, const ExtentBits&) {
                                 if (++extents_count < kExtentsPerTurn) return true;
                                 end_bytes = std::min(stale_end_bytes, (extent_index + 1) * extent_bytes);
                                 return false;
                               });
  return end_bytes;
}

Task<void> Volume::finish_shrink() {
  Semaphore::Slot turn(resizing_);
  co_await turn.acquire();
  const Result<void> cleared = co_await clear_stale();
  if (cleared || is_retired() || closing_) co_return;  // somebody else does it, or the next opener
  log::warning("volume \"{}\": what a shrink gave up is cleared later: {}", name_, cleared.error().what);
}

}  // namespace fdbnbd::volume
