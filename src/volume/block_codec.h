#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"
#include "volume/store.h"

// One stored block (docs/format.md, "Block values"):
//
//   payload | codec (1 byte) | XXH3-64 of payload and codec, seeded with the block's index (8 bytes,
//   big-endian)
//
// The seed binds a value to its place: a value that turns up under another block's key does not verify.

namespace fdbnbd::volume {

inline constexpr size_t kBlockTrailerBytes = 9;

// Compresses where that saves at least a sixteenth, else stores the bytes as they are. `block` is a whole
// block, not all zero. Appends to `to`. Any thread.
void append_block_value(std::string& to, ByteView block, uint64_t block_index, Compression compression);

// Verifies and unpacks into `block`, whose size is the volume's block size. Errc::corruption where anything
// is off, Errc::newer_format for a codec that this program does not know (only after the checksum has
// matched). Any thread.
Result<void> decode_block_value(std::string_view value, uint64_t block_index, MutableByteView block);

}  // namespace fdbnbd::volume
