#include "volume/chain_queries.h"

#include <algorithm>

namespace fdbnbd::volume {

std::vector<block::ReadSegment> plan_read(const ChainMap& map, uint8_t block_shift, uint64_t offset_bytes,
                                          uint64_t length_bytes, BlockReader& reader) {
  const uint64_t end_bytes = offset_bytes + length_bytes;
  std::vector<block::ReadSegment> segments;
  const uint64_t end_block = ((end_bytes - 1) >> block_shift) + 1;
  map.for_each_run(offset_bytes >> block_shift, end_block, [&](const ChainRun& run) {
    const bool is_hole = run.state != BlockState::data;
    const uint64_t from = std::max(run.first_block << block_shift, offset_bytes);
    const uint64_t to = std::min((run.first_block + run.blocks_count) << block_shift, end_bytes);
    const auto length = static_cast<uint32_t>(to - from);
    if (!segments.empty() && segments.back().is_hole == is_hole) {
      segments.back().length_bytes += length;
    } else {
      segments.push_back({length, is_hole});
    }
    if (!is_hole) reader.add_run(map.layer(run.slot), run.first_block, run.blocks_count);
    return true;
  });
  return segments;
}

std::vector<block::StatusExtent> block_status_of(const ChainMap& map, uint8_t block_shift,
                                                 uint64_t offset_bytes, uint64_t length_bytes,
                                                 uint32_t extents_limit) {
  const uint64_t end_bytes = offset_bytes + length_bytes;
  const uint64_t end_block = ((end_bytes - 1) >> block_shift) + 1;
  std::vector<block::StatusExtent> extents;
  map.for_each_run(offset_bytes >> block_shift, end_block, [&](const ChainRun& run) {
    const uint64_t from = std::max(run.first_block << block_shift, offset_bytes);
    const uint64_t to = std::min((run.first_block + run.blocks_count) << block_shift, end_bytes);
    const block::StatusExtent extent{
        .length_bytes = to - from,
        .is_hole = run.state == BlockState::absent || run.state == BlockState::hole,
        .is_zero = run.state != BlockState::data};
    if (!extents.empty() && extents.back().is_hole == extent.is_hole &&
        extents.back().is_zero == extent.is_zero) {
      extents.back().length_bytes += extent.length_bytes;
      return true;
    }
    if (extents.size() >= extents_limit) return false;
    extents.push_back(extent);
    return true;
  });
  return extents;
}

}  // namespace fdbnbd::volume
