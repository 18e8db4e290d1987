#include "volume/block_reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "volume/block_codec.h"

namespace fdbnbd::volume {

BlockReader::BlockReader(const KeySpace& keys, Striping striping, uint32_t block_bytes, uint64_t offset_bytes,
                         MutableByteView into)
    : keys_(keys), striping_(striping), block_bytes_(block_bytes), offset_bytes_(offset_bytes), into_(into) {}

void BlockReader::add_run(LayerId layer, uint64_t first_block, uint64_t blocks_count) {
  expected_count_ += blocks_count;
  if (blocks_count >= kRangeFromBlocks) {
    ranges_.push_back({layer, first_block, blocks_count});
    return;
  }
  for (uint64_t i = 0; i < blocks_count; ++i) points_.push_back({layer, first_block + i});
}

void BlockReader::cut_ranges(uint64_t range_bytes) {
  if (range_bytes == 0) return;
  const uint64_t row_bytes = keys_.block_key_bytes() + block_bytes_ + kRowOverheadBytes;
  const uint64_t blocks_limit = std::max<uint64_t>(range_bytes / row_bytes, 1);
  for (const Run& run : std::exchange(ranges_, {})) {
    for (uint64_t done = 0; done < run.blocks_count; done += blocks_limit) {
      const uint64_t count = std::min(blocks_limit, run.blocks_count - done);
      if (count == 1) {
        points_.push_back({run.layer, run.first_block + done});
      } else {
        ranges_.push_back({run.layer, run.first_block + done, count});
      }
    }
  }
}

Task<Result<std::optional<BlockReader::Failure>>> BlockReader::run(kv::Engine& engine, Executor& executor) {
  const auto read = [&](const kv::BulkRead& request, kv::RowSink& sink) {
    return engine.read(executor, request, sink);
  };
  co_return co_await run(engine.capabilities().range_reply_bytes, read);
}

Task<Result<std::optional<BlockReader::Failure>>> BlockReader::run(uint64_t range_bytes, Source source) {
  cut_ranges(range_bytes);
  const size_t key_bytes = keys_.block_key_bytes();
  std::string arena;
  arena.reserve((points_.size() + 2 * ranges_.size()) * key_bytes);
  for (const Point& point : points_) keys_.append_block(arena, point.layer, striping_, point.block);
  for (const Run& run : ranges_) {
    // A run stays inside its extent, so its end has the stripe of its last block.
    keys_.append_block(arena, run.layer, striping_, run.first_block);
    keys_.append_block(arena, run.layer, striping_, run.first_block + run.blocks_count - 1);
  }
  kv::BulkRead request;
  std::string_view rest = arena;
  const auto next_key = [&] {
    const std::string_view key = rest.substr(0, key_bytes);
    rest.remove_prefix(key_bytes);
    return key;
  };
  // A range ends behind its last key: that key with a zero byte after it.
  std::vector<std::string> ends;
  ends.reserve(ranges_.size());
  for (size_t i = 0; i < points_.size(); ++i) request.points.push_back(next_key());
  for (size_t i = 0; i < ranges_.size(); ++i) {
    const std::string_view begin = next_key();
    ends.push_back(key_after(next_key()));
    request.ranges.push_back({begin, ends.back()});
  }
  delivered_blocks_.reserve(expected_count_);
  auto result = co_await source(request, *this);
  if (!result) co_return propagate(result);
  if (delivered_count_ != expected_count_) {
    if (const auto missing = first_missing_block())
      fail_block(*missing, {Errc::corruption, "it is not in the store"}, true);
  }
  co_return std::move(failure_);
}

void BlockReader::on_range_row(size_t range_index, std::string_view key, std::string_view value) {
  const uint64_t block = KeySpace::block_of(key);
  const Run& run = ranges_[range_index];
  if (block < run.first_block || block - run.first_block >= run.blocks_count) return;
  deliver(block, value);
}

void BlockReader::on_point_row(size_t point_index, std::string_view value) {
  deliver(points_[point_index].block, value);
}

void BlockReader::on_unreadable_range_row(size_t, std::string_view key) {
  const uint64_t block = KeySpace::block_of(key);
  ++delivered_count_;
  delivered_blocks_.push_back(block);
  fail_block(block, {Errc::corruption, "the store cannot read it"});
}

void BlockReader::on_unreadable_point(size_t point_index) {
  ++delivered_count_;
  delivered_blocks_.push_back(points_[point_index].block);
  fail_block(points_[point_index].block, {Errc::corruption, "the store cannot read it"});
}

void BlockReader::deliver(uint64_t block, std::string_view value) {
  ++delivered_count_;
  delivered_blocks_.push_back(block);
  const uint64_t block_offset = block * block_bytes_;
  const uint64_t end = offset_bytes_ + into_.size();
  const uint64_t from = std::max(block_offset, offset_bytes_);
  const uint64_t to = std::min(block_offset + block_bytes_, end);
  ASSERT(from < to);
  const MutableByteView target = into_.subspan(from - offset_bytes_, to - from);
  if (target.size() == block_bytes_) {
    if (auto decoded = decode_block_value(value, block, target); !decoded)
      fail_block(block, std::move(decoded.error()));
    return;
  }
  scratch_.resize(block_bytes_);
  if (auto decoded = decode_block_value(value, block, scratch_); !decoded) {
    fail_block(block, std::move(decoded.error()));
    return;
  }
  std::memcpy(target.data(), scratch_.data() + (from - block_offset), target.size());
}

void BlockReader::fail_block(uint64_t block, Error error, bool is_missing) {
  if (!failure_ || block < failure_->block) failure_ = Failure{block, std::move(error), is_missing};
}

std::optional<uint64_t> BlockReader::first_missing_block() const {
  std::vector<uint64_t> delivered = delivered_blocks_;
  std::ranges::sort(delivered);
  const auto is_missing = [&](uint64_t block) { return !std::ranges::binary_search(delivered, block); };
  std::optional<uint64_t> missing;
  const auto consider = [&](uint64_t block) {
    if (is_missing(block) && (!missing || block < *missing)) missing = block;
  };
  for (const Point& point : points_) consider(point.block);
  for (const Run& run : ranges_) {
    for (uint64_t i = 0; i < run.blocks_count; ++i) consider(run.first_block + i);
  }
  return missing;
}

}  // namespace fdbnbd::volume
