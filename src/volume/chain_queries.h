#pragma once

#include <cstdint>
#include <vector>

#include "block/export.h"
#include "volume/block_reader.h"
#include "volume/chain.h"

// What the map of a disk says to requests. Blocks are of 1 << block_shift bytes. Pure.

namespace fdbnbd::volume {

// How the range is answered by block::Export::read(); what holds data is added to `reader`.
std::vector<block::ReadSegment> plan_read(const ChainMap& map, uint8_t block_shift, uint64_t offset_bytes,
                                          uint64_t length_bytes, BlockReader& reader);

// As block::Export::block_status().
std::vector<block::StatusExtent> block_status_of(const ChainMap& map, uint8_t block_shift,
                                                 uint64_t offset_bytes, uint64_t length_bytes,
                                                 uint32_t extents_limit);

}  // namespace fdbnbd::volume
