#include "volume/intents.h"

#include "base/assert.h"
#include "volume/block_codec.h"

namespace fdbnbd::volume {

namespace {

constexpr uint64_t kRowOverheadBytes = 64;  // key, trailer and what engines add

// The state in the top layer of a block that is to read as `target`, absent or zero.
BlockState cleared_state(const ExtentView& view, uint32_t block, BlockState target) {
  if (target != BlockState::absent || !view.has_parents) return target;
  const BlockState visible = view.visible.state(block);
  const bool is_hole_below = view.own.state(block) == BlockState::absent &&
                             (visible == BlockState::absent || visible == BlockState::hole);
  return is_hole_below ? BlockState::absent : BlockState::hole;
}

}  // namespace

void ExtentIntent::begin(const LayerShape& shape) {
  shape_ = shape;
  layer = shape.layer;
  estimated_bytes = 0;
  mutations_count = 0;
}

void ExtentIntent::set_bits(const ExtentBits& before, const ExtentBits& after) {
  after_ = after;
  or_operand_ = ExtentBits::or_operand(before, after);
  and_operand_ = ExtentBits::and_operand(before, after);
  mutations_count += (or_operand_.empty() ? 0 : 1) + (and_operand_.empty() ? 0 : 1);
  estimated_bytes += or_operand_.size() + and_operand_.size();
}

void ExtentIntent::apply_bits(kv::Transaction& transaction) const {
  if (or_operand_.empty() && and_operand_.empty()) return;
  const std::string key = shape_.keys->bitmap(shape_.layer, extent_index_);
  if (!or_operand_.empty()) transaction.bit_or(key, or_operand_);
  if (!and_operand_.empty()) transaction.bit_and(key, and_operand_);
}

ByteView WriteSource::block(uint64_t index) const {
  if (index == head_block) return head;
  if (index == tail_block) return tail;
  return data.subspan(index * block_bytes - offset_bytes, block_bytes);
}

WriteIntent::WriteIntent(const WriteSource& source, uint64_t first_block, uint32_t count,
                         BlockState zero_state)
    : ExtentIntent(first_block / limits::kBlocksPerExtent,
                   static_cast<uint32_t>(first_block % limits::kBlocksPerExtent), count),
      source_(source),
      zero_state_(zero_state) {
  ASSERT(count > 0 && count <= kBlocks && first_ + count <= limits::kBlocksPerExtent);
}

void WriteIntent::prepare(const LayerShape& shape, const ExtentView& view) {
  begin(shape);
  zero_mask_ = 0;
  stored_mask_ = 0;
  ExtentBits after = view.own;
  for (uint32_t i = 0; i < count_; ++i) {
    const bool is_zero = is_all_zero(source_.block(block_index(first_ + i)));
    const bool was_stored = view.own.state(first_ + i) == BlockState::data;
    zero_mask_ |= uint64_t{is_zero} << i;
    stored_mask_ |= uint64_t{was_stored} << i;
    after.set_state(first_ + i, is_zero ? cleared_state(view, first_ + i, zero_state_) : BlockState::data);
    if (is_zero && !was_stored) continue;
    ++mutations_count;
    estimated_bytes += kRowOverheadBytes + (is_zero ? 0 : shape.block_bytes);
  }
  set_bits(view.own, after);
}

void WriteIntent::apply(kv::Transaction& transaction) {
  std::string key;
  std::string value;
  for (uint32_t i = 0; i < count_; ++i) {
    const uint64_t block = block_index(first_ + i);
    key.clear();
    shape_.keys->append_block(key, shape_.layer, shape_.striping, block);
    if ((zero_mask_ >> i & 1) == 0) {
      value.clear();
      append_block_value(value, source_.block(block), block, shape_.compression);
      transaction.set(key, value);
    } else if ((stored_mask_ >> i & 1) != 0) {
      transaction.clear(key);
    }
  }
  apply_bits(transaction);
}

ClearIntent::ClearIntent(uint64_t extent_index, uint32_t first, uint32_t count, BlockState target)
    : ExtentIntent(extent_index, first, count), target_(target) {}

void ClearIntent::prepare(const LayerShape& shape, const ExtentView& view) {
  begin(shape);
  stored_.clear();
  ExtentBits after = view.own;
  for (uint32_t i = first_; i < first_ + count_; ++i) {
    if (view.own.state(i) == BlockState::data) stored_.push_back(i);
    after.set_state(i, cleared_state(view, i, target_));
  }
  set_bits(view.own, after);
  // Only where the locks cover the whole extent can nobody else be about to set bits in it.
  drop_bitmap_ = count_ == limits::kBlocksPerExtent && after.all_absent() && mutations_count > 0;
  clear_as_range_ = stored_.size() > kSingleClears;
  mutations_count += static_cast<uint32_t>(clear_as_range_ ? 1 : stored_.size());
  estimated_bytes += kRowOverheadBytes * (stored_.size() + 1);
}

void ClearIntent::apply(kv::Transaction& transaction) {
  if (clear_as_range_) {
    const std::string begin = shape_.keys->block(shape_.layer, shape_.striping, block_index(first_));
    const std::string end =
        key_after(shape_.keys->block(shape_.layer, shape_.striping, block_index(first_ + count_ - 1)));
    transaction.clear_range({begin, end});
  } else {
    for (const uint32_t i : stored_)
      transaction.clear(shape_.keys->block(shape_.layer, shape_.striping, block_index(i)));
  }
  if (drop_bitmap_) {
    transaction.clear(shape_.keys->bitmap(shape_.layer, extent_index_));
  } else {
    apply_bits(transaction);
  }
}

}  // namespace fdbnbd::volume
