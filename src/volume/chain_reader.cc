#include "volume/chain_reader.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <ranges>
#include <set>
#include <utility>

#include "kv/retry.h"
#include "volume/chain_queries.h"
#include "volume/merge.h"

namespace fdbnbd::volume {

Task<Result<std::vector<ChainLayer>>> read_chain(kv::Transaction& transaction, const KeySpace& keys,
                                                 LayerId top) {
  std::vector<ChainLayer> chain;
  std::set<LayerId> seen;
  for (LayerId next = top; next.value != 0;) {
    if (!seen.insert(next).second) co_return fail(Errc::corruption, "its layers form a circle");
    const std::string key = keys.layer(next);
    auto value = co_await transaction.get(key, kv::Isolation::snapshot);
    if (!value) co_return propagate(value);
    if (!value->has_value()) {
      co_return fail(chain.empty() ? Errc::not_found : Errc::corruption,
                     fmt::format("the record of its layer {:016x} is missing", next.value));
    }
    ASSIGN_OR_CO_RETURN(const LayerRecord record, LayerRecord::decode(**value));
    chain.push_back({next, record});
    next = record.parent;
  }
  co_return chain;
}

ChainReader::ChainReader(kv::Engine& engine, Executor& executor, const KeySpace& keys, Shape shape,
                         ChainWriter writer)
    : engine_(engine), executor_(executor), keys_(keys), shape_(shape), writer_(std::move(writer)) {}

Task<Result<std::vector<ChainLayer>>> ChainReader::load_chain(LayerId top) {
  auto body = [&](kv::Transaction& transaction) { return read_chain(transaction, keys_, top); };
  auto chain = co_await kv::transact<std::vector<ChainLayer>>(engine_, executor_, random_, body);
  if (!chain) co_return propagate(chain);
  if (chain->front().record.state != LayerState::live) co_return fail(Errc::not_found, "it has been removed");
  for (const ChainLayer& layer : *chain) {
    if (layer.record.block_shift != shape_.block_shift ||
        layer.record.striping.stripes_count != shape_.striping.stripes_count) {
      co_return fail(Errc::corruption,
                     fmt::format("its layer {:016x} has another shape than it", layer.id.value));
    }
  }
  co_return chain;
}

Task<Result<void>> ChainReader::load(LayerId top) {
  ASSIGN_OR_CO_RETURN(const std::vector<ChainLayer> chain, co_await load_chain(top));
  top_ = top;
  has_parents_ = chain.size() > 1;
  // From the base up, which is the way that blocks move: one that moves meanwhile is found at least once.
  for (const ChainLayer& layer : std::views::reverse(chain))
    CO_RETURN_IF_ERROR(co_await load_layer(layer.id));
  // Had it been removed meanwhile, its own blocks could have moved to the layer above it.
  CO_RETURN_IF_ERROR(co_await load_chain(top));
  co_return Result<void>{};
}

Task<Result<void>> ChainReader::load_layer(LayerId layer) {
  const LayerSlot slot = map_.slot_of(layer);
  std::string begin = keys_.layer_begin('B', layer);
  const std::string end = keys_.layer_end('B', layer);
  while (true) {
    auto read_page = [&](kv::Transaction& transaction) {
      return transaction.get_range({begin, end}, {}, kv::Isolation::snapshot);
    };
    auto page = co_await kv::transact<kv::RangeResult>(engine_, executor_, random_, read_page);
    if (!page) co_return propagate(page);
    for (const kv::KeyValue& row : page->rows) {
      const auto extent_index = keys_.extent_of_bitmap(row.key);
      if (!extent_index) co_return fail(Errc::corruption, "a bitmap's key is damaged");
      const auto bits = ExtentBits::decode(row.value);
      if (!bits) {
        co_return fail(bits.error().code, fmt::format("extent {}: {}", *extent_index, bits.error().what));
      }
      map_.overlay(*extent_index, *bits, slot);
    }
    if (!page->more || page->rows.empty()) break;
    begin = key_after(page->rows.back().key);
  }
  co_return Result<void>{};
}

void ChainReader::push_top(LayerId top) {
  top_ = top;
  has_parents_ = true;
}

Task<Result<std::vector<block::ReadSegment>>> ChainReader::read(uint64_t offset_bytes, MutableByteView into,
                                                                const std::string& disk) {
  for (uint32_t look = 1;; ++look) {
    BlockReader reader(keys_, shape_.striping, uint32_t{1} << shape_.block_shift, offset_bytes, into);
    const uint64_t moves_before = map_.moves_count();
    std::vector<block::ReadSegment> segments =
        plan_read(map_, shape_.block_shift, offset_bytes, into.size(), reader);
    if (reader.empty()) co_return segments;
    ASSIGN_OR_CO_RETURN(const auto failure, co_await reader.run(engine_, executor_));
    if (!failure) co_return segments;
    bool moved = false;
    if (failure->is_missing && look < kMaxLooks) {
      const Result<void> found = co_await look_up_again(failure->block / limits::kBlocksPerExtent);
      if (!found) co_return fail(found.error().code, fmt::format("{}: {}", disk, found.error().what));
      // Another read may have looked it up first.
      moved = map_.moves_count() != moves_before;
    }
    if (!moved) {
      co_return fail(failure->error.code,
                     fmt::format("{}, offset {}: block {} cannot be read: {}", disk,
                                 failure->block << shape_.block_shift, failure->block, failure->error.what));
    }
  }
}

Task<Result<void>> ChainReader::read_stored(uint64_t first_block, const std::vector<uint32_t>& blocks,
                                            std::vector<std::optional<std::string>>& values,
                                            const std::string& disk) {
  for (uint32_t look = 1;; ++look) {
    const uint64_t moves_before = map_.moves_count();
    values.assign(blocks.size(), std::nullopt);
    if (blocks.empty()) co_return Result<void>{};
    std::vector<std::string> keys;
    keys.reserve(blocks.size());
    for (const uint32_t block : blocks) {
      const LayerSlot slot = map_.owner(first_block + block).value();
      keys.push_back(keys_.block(map_.layer(slot), shape_.striping, first_block + block));
    }
    kv::BulkRead request;
    request.points.assign(keys.begin(), keys.end());
    request.background = true;
    ValuesSink sink(values);
    CO_RETURN_IF_ERROR(co_await engine_.read(executor_, request, sink));
    const auto missing = std::ranges::find_if(values, [](const auto& value) { return !value.has_value(); });
    if (missing == values.end()) co_return Result<void>{};
    CO_RETURN_IF_ERROR(co_await look_up_again(first_block / limits::kBlocksPerExtent));
    if (map_.moves_count() == moves_before || look >= kMaxLooks) {
      const uint64_t block = first_block + blocks[static_cast<size_t>(missing - values.begin())];
      co_return fail(Errc::corruption, fmt::format("{}, offset {}: block {} cannot be read", disk,
                                                   block << shape_.block_shift, block));
    }
  }
}

Task<Result<void>> ChainReader::look_up_again(uint64_t extent_index) {
  auto body = [&](kv::Transaction& transaction) { return look_up_in(transaction, extent_index); };
  co_return co_await kv::transact<void>(engine_, executor_, random_, body);
}

Task<Result<LayerId>> ChainReader::find_top(kv::Transaction& transaction) {
  if (writer_.fence == nullptr) co_return top_;
  auto value = co_await transaction.get(writer_.fence_key, kv::Isolation::snapshot);
  if (!value) co_return propagate(value);
  if (!value->has_value()) co_return fail(Errc::fenced, "it has been removed");
  ASSIGN_OR_CO_RETURN(const FenceRecord record, FenceRecord::decode(**value));
  if (!record.same_tenure(writer_.fence->record()))
    co_return fail(Errc::fenced, "another server has taken it over");
  co_return record.top_layer;
}

Task<Result<void>> ChainReader::look_up_in(kv::Transaction& transaction, uint64_t extent_index) {
  const LayerId known_top = top_;
  auto top = co_await find_top(transaction);
  if (!top) co_return propagate(top);
  auto chain = co_await read_chain(transaction, keys_, *top);
  if (!chain) co_return propagate(chain);
  if (chain->front().record.state != LayerState::live) co_return fail(Errc::not_found, "it has been removed");
  ExtentBits found_bits;
  std::array<LayerSlot, ExtentBits::kBlocks> found_owners{};
  for (const ChainLayer& layer : std::views::reverse(*chain)) {
    const std::string key = keys_.bitmap(layer.id, extent_index);
    auto value = co_await transaction.get(key, kv::Isolation::snapshot);
    if (!value) co_return propagate(value);
    if (!value->has_value()) continue;
    ASSIGN_OR_CO_RETURN(const ExtentBits own, ExtentBits::decode(**value));
    const LayerSlot slot = map_.slot_of(layer.id);
    for (uint32_t i = 0; i < ExtentBits::kBlocks; ++i) {
      if (own.state(i) == BlockState::absent) continue;
      found_bits.set_state(i, own.state(i));
      found_owners[i] = slot;
    }
  }
  // What has been written since to a newer top layer would be given back to the layers below it.
  if (top_ != known_top) co_return fail(Errc::conflict, "a snapshot was taken meanwhile");
  // The map may have learned more since the transaction read: only what merging changes is taken over. Nobody
  // but this volume changes what its top layer holds, so the map knows best.
  const bool is_top_written = writer_.fence != nullptr;
  const LayerSlot top_slot = map_.slot_of(*top);
  const auto is_written = [&](LayerSlot slot) { return is_top_written && slot == top_slot; };
  const ExtentBits& bits = map_.extent(extent_index);
  for (uint32_t i = 0; i < ExtentBits::kBlocks; ++i) {
    const uint64_t block = extent_index * ExtentBits::kBlocks + i;
    const auto owner = map_.owner(block);
    if (!owner || *owner == found_owners[i] || bits.state(i) != found_bits.state(i)) continue;
    if (is_written(*owner) || is_written(found_owners[i])) continue;
    map_.set_owner(block, found_owners[i]);
  }
  co_return Result<void>{};
}

std::vector<block::FlaggedExtent> ChainReader::depth_status(uint64_t offset_bytes, uint64_t length_bytes,
                                                            uint32_t extents_limit) {
  const LayerSlot top = top_slot();
  const uint64_t end_bytes = offset_bytes + length_bytes;
  const uint64_t end_block = ((end_bytes - 1) >> shape_.block_shift) + 1;
  std::vector<block::FlaggedExtent> extents;
  const auto add = [&](uint64_t first_block, uint64_t blocks_count, uint32_t depth) {
    const uint64_t from = std::max(first_block << shape_.block_shift, offset_bytes);
    const uint64_t to = std::min((first_block + blocks_count) << shape_.block_shift, end_bytes);
    if (extents.empty() || extents.back().flags != depth) {
      if (extents.size() >= extents_limit) return false;
      extents.push_back({0, depth});
    }
    extents.back().length_bytes += to - from;
    return true;
  };
  map_.for_each_run(offset_bytes >> shape_.block_shift, end_block, [&](const ChainRun& run) {
    if (run.state == BlockState::absent) return add(run.first_block, run.blocks_count, 0);
    if (run.state == BlockState::data) return add(run.first_block, run.blocks_count, run.slot == top ? 1 : 2);
    for (uint64_t block = run.first_block; block < run.first_block + run.blocks_count; ++block) {
      if (!add(block, 1, map_.owner(block) == top ? 1 : 2)) return false;
    }
    return true;
  });
  return extents;
}

}  // namespace fdbnbd::volume
