#include "volume/chain.h"

#include <algorithm>

#include "base/assert.h"

namespace fdbnbd::volume {

namespace {

constexpr uint32_t kBlocks = ExtentBits::kBlocks;

}  // namespace

void ExtentOwners::Mixed::set_number(uint32_t block, uint32_t number) {
  const uint32_t at = block * bits;
  const uint64_t mask = ((uint64_t{1} << bits) - 1) << (at % 64);
  uint64_t& word = words[at / 64];
  word = (word & ~mask) | (uint64_t{number} << (at % 64));
}

// Also drops what the palette does not need any more.
void ExtentOwners::rebuild(uint32_t bits) {
  auto next = std::make_unique<Mixed>();
  next->bits = bits;
  next->words.resize(size_t{kBlocks} * bits / 64);
  for (uint32_t block = 0; block < kBlocks; ++block) {
    const LayerSlot slot = mixed_->get(block);
    const auto found = std::ranges::find(next->palette, slot);
    const auto number = static_cast<uint32_t>(found - next->palette.begin());
    if (found == next->palette.end()) next->palette.push_back(slot);
    next->set_number(block, number);
  }
  mixed_ = std::move(next);
}

uint32_t ExtentOwners::number_of(LayerSlot slot) {
  while (true) {
    const auto found = std::ranges::find(mixed_->palette, slot);
    const auto number = static_cast<uint32_t>(found - mixed_->palette.begin());
    if (found != mixed_->palette.end()) return number;
    if (number < std::min(uint32_t{1} << mixed_->bits, 2 * kBlocks)) {
      mixed_->palette.push_back(slot);
      return number;
    }
    rebuild(mixed_->bits);
    if (mixed_->palette.size() == number) rebuild(mixed_->bits * 2);  // all are in use
  }
}

void ExtentOwners::set_owner(uint32_t first, uint32_t count, LayerSlot slot) {
  if (count == kBlocks) {
    uniform_ = slot;
    mixed_.reset();
    return;
  }
  if (!mixed_) {
    if (slot == uniform_) return;
    mixed_ = std::make_unique<Mixed>();
    mixed_->palette = {uniform_};
    mixed_->words.resize(kBlocks / 64);
  }
  const uint32_t number = number_of(slot);
  for (uint32_t block = first; block < first + count; ++block) mixed_->set_number(block, number);
  if (mixed_->bits > 1) return;
  const uint64_t all = number == 0 ? 0 : ~uint64_t{0};
  if (std::ranges::all_of(mixed_->words, [&](uint64_t word) { return word == all; })) {
    uniform_ = slot;
    mixed_.reset();
  }
}

uint32_t ExtentOwners::run_length(uint32_t block, uint32_t limit) const {
  const uint32_t end = std::min(kBlocks, block + limit);
  if (!mixed_) return end - block;
  const uint32_t number = mixed_->number(block);
  uint32_t at = block + 1;
  while (at < end && mixed_->number(at) == number) ++at;
  return at - block;
}

size_t ExtentOwners::memory_bytes() const {
  if (!mixed_) return 0;
  return sizeof(Mixed) + mixed_->palette.capacity() * sizeof(LayerSlot) +
         mixed_->words.capacity() * sizeof(uint64_t);
}

LayerSlot ChainMap::slot_of(LayerId layer) {
  const auto [entry, is_new] = slots_.try_emplace(layer, static_cast<LayerSlot>(layers_.size()));
  if (is_new) layers_.push_back(layer);
  return entry->second;
}

void ChainMap::overlay(uint64_t extent_index, const ExtentBits& own, LayerSlot slot) {
  if (own.all_absent()) return;
  Extent& extent = extents_.try_emplace(extent_index, Extent{{}, ExtentOwners(slot)}).first->second;
  data_blocks_count_ -= extent.bits.data_count();
  for (uint32_t block = 0; block < kBlocks;) {
    const uint32_t count = own.run_length(block, kBlocks - block);
    const BlockState state = own.state(block);
    if (state != BlockState::absent) {
      for (uint32_t i = block; i < block + count; ++i) extent.bits.set_state(i, state);
      extent.owners.set_owner(block, count, slot);
    }
    block += count;
  }
  data_blocks_count_ += extent.bits.data_count();
}

void ChainMap::change_own(uint64_t extent_index, uint32_t first, uint32_t count, const ExtentBits& own,
                          LayerSlot slot) {
  const auto found = extents_.try_emplace(extent_index, Extent{{}, ExtentOwners(slot)}).first;
  Extent& extent = found->second;
  data_blocks_count_ -= extent.bits.data_count();
  for (uint32_t block = first; block < first + count;) {
    const uint32_t length = own.run_length(block, first + count - block);
    const BlockState state = own.state(block);
    for (uint32_t i = block; i < block + length; ++i) {
      if (state != BlockState::absent || extent.owners.owner(i) == slot) extent.bits.set_state(i, state);
    }
    if (state != BlockState::absent) extent.owners.set_owner(block, length, slot);
    block += length;
  }
  data_blocks_count_ += extent.bits.data_count();
  if (extent.bits.all_absent()) extents_.erase(found);
}

ExtentBits ChainMap::own_states(uint64_t extent_index, LayerSlot slot, uint32_t first, uint32_t count) const {
  ExtentBits own;
  const auto found = extents_.find(extent_index);
  if (found == extents_.end()) return own;
  const Extent& extent = found->second;
  for (uint32_t block = first; block < first + count;) {
    const uint32_t length = extent.owners.run_length(block, first + count - block);
    if (extent.owners.owner(block) == slot) {
      for (uint32_t i = block; i < block + length; ++i) own.set_state(i, extent.bits.state(i));
    }
    block += length;
  }
  return own;
}

void ChainMap::set_owner(uint64_t block, LayerSlot slot) {
  const auto found = extents_.find(block / kBlocks);
  ASSERT(found != extents_.end());
  ++moves_count_;
  found->second.owners.set_owner(static_cast<uint32_t>(block % kBlocks), 1, slot);
}

std::optional<LayerSlot> ChainMap::owner(uint64_t block) const {
  const auto found = extents_.find(block / kBlocks);
  if (found == extents_.end()) return std::nullopt;
  const auto in_extent = static_cast<uint32_t>(block % kBlocks);
  if (found->second.bits.state(in_extent) == BlockState::absent) return std::nullopt;
  return found->second.owners.owner(in_extent);
}

const ExtentBits& ChainMap::extent(uint64_t extent_index) const {
  static const ExtentBits kNothing;
  const auto found = extents_.find(extent_index);
  return found == extents_.end() ? kNothing : found->second.bits;
}

BlockState ChainMap::state(uint64_t block) const {
  return extent(block / kBlocks).state(static_cast<uint32_t>(block % kBlocks));
}

void ChainMap::for_each_run(uint64_t begin, uint64_t end, FunctionRef<bool(const ChainRun&)> visit) const {
  auto next = extents_.lower_bound(begin / kBlocks);
  uint64_t at = begin;
  while (at < end) {
    const uint64_t next_start = next == extents_.end() ? UINT64_MAX : next->first * kBlocks;
    if (at < next_start) {
      const uint64_t gap_end = std::min(end, next_start);
      if (!visit({at, gap_end - at, BlockState::absent, 0})) return;
      at = gap_end;
      continue;
    }
    const Extent& extent = next->second;
    const uint64_t extent_end = std::min(end, next_start + kBlocks);
    while (at < extent_end) {
      const auto in_extent = static_cast<uint32_t>(at - next_start);
      ChainRun run{.first_block = at,
                   .blocks_count = extent.bits.run_length(in_extent, static_cast<uint32_t>(extent_end - at)),
                   .state = extent.bits.state(in_extent)};
      if (run.state == BlockState::data) {
        run.slot = extent.owners.owner(in_extent);
        run.blocks_count = extent.owners.run_length(in_extent, static_cast<uint32_t>(run.blocks_count));
      }
      if (!visit(run)) return;
      at += run.blocks_count;
    }
    ++next;
  }
}

void ChainMap::for_each_extent(uint64_t begin, uint64_t end,
                               FunctionRef<bool(uint64_t, const ExtentBits&)> visit) const {
  for (auto it = extents_.lower_bound(begin); it != extents_.end() && it->first < end; ++it) {
    if (!visit(it->first, it->second.bits)) return;
  }
}

}  // namespace fdbnbd::volume
