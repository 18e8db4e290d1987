#include "volume/volume.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "base/checked_math.h"
#include "base/log.h"
#include "volume/diff.h"

namespace fdbnbd::volume {

namespace {

// How many extents one step of a large clear takes on.
constexpr size_t kExtentsPerStep = 1024;

}  // namespace

Volume::Volume(Environment environment, std::string name, VolumeRecord record)
    : engine_(environment.engine),
      executor_(environment.executor),
      keys_(environment.keys),
      name_(std::move(name)),
      record_(record),
      fence_(environment.engine, environment.executor, environment.keys.fence(record.id), environment.owner),
      commits_(environment.engine, environment.executor, fence_),
      chain_(environment.engine, environment.executor, environment.keys,
             {record.block_shift, record.striping},
             {.fence = &fence_, .fence_key = environment.keys.fence(record.id)}),
      random_(record.id.value),
      size_bytes_(record.size_bytes) {
  if (!engine_.capabilities().shared_between_hosts) return;
  lease_.emplace(LeasePlace{engine_, executor_, keys_, record_.id, environment.owner, environment.stopping},
                 environment.ownership, fence_);
}

LayerId Volume::update_top() {
  const LayerId top = fence_.record().top_layer;
  if (top != chain_.top()) chain_.push_top(top);
  return top;
}

LayerShape Volume::shape() {
  return {.keys = &keys_,
          .layer = update_top(),
          .striping = record_.striping,
          .block_bytes = record_.block_bytes(),
          .compression = record_.compression};
}

ExtentView Volume::view_of(const ExtentIntent& intent) {
  const uint64_t extent_index = intent.extent_index();
  return {.own = chain_.map().own_states(extent_index, chain_.top_slot(), intent.first(), intent.count()),
          .visible = chain_.map().extent(extent_index),
          .has_parents = chain_.has_parents()};
}

std::string Volume::display_name() const {
  return fmt::format("volume \"{}\"", name_);
}

Volume::BlockSpan Volume::span_of(uint64_t offset_bytes, uint64_t length_bytes) const {
  return {offset_bytes >> record_.block_shift,
          ((offset_bytes + length_bytes - 1) >> record_.block_shift) + 1};
}

Result<void> Volume::check_inside(uint64_t offset_bytes, uint64_t length_bytes, Errc past_end) const {
  if (length_bytes > 0 && range_fits(offset_bytes, length_bytes, record_.size_bytes)) return {};
  return fail(past_end, fmt::format("{} bytes at {} are not inside volume \"{}\" of {} bytes", length_bytes,
                                    offset_bytes, name_, record_.size_bytes));
}

block::ExportInfo Volume::info() const {
  block::ExportInfo info;
  info.name = name_;
  info.size_bytes = record_.size_bytes;
  info.min_block_bytes = 1;
  info.preferred_block_bytes = record_.block_bytes();
  info.max_payload_bytes = limits::kMaxPayloadBytes;
  info.has_depth = true;
  return info;
}

Task<Result<std::vector<block::ReadSegment>>> Volume::read(uint64_t offset_bytes, MutableByteView into) {
  CO_RETURN_IF_ERROR(check_inside(offset_bytes, into.size(), Errc::invalid));
  Semaphore::Slot slot(admission_);
  co_await slot.acquire();
  const BlockSpan span = span_of(offset_bytes, into.size());
  RangeLock::Guard lock(locks_, span.begin, span.end, RangeLock::Mode::shared);
  co_await lock.acquire();
  CO_RETURN_IF_ERROR(check_inside(offset_bytes, into.size(), Errc::invalid));
  if (!may_answer_reads()) CO_RETURN_IF_ERROR(co_await check_lease());
  co_return co_await chain_.read(offset_bytes, into, display_name());
}

Task<Result<std::vector<std::byte>>> Volume::read_block_locked(uint64_t block) {
  std::vector<std::byte> bytes(record_.block_bytes());
  // Where it is a hole, nothing is filled in.
  auto read = co_await chain_.read(block << record_.block_shift, bytes, display_name());
  if (!read) co_return propagate(read);
  co_return bytes;
}

Task<Result<void>> Volume::write(uint64_t offset_bytes, ByteView data, block::WriteOptions options) {
  CO_RETURN_IF_ERROR(check_inside(offset_bytes, data.size(), Errc::past_end));
  {
    Semaphore::Slot slot(admission_);
    co_await slot.acquire();
    const BlockSpan span = span_of(offset_bytes, data.size());
    RangeLock::Guard lock(locks_, span.begin, span.end, RangeLock::Mode::exclusive);
    co_await lock.acquire();
    CO_RETURN_IF_ERROR(check_tenure());
    CO_RETURN_IF_ERROR(check_inside(offset_bytes, data.size(), Errc::past_end));
    const uint64_t added_blocks_count = record_.quota_bytes == 0 ? 0 : count_added_blocks(offset_bytes, data);
    CO_RETURN_IF_ERROR(check_quota(added_blocks_count));
    const QuotaClaim claim(quota_claimed_blocks_count_, added_blocks_count);
    CO_RETURN_IF_ERROR(co_await write_locked(offset_bytes, data, BlockState::absent));
  }
  if (options.fua) co_return co_await flush();
  co_return Result<void>{};
}

Task<Result<void>> Volume::write_locked(uint64_t offset_bytes, ByteView data, BlockState zero_state) {
  const uint64_t end_bytes = offset_bytes + data.size();
  const uint64_t block_mask = record_.block_bytes() - 1;
  const BlockSpan span = span_of(offset_bytes, data.size());
  WriteSource source;
  source.offset_bytes = offset_bytes;
  source.data = data;
  source.block_bytes = record_.block_bytes();

  const bool head_is_partial = (offset_bytes & block_mask) != 0;
  const bool tail_is_partial = (end_bytes & block_mask) != 0;
  if (head_is_partial || (tail_is_partial && span.end - span.begin == 1)) {
    ASSIGN_OR_CO_RETURN(source.head, co_await read_block_locked(span.begin));
    source.head_block = span.begin;
    const uint64_t from = offset_bytes & block_mask;
    const uint64_t length = std::min<uint64_t>(data.size(), record_.block_bytes() - from);
    std::ranges::copy(data.first(length), source.head.begin() + static_cast<ptrdiff_t>(from));
  }
  if (tail_is_partial && span.end - span.begin > 1) {
    ASSIGN_OR_CO_RETURN(source.tail, co_await read_block_locked(span.end - 1));
    source.tail_block = span.end - 1;
    std::ranges::copy(data.last(end_bytes & block_mask), source.tail.begin());
  }

  const uint64_t blocks_per_intent =
      std::clamp<uint64_t>(limits::kCommitTargetBytes / record_.block_bytes(), 1, WriteIntent::kBlocks);
  const uint64_t blocks_left_in_extent = limits::kBlocksPerExtent - span.begin % limits::kBlocksPerExtent;
  if (span.end - span.begin <= std::min(blocks_per_intent, blocks_left_in_extent)) {
    // Most requests are one intent: it lives in this frame.
    WriteIntent intent(source, span.begin, static_cast<uint32_t>(span.end - span.begin), zero_state);
    ExtentIntent* pointer = &intent;
    co_return co_await commit(std::span(&pointer, 1));
  }
  std::deque<WriteIntent> intents;
  std::vector<ExtentIntent*> pointers;
  for (uint64_t block = span.begin; block < span.end;) {
    const uint64_t extent_index = block / limits::kBlocksPerExtent;
    const uint64_t extent_end = (extent_index + 1) * limits::kBlocksPerExtent;
    const uint64_t count = std::min({blocks_per_intent, span.end - block, extent_end - block});
    intents.emplace_back(source, block, static_cast<uint32_t>(count), zero_state);
    pointers.push_back(&intents.back());
    block += count;
  }
  co_return co_await commit(pointers);
}

Task<Result<void>> Volume::commit(std::span<ExtentIntent*> intents) {
  while (true) {
    const LayerShape layer_shape = shape();
    size_t changes_count = 0;
    for (ExtentIntent* intent : intents) {
      intent->prepare(layer_shape, view_of(*intent));
      if (!intent->is_empty()) intents[changes_count++] = intent;
    }
    intents = intents.first(changes_count);
    if (intents.empty()) co_return co_await prove_tenure();
    Result<void> committed;
    if (intents.size() == 1) {
      committed = co_await commits_.commit(*intents.front());
    } else {
      committed = co_await commits_.commit({intents.begin(), intents.end()});
    }
    // Each intent has its own outcome: some of a large request's may have happened where others failed.
    size_t left_count = 0;
    const LayerSlot slot = chain_.map().slot_of(layer_shape.layer);
    for (ExtentIntent* intent : intents) {
      if (intent->is_committed()) {
        chain_.map().change_own(intent->extent_index(), intent->first(), intent->count(), intent->after(),
                                slot);
      } else {
        intents[left_count++] = intent;
      }
    }
    note_usage();
    if (committed || committed.error().code != Errc::conflict) co_return committed;
    // A snapshot was taken: what is left goes to the new top layer. The locks are held, so nothing else has
    // changed for it.
    intents = intents.first(left_count);
  }
}

void Volume::note_usage() {
  used_bytes_.store(chain_.map().data_blocks_count() << record_.block_shift, std::memory_order_relaxed);
}

Task<Result<void>> Volume::flush() {
  CO_RETURN_IF_ERROR(co_await prove_tenure());
  co_return co_await engine_.sync(executor_);
}

Task<Result<void>> Volume::trim(uint64_t offset_bytes, uint64_t length_bytes, block::WriteOptions options) {
  return clear(offset_bytes, length_bytes, BlockState::absent, Errc::invalid, options.fua);
}

Task<Result<void>> Volume::write_zeroes(uint64_t offset_bytes, uint64_t length_bytes,
                                        block::ZeroOptions options) {
  // Always fast: ranges are cleared, not written, so `fast_only` asks for nothing more.
  return clear(offset_bytes, length_bytes, options.no_hole ? BlockState::zero : BlockState::absent,
               Errc::past_end, options.fua);
}

Task<Result<void>> Volume::clear(uint64_t offset_bytes, uint64_t length_bytes, BlockState target,
                                 Errc past_end, bool fua) {
  CO_RETURN_IF_ERROR(check_inside(offset_bytes, length_bytes, past_end));
  {
    Semaphore::Slot slot(admission_);
    co_await slot.acquire();
    const BlockSpan span = span_of(offset_bytes, length_bytes);
    RangeLock::Guard lock(locks_, span.begin, span.end, RangeLock::Mode::exclusive);
    co_await lock.acquire();
    CO_RETURN_IF_ERROR(check_tenure());
    CO_RETURN_IF_ERROR(check_inside(offset_bytes, length_bytes, past_end));
    CO_RETURN_IF_ERROR(co_await clear_locked(offset_bytes, length_bytes, target));
  }
  if (fua) co_return co_await flush();
  co_return Result<void>{};
}

Task<Result<void>> Volume::clear_locked(uint64_t offset_bytes, uint64_t length_bytes, BlockState target) {
  const uint64_t end_bytes = offset_bytes + length_bytes;
  const uint64_t first_whole = round_up(offset_bytes, record_.block_bytes());
  // The volume's last block counts as whole where the range reaches the end: nothing lies behind it.
  const uint64_t end_whole = end_bytes == record_.size_bytes ? round_up(end_bytes, record_.block_bytes())
                                                             : round_down(end_bytes, record_.block_bytes());
  if (first_whole >= end_whole) {
    // No whole block, but maybe parts of two.
    const uint64_t middle = std::min(first_whole, end_bytes);
    if (offset_bytes < middle)
      CO_RETURN_IF_ERROR(co_await zero_part_locked(offset_bytes, middle - offset_bytes, target));
    if (middle < end_bytes) CO_RETURN_IF_ERROR(co_await zero_part_locked(middle, end_bytes - middle, target));
    co_return Result<void>{};
  }
  if (offset_bytes < first_whole)
    CO_RETURN_IF_ERROR(co_await zero_part_locked(offset_bytes, first_whole - offset_bytes, target));
  if (end_whole < end_bytes)
    CO_RETURN_IF_ERROR(co_await zero_part_locked(end_whole, end_bytes - end_whole, target));
  co_return co_await clear_blocks_locked(
      {first_whole >> record_.block_shift, end_whole >> record_.block_shift}, target);
}

Task<Result<void>> Volume::zero_part_locked(uint64_t offset_bytes, uint64_t length_bytes, BlockState target) {
  const uint64_t block = offset_bytes >> record_.block_shift;
  if (chain_.map().state(block) == BlockState::data) {
    const std::vector<std::byte> zeroes(length_bytes);
    co_return co_await write_locked(offset_bytes, zeroes, target);
  }
  // It reads as zero already, but a part of it must not be a hole any more.
  if (target == BlockState::zero) co_return co_await clear_blocks_locked({block, block + 1}, target);
  co_return co_await prove_tenure();
}

Task<Result<void>> Volume::clear_blocks_locked(BlockSpan span, BlockState target) {
  uint64_t next_block = span.begin;
  while (next_block < span.end) {
    // The next extents that need a change. Those without anything need one only to become allocated zeroes.
    std::vector<uint64_t> extents;
    const uint64_t begin_extent = next_block / limits::kBlocksPerExtent;
    const uint64_t end_extent = divide_up(span.end, limits::kBlocksPerExtent);
    if (target == BlockState::absent) {
      chain_.map().for_each_extent(begin_extent, end_extent, [&](uint64_t extent_index, const ExtentBits&) {
        extents.push_back(extent_index);
        return extents.size() < kExtentsPerStep;
      });
    } else {
      for (uint64_t extent = begin_extent; extent < end_extent && extents.size() < kExtentsPerStep;
           ++extent) {
        extents.push_back(extent);
      }
    }
    if (extents.empty()) co_return co_await prove_tenure();
    std::deque<ClearIntent> intents;
    std::vector<ExtentIntent*> pointers;
    for (const uint64_t extent_index : extents) {
      const uint64_t extent_begin = extent_index * limits::kBlocksPerExtent;
      const uint64_t from = std::max(span.begin, extent_begin);
      const uint64_t to = std::min(span.end, extent_begin + limits::kBlocksPerExtent);
      intents.emplace_back(extent_index, static_cast<uint32_t>(from - extent_begin),
                           static_cast<uint32_t>(to - from), target);
      pointers.push_back(&intents.back());
    }
    CO_RETURN_IF_ERROR(co_await commit(pointers));
    next_block = (extents.back() + 1) * limits::kBlocksPerExtent;
  }
  co_return Result<void>{};
}

Task<Result<void>> Volume::cache(uint64_t offset_bytes, uint64_t length_bytes) {
  // A hint; the engine's own caches fill as blocks are read.
  co_return check_inside(offset_bytes, length_bytes, Errc::invalid);
}

Task<Result<std::vector<block::StatusExtent>>> Volume::block_status(uint64_t offset_bytes,
                                                                    uint64_t length_bytes,
                                                                    uint32_t extents_limit) {
  CO_RETURN_IF_ERROR(check_inside(offset_bytes, length_bytes, Errc::invalid));
  if (!may_answer_reads()) {
    CO_RETURN_IF_ERROR(co_await check_lease());
    CO_RETURN_IF_ERROR(check_inside(offset_bytes, length_bytes, Errc::invalid));
  }
  co_return chain_.block_status(offset_bytes, length_bytes, extents_limit);
}

Task<Result<std::vector<block::FlaggedExtent>>> Volume::topic_status(block::StatusTopic topic,
                                                                     uint64_t offset_bytes,
                                                                     uint64_t length_bytes,
                                                                     uint32_t extents_limit) {
  CO_RETURN_IF_ERROR(check_inside(offset_bytes, length_bytes, Errc::invalid));
  if (topic.kind == block::StatusTopic::Kind::changed_since) {
    DiffPoints points{.volume = record_.id, .from = std::move(topic.snapshot), .to = std::nullopt};
    const DiffSpan span{.begin_bytes = offset_bytes, .end_bytes = offset_bytes + length_bytes};
    co_return co_await changed_status(engine_, executor_, keys_, std::move(points), span, extents_limit);
  }
  CO_RETURN_IF_ERROR(check_tenure());
  // A snapshot may have put another layer on top since the last write.
  const Result<void> refreshed = co_await fence_.refresh();
  CO_RETURN_IF_ERROR(check_tenure());
  CO_RETURN_IF_ERROR(refreshed);
  if (!may_answer_reads()) CO_RETURN_IF_ERROR(co_await check_lease());
  CO_RETURN_IF_ERROR(check_inside(offset_bytes, length_bytes, Errc::invalid));
  update_top();
  co_return chain_.depth_status(offset_bytes, length_bytes, extents_limit);
}

}  // namespace fdbnbd::volume
