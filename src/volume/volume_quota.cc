#include <fmt/core.h>

#include <algorithm>

#include "volume/volume.h"

// The bound of what a volume uses. A write is let in whole or not at all; what overwrites blocks that hold
// data, and what clears some, always is.

namespace fdbnbd::volume {

uint64_t Volume::count_added_blocks(uint64_t offset_bytes, ByteView data) const {
  uint64_t count = 0;
  const BlockSpan span = span_of(offset_bytes, data.size());
  for (uint64_t block = span.begin; block < span.end; ++block) {
    if (chain_.map().state(block) == BlockState::data) continue;
    const uint64_t block_begin = block << record_.block_shift;
    const uint64_t from = std::max(offset_bytes, block_begin) - offset_bytes;
    const uint64_t to =
        std::min(offset_bytes + data.size(), block_begin + record_.block_bytes()) - offset_bytes;
    const ByteView part = data.subspan(from, to - from);
    if (std::ranges::any_of(part, [](std::byte byte) { return byte != std::byte{0}; })) ++count;
  }
  return count;
}

Result<void> Volume::check_quota(uint64_t added_blocks_count) const {
  if (added_blocks_count == 0) return {};
  const uint64_t blocks_count =
      chain_.map().data_blocks_count() + quota_claimed_blocks_count_ + added_blocks_count;
  if (blocks_count <= record_.quota_bytes >> record_.block_shift) return {};
  return fail(Errc::no_space,
              fmt::format("volume \"{}\" has reached its quota of {} bytes", name_, record_.quota_bytes));
}

Task<Result<void>> Volume::set_quota(uint64_t quota_bytes) {
  const auto set = [quota_bytes](VolumeRecord& record) { record.quota_bytes = quota_bytes; };
  co_return co_await change_record(set);
}

}  // namespace fdbnbd::volume
