#include <fmt/core.h>

#include <algorithm>
#include <bitset>
#include <utility>

#include "base/checked_math.h"
#include "kv/retry.h"
#include "volume/layer_check.h"
#include "volume/volume.h"

// Reading all that is stored for a volume: `check` and `du`.

namespace fdbnbd::volume {

namespace {

Error cancelled() {
  return {Errc::cancelled, "stopped"};
}

}  // namespace

LayerScan Volume::scan_of(LayerId layer) {
  return {.engine = engine_,
          .executor = executor_,
          .keys = keys_,
          .layer = layer,
          .block_shift = record_.block_shift,
          .striping = record_.striping};
}

// One extent that has something, or a stretch of extents that should have nothing.
Task<Result<void>> Volume::check_extents(uint64_t begin_extent, uint64_t end_extent, CheckReport& report) {
  const LayerId top = update_top();
  CheckReport part;
  CO_RETURN_IF_ERROR(co_await check_extents_of(top, begin_extent, end_extent, part));
  // Where a snapshot came between, the layer is not this volume's alone any more.
  if (update_top() != top) co_return Result<void>{};
  add_report(report, std::move(part));
  co_return Result<void>{};
}

Task<Result<void>> Volume::check_extents_of(LayerId top, uint64_t begin_extent, uint64_t end_extent,
                                            CheckReport& report) {
  RangeLock::Guard lock(locks_, begin_extent * limits::kBlocksPerExtent,
                        end_extent * limits::kBlocksPerExtent, RangeLock::Mode::shared);
  co_await lock.acquire();
  VerifyingSink sink(record_.block_bytes());
  CO_RETURN_IF_ERROR(co_await scan_extents(scan_of(top), begin_extent, end_extent, sink));
  // What another server has written since would look like damage.
  CO_RETURN_IF_ERROR(co_await check_lease());
  const auto found = [&](uint64_t block, std::string what) {
    add_finding(report, {name_, block << record_.block_shift, record_.block_bytes(), std::move(what)});
  };
  const LayerSlot slot = chain_.map().slot_of(top);
  const auto is_own_data = [&](uint64_t block) {
    return chain_.map().state(block) == BlockState::data && chain_.map().owner(block) == slot;
  };
  // What a shrink has yet to clear may be there.
  const uint64_t end_block =
      divide_up(std::max(record_.size_bytes, record_.stale_end_bytes), record_.block_bytes());
  std::bitset<limits::kBlocksPerExtent> stored;
  for (VerifyingSink::Row& row : sink.rows) {
    ++report.blocks_count;
    if (!row.problem.empty()) {
      found(row.block, std::move(row.problem));
    } else if (!is_own_data(row.block)) {
      found(row.block, "stored, but the presence bitmap does not have it");
    } else if (row.block >= end_block) {
      found(row.block, "stored behind the end of the volume");
    }
    stored.set(row.block % limits::kBlocksPerExtent);
  }
  if (end_extent - begin_extent > 1) co_return Result<void>{};

  const ExtentBits bits = chain_.map().own_states(begin_extent, slot, 0, limits::kBlocksPerExtent);
  for (uint32_t i = 0; i < limits::kBlocksPerExtent; ++i) {
    if (bits.state(i) == BlockState::data && !stored.test(i)) {
      found(begin_extent * limits::kBlocksPerExtent + i, "in the presence bitmap, but not stored");
    }
  }
  const std::string bitmap_key = keys_.bitmap(top, begin_extent);
  auto read_bitmap = [&](kv::Transaction& transaction) {
    transaction.set_background();
    return transaction.get(bitmap_key, kv::Isolation::snapshot);
  };
  auto value = co_await kv::transact<std::optional<std::string>>(engine_, executor_, random_, read_bitmap);
  if (!value) co_return propagate(value);
  const auto stored_bits =
      value->has_value() ? ExtentBits::decode(**value) : Result<ExtentBits>(ExtentBits{});
  if (!stored_bits || *stored_bits != bits) {
    found(begin_extent * limits::kBlocksPerExtent, "the stored presence bitmap differs from the one in use");
  }
  co_return Result<void>{};
}

Task<Result<void>> Volume::check(CheckReport& report, Progress* progress) {
  const uint64_t end_extent = kEndExtent;
  // A snapshot may have put another layer on top since the last write.
  CO_RETURN_IF_ERROR(co_await fence_.refresh());
  const uint64_t total_bytes = used_bytes();
  const uint64_t blocks_before = report.blocks_count;
  ++report.volumes_count;
  uint64_t next_extent = 0;
  while (next_extent < end_extent) {
    if (progress != nullptr) {
      if (progress->cancelled()) co_return tl::unexpected(cancelled());
      progress->on_progress((report.blocks_count - blocks_before) << record_.block_shift, total_bytes);
    }
    uint64_t populated = end_extent;
    chain_.map().for_each_extent(next_extent, end_extent, [&](uint64_t extent_index, const ExtentBits&) {
      populated = extent_index;
      return false;
    });
    if (next_extent < populated) CO_RETURN_IF_ERROR(co_await check_gap(next_extent, populated, report));
    if (populated == end_extent) break;
    CO_RETURN_IF_ERROR(co_await check_extents(populated, populated + 1, report));
    next_extent = populated + 1;
  }
  co_return Result<void>{};
}

// Extents that had nothing when the check came by: whatever is stored there and still not in the bitmap is an
// orphan.
Task<Result<void>> Volume::check_gap(uint64_t begin_extent, uint64_t end_extent, CheckReport& report) {
  CountingSink sink;
  CO_RETURN_IF_ERROR(co_await scan_extents(scan_of(update_top()), begin_extent, end_extent, sink));
  if (sink.bytes_count == 0) co_return Result<void>{};
  // Something is there: either written meanwhile or wrong. The lock tells.
  co_return co_await check_extents(begin_extent, end_extent, report);
}

}  // namespace fdbnbd::volume
