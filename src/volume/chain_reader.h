#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "async/task.h"
#include "base/bytes.h"
#include "base/random.h"
#include "base/result.h"
#include "block/export.h"
#include "kv/engine.h"
#include "volume/chain.h"
#include "volume/chain_queries.h"
#include "volume/fence.h"
#include "volume/keys.h"
#include "volume/records.h"

namespace fdbnbd::volume {

struct ChainLayer {
  LayerId id;
  LayerRecord record;
};

// The layers that `top` is made of, from it down to the one without a parent, as of the transaction's
// version. not_found where there is no such layer; corruption where a parent is missing or the chain bites
// its tail.
Task<Result<std::vector<ChainLayer>>> read_chain(kv::Transaction& transaction, const KeySpace& keys,
                                                 LayerId top);

// Who writes the top layer, where somebody does: the volume's fence, which outlives the reader, and the key
// of its record.
struct ChainWriter {
  const Fence* fence = nullptr;
  std::string fence_key;
};

// The read side of a disk made of layers: a volume's, whose top layer is written, or a snapshot's.
//
// Layers below the top may be merged into those above them at any time, here or by another server. Nothing
// reads differently then, but blocks move from layer to layer: where one is not found, its extent is looked
// up afresh. Whatever is missing after that is corruption. On the executor's thread.
class ChainReader {
 public:
  struct Shape {
    uint8_t block_shift;
    Striping striping;
  };

  ChainReader(kv::Engine& engine, Executor& executor, const KeySpace& keys, Shape shape,
              ChainWriter writer = {});

  // Reads the bitmaps of all layers of the chain. Once. not_found where `top` is gone, or is no snapshot's or
  // volume's any more. Errors do not name the disk.
  Task<Result<void>> load(LayerId top);

  // The volume has a new, empty top layer.
  void push_top(LayerId top);

  LayerId top() const { return top_; }
  LayerSlot top_slot() { return map_.slot_of(top_); }
  // False is certain.
  bool has_parents() const { return has_parents_; }
  // Nothing of it is of use any more.
  void forget() { map_ = ChainMap(); }

  // The top has no parent any more.
  void forget_parents() { has_parents_ = false; }
  ChainMap& map() { return map_; }
  const ChainMap& map() const { return map_; }

  // As block::Export's functions; the range lies inside the disk, and nobody writes to it meanwhile. Errors
  // name `disk`.
  Task<Result<std::vector<block::ReadSegment>>> read(uint64_t offset_bytes, MutableByteView into,
                                                     const std::string& disk);
  // The values of some blocks with data, given as distances from `first_block`, as they are stored.
  // Errc::corruption where one is not there.
  Task<Result<void>> read_stored(uint64_t first_block, const std::vector<uint32_t>& blocks,
                                 std::vector<std::optional<std::string>>& values, const std::string& disk);
  std::vector<block::StatusExtent> block_status(uint64_t offset_bytes, uint64_t length_bytes,
                                                uint32_t extents_limit) const {
    return block_status_of(map_, shape_.block_shift, offset_bytes, length_bytes, extents_limit);
  }
  // As block::Export::topic_status() for depth; the top is the layer that is written.
  std::vector<block::FlaggedExtent> depth_status(uint64_t offset_bytes, uint64_t length_bytes,
                                                 uint32_t extents_limit);

 private:
  // Each block that is missing may take one look, and move again meanwhile.
  static constexpr uint32_t kMaxLooks = 1000;

  Task<Result<void>> load_layer(LayerId layer);
  Task<Result<std::vector<ChainLayer>>> load_chain(LayerId top);
  // The layer to begin with, as of the transaction: the volume may have got a new top that is not known yet.
  Task<Result<LayerId>> find_top(kv::Transaction& transaction);
  // Finds out who owns the extent's blocks now. What is written stays as it is; a snapshot that is taken
  // meanwhile makes it look again.
  Task<Result<void>> look_up_again(uint64_t extent_index);
  Task<Result<void>> look_up_in(kv::Transaction& transaction, uint64_t extent_index);

  kv::Engine& engine_;
  Executor& executor_;
  const KeySpace& keys_;
  const Shape shape_;
  const ChainWriter writer_;
  Random random_{1};  // for back-off
  LayerId top_;
  bool has_parents_ = false;
  ChainMap map_;
};

}  // namespace fdbnbd::volume
