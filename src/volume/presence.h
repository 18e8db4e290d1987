#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/limits.h"
#include "base/result.h"

namespace fdbnbd::volume {

// What a layer knows of one block.
enum class BlockState : uint8_t {
  absent = 0,  // nothing: the parent layer decides, without one it is a hole
  data = 1,    // stored in this layer
  hole = 2,    // reads as zero whatever the parent has
  zero = 3,    // the same, and allocated: not a hole for the client (WRITE_ZEROES with NO_HOLE)
};

// The states of one extent's blocks: a bit plane "present" and a bit plane "zero", as they are stored
// (docs/format.md, "Presence bitmaps").
class ExtentBits {
 public:
  static constexpr uint32_t kBlocks = limits::kBlocksPerExtent;
  static constexpr size_t kWords = kBlocks / 64;
  static constexpr size_t kStoredBytes = 2 * kBlocks / 8;

  BlockState state(uint32_t block) const {
    const uint64_t bit = uint64_t{1} << (block % 64);
    return static_cast<BlockState>(((present_[block / 64] & bit) != 0 ? 1 : 0) |
                                   ((zero_[block / 64] & bit) != 0 ? 2 : 0));
  }
  void set_state(uint32_t block, BlockState state);

  // How many blocks from `block` on, at most `limit`, have the same state as it.
  uint32_t run_length(uint32_t block, uint32_t limit) const;

  uint32_t data_count() const;
  bool all_absent() const;

  friend bool operator==(const ExtentBits&, const ExtentBits&) = default;

  std::string encode() const;
  static Result<ExtentBits> decode(std::string_view value);

  // Where bits go from 0 to 1 and from 1 to 0 between two states, as operands of bit_or and bit_and; empty
  // where none do.
  static std::string or_operand(const ExtentBits& before, const ExtentBits& after);
  static std::string and_operand(const ExtentBits& before, const ExtentBits& after);

 private:
  std::array<uint64_t, kWords> present_{};
  std::array<uint64_t, kWords> zero_{};
};

}  // namespace fdbnbd::volume
