#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "volume/commit_queue.h"
#include "volume/keys.h"
#include "volume/presence.h"
#include "volume/store.h"

// The changes that requests bring to a volume's top layer, one extent each: what goes into the transaction,
// and what the layer's bitmap becomes once it has been committed.
//
// An intent is prepared for one top layer. Where a snapshot puts another one on top before it is committed,
// it is prepared again.

namespace fdbnbd::volume {

struct LayerShape {
  const KeySpace* keys = nullptr;
  LayerId layer;
  Striping striping;
  uint32_t block_bytes = 0;
  Compression compression = Compression::none;
};

// What is known of an extent when an intent is prepared.
struct ExtentView {
  ExtentBits own;      // states in the top layer; those of the intent's blocks count
  ExtentBits visible;  // states as clients see them
  bool has_parents = false;
};

// A change of the states of some blocks of one extent.
class ExtentIntent : public CommitQueue::Intent {
 public:
  uint64_t extent_index() const { return extent_index_; }

  uint32_t first() const { return first_; }
  uint32_t count() const { return count_; }

  // Makes the changes ready for the layer. Before anything else, and again for another layer.
  virtual void prepare(const LayerShape& shape, const ExtentView& view) = 0;

  // The layer's own states of the intent's blocks once it is committed.
  const ExtentBits& after() const { return after_; }

  // Whether there is nothing to commit.
  bool is_empty() const { return mutations_count == 0; }

 protected:
  ExtentIntent(uint64_t extent_index, uint32_t first, uint32_t count)
      : extent_index_(extent_index), first_(first), count_(count) {}
  ~ExtentIntent() = default;

  uint64_t block_index(uint32_t in_extent) const {
    return extent_index_ * limits::kBlocksPerExtent + in_extent;
  }
  void begin(const LayerShape& shape);
  // Takes note of the change of bits from `before` to `after`.
  void set_bits(const ExtentBits& before, const ExtentBits& after);
  void apply_bits(kv::Transaction& transaction) const;

  LayerShape shape_;
  const uint64_t extent_index_;
  const uint32_t first_;  // block in the extent
  const uint32_t count_;

 private:
  ExtentBits after_;
  std::string or_operand_;
  std::string and_operand_;
};

// Where the bytes of a write's blocks are: in the client's data, but for a first and a last block that are
// not covered whole.
struct WriteSource {
  uint64_t offset_bytes = 0;
  ByteView data;
  uint32_t block_bytes = 0;
  uint64_t head_block = UINT64_MAX;
  std::vector<std::byte> head;
  uint64_t tail_block = UINT64_MAX;
  std::vector<std::byte> tail;

  ByteView block(uint64_t index) const;
};

// Writes whole blocks; those that are all zero are not stored.
class WriteIntent final : public ExtentIntent {
 public:
  // At most kBlocks blocks of one extent; those that are all zero get `zero_state` (absent or zero). `source`
  // is kept by the caller.
  static constexpr uint32_t kBlocks = 64;
  WriteIntent(const WriteSource& source, uint64_t first_block, uint32_t count, BlockState zero_state);

  void prepare(const LayerShape& shape, const ExtentView& view) override;
  void apply(kv::Transaction& transaction) override;

 private:
  const WriteSource& source_;
  const BlockState zero_state_;
  uint64_t zero_mask_ = 0;    // blocks that are all zero
  uint64_t stored_mask_ = 0;  // blocks that were stored before
};

// Makes blocks absent (or holes, where that hides what parents have), or zero.
class ClearIntent final : public ExtentIntent {
 public:
  ClearIntent(uint64_t extent_index, uint32_t first, uint32_t count, BlockState target);

  void prepare(const LayerShape& shape, const ExtentView& view) override;
  void apply(kv::Transaction& transaction) override;

 private:
  // Up to so many stored blocks are cleared one by one: range tombstones make later reads slower.
  static constexpr size_t kSingleClears = 32;

  const BlockState target_;
  bool drop_bitmap_ = false;
  bool clear_as_range_ = false;
  std::vector<uint32_t> stored_;
};

}  // namespace fdbnbd::volume
