#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/function.h"
#include "volume/keys.h"
#include "volume/presence.h"

// What is known in memory of all layers that a disk is made of: for each block, what it reads as and which
// layer says so. A read then costs one lookup, however many layers there are.

namespace fdbnbd::volume {

// Stands for a layer in memory; given out in the order in which layers become known, never again.
using LayerSlot = uint32_t;

// Which layer owns each block of an extent. One layer for all of them costs nothing; else each block takes as
// many bits as it needs to tell the extent's layers apart: 128 bytes an extent for two, at most 4 KiB.
class ExtentOwners {
 public:
  explicit ExtentOwners(LayerSlot slot) : uniform_(slot) {}

  LayerSlot owner(uint32_t block) const { return mixed_ ? mixed_->get(block) : uniform_; }
  void set_owner(uint32_t first, uint32_t count, LayerSlot slot);
  // How many blocks from `block` on, at most `limit`, have the same owner as it.
  uint32_t run_length(uint32_t block, uint32_t limit) const;
  // Beside the object itself.
  size_t memory_bytes() const;

 private:
  // Numbers of `bits` bits that choose from a palette.
  struct Mixed {
    uint32_t bits = 1;  // a power of two
    std::vector<LayerSlot> palette;
    std::vector<uint64_t> words;

    LayerSlot get(uint32_t block) const { return palette[number(block)]; }
    uint32_t number(uint32_t block) const {
      const uint32_t at = block * bits;
      return static_cast<uint32_t>(words[at / 64] >> (at % 64)) & ((uint32_t{1} << bits) - 1);
    }
    void set_number(uint32_t block, uint32_t number);
  };

  uint32_t number_of(LayerSlot slot);
  void rebuild(uint32_t bits);

  LayerSlot uniform_;
  std::unique_ptr<Mixed> mixed_;
};

// A run of neighbouring blocks that read alike and, where they hold data, have one owner. Runs do not cross
// extents, but for those without anything.
struct ChainRun {
  uint64_t first_block = 0;
  uint64_t blocks_count = 0;
  BlockState state = BlockState::absent;
  LayerSlot slot = 0;  // where there is data
};

// Extents without anything cost nothing. One thread.
class ChainMap {
 public:
  // The slot of `layer`, a new one where it is not known.
  LayerSlot slot_of(LayerId layer);
  LayerId layer(LayerSlot slot) const { return layers_[slot]; }

  // Puts a layer's own states over what is known: where they are not absent they hide what was there.
  void overlay(uint64_t extent_index, const ExtentBits& own, LayerSlot slot);

  // The own states of blocks [first, first + count) in the layer of `slot`, which is above all others, are
  // now as in `own`. Where they become absent, nothing was or is below.
  void change_own(uint64_t extent_index, uint32_t first, uint32_t count, const ExtentBits& own,
                  LayerSlot slot);

  // What the layer of `slot` itself says of the blocks [first, first + count); the rest is absent.
  ExtentBits own_states(uint64_t extent_index, LayerSlot slot, uint32_t first, uint32_t count) const;

  // The block's layer is now another one; it reads as before.
  void set_owner(uint64_t block, LayerSlot slot);
  // Nothing where the block is absent.
  std::optional<LayerSlot> owner(uint64_t block) const;

  BlockState state(uint64_t block) const;
  // What the extent's blocks read as; all absent where nothing is known.
  const ExtentBits& extent(uint64_t extent_index) const;

  // Calls `visit` for each run in [begin, end) in order; a stretch of extents without anything is one run.
  // Stops where it says false.
  void for_each_run(uint64_t begin, uint64_t end, FunctionRef<bool(const ChainRun&)> visit) const;

  // Calls `visit(extent_index, bits)` for the extents in [begin, end) that have something, in order. Stops
  // where it says false.
  void for_each_extent(uint64_t begin, uint64_t end,
                       FunctionRef<bool(uint64_t, const ExtentBits&)> visit) const;

  uint64_t data_blocks_count() const { return data_blocks_count_; }
  // Grows with each set_owner().
  uint64_t moves_count() const { return moves_count_; }

 private:
  struct Extent {
    ExtentBits bits;
    ExtentOwners owners;
  };

  std::map<uint64_t, Extent> extents_;  // none is all absent
  uint64_t data_blocks_count_ = 0;
  uint64_t moves_count_ = 0;
  std::vector<LayerId> layers_;
  std::map<LayerId, LayerSlot> slots_;
};

}  // namespace fdbnbd::volume
