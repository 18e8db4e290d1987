#include "volume/layer_check.h"

#include <algorithm>
#include <bitset>
#include <optional>
#include <utility>

#include "kv/retry.h"
#include "volume/block_codec.h"
#include "volume/presence.h"

namespace fdbnbd::volume {

namespace {

struct Bitmap {
  uint64_t extent_index = 0;
  std::string value;
};

// The layer's first bitmap from `begin_extent` on.
Task<Result<std::optional<Bitmap>>> next_bitmap(const LayerScan& scan, uint64_t begin_extent) {
  const std::string begin = scan.keys.bitmap(scan.layer, begin_extent);
  const std::string end = scan.keys.layer_end('B', scan.layer);
  Random random(begin_extent);
  auto body = [&](kv::Transaction& transaction) {
    transaction.set_background();
    return transaction.get_range({begin, end}, {.rows_limit = 1}, kv::Isolation::snapshot);
  };
  auto page = co_await kv::transact<kv::RangeResult>(scan.engine, scan.executor, random, body);
  if (!page) co_return propagate(page);
  if (page->rows.empty()) co_return std::nullopt;
  const auto extent_index = scan.keys.extent_of_bitmap(page->rows.front().key);
  if (!extent_index) co_return fail(Errc::corruption, "a presence bitmap's key is damaged");
  co_return Bitmap{*extent_index, std::move(page->rows.front().value)};
}

// Compares extents [begin, end) with what was stored of them while their bitmaps did not change.
void compare(const LayerScan& scan, const std::string& owner, uint64_t begin_extent, const ExtentBits* bits,
             std::vector<VerifyingSink::Row>& rows, CheckReport& report) {
  const auto found = [&](uint64_t block, std::string what) {
    add_finding(report, {owner, block << scan.block_shift, uint64_t{1} << scan.block_shift, std::move(what)});
  };
  const uint64_t first_block = begin_extent * limits::kBlocksPerExtent;
  std::bitset<limits::kBlocksPerExtent> stored;
  for (VerifyingSink::Row& row : rows) {
    ++report.blocks_count;
    const bool is_expected =
        bits != nullptr && bits->state(static_cast<uint32_t>(row.block - first_block)) == BlockState::data;
    if (!row.problem.empty()) {
      found(row.block, std::move(row.problem));
    } else if (!is_expected) {
      found(row.block, "stored, but the presence bitmap does not have it");
    }
    if (bits != nullptr) stored.set(row.block - first_block);
  }
  if (bits == nullptr) return;
  for (uint32_t i = 0; i < limits::kBlocksPerExtent; ++i) {
    if (bits->state(i) == BlockState::data && !stored.test(i))
      found(first_block + i, "in the presence bitmap, but not stored");
  }
}

// Whether the bitmaps from `begin_extent` on are still as `next` says.
Task<Result<bool>> is_unchanged(const LayerScan& scan, uint64_t begin_extent,
                                const std::optional<Bitmap>& next) {
  ASSIGN_OR_CO_RETURN(const auto again, co_await next_bitmap(scan, begin_extent));
  if (again.has_value() != next.has_value()) co_return false;
  co_return !next || (again->extent_index == next->extent_index && again->value == next->value);
}

}  // namespace

void VerifyingSink::on_range_row(size_t, std::string_view key, std::string_view value) {
  const uint64_t block = KeySpace::block_of(key);
  const auto decoded = decode_block_value(value, block, block_);
  rows.push_back({block, decoded ? std::string() : decoded.error().what});
}

void VerifyingSink::on_unreadable_range_row(size_t, std::string_view key) {
  rows.push_back({KeySpace::block_of(key), "the store cannot read it"});
}

void add_finding(CheckReport& report, CheckFinding finding) {
  ++report.findings_count;
  if (report.findings.size() < kMaxCheckFindings) report.findings.push_back(std::move(finding));
}

Task<Result<void>> scan_extents(LayerScan scan, uint64_t begin_extent, uint64_t end_extent,
                                kv::RowSink& sink) {
  const uint64_t first_block = begin_extent * limits::kBlocksPerExtent;
  const uint64_t end_block = end_extent * limits::kBlocksPerExtent;
  std::vector<std::string> bounds;
  if (end_extent - begin_extent == 1) {
    bounds.push_back(scan.keys.block(scan.layer, scan.striping, first_block));
    bounds.push_back(key_after(scan.keys.block(scan.layer, scan.striping, end_block - 1)));
  } else {
    for (uint32_t stripe = 0; stripe < scan.striping.stripes_count; ++stripe) {
      bounds.push_back(scan.keys.stripe_block(scan.layer, stripe, first_block));
      bounds.push_back(scan.keys.stripe_block(scan.layer, stripe, end_block));
    }
  }
  kv::BulkRead request;
  request.background = true;
  for (size_t i = 0; i < bounds.size(); i += 2) request.ranges.push_back({bounds[i], bounds[i + 1]});
  co_return co_await scan.engine.read(scan.executor, request, sink);
}

Task<Result<std::vector<uint64_t>>> find_extents_without_bitmap(LayerScan scan) {
  std::vector<uint64_t> extents;
  uint64_t next_extent = 0;
  while (next_extent < kEndExtent) {
    ASSIGN_OR_CO_RETURN(const auto next, co_await next_bitmap(scan, next_extent));
    const uint64_t populated = next ? next->extent_index : kEndExtent;
    VerifyingSink sink(uint32_t{1} << scan.block_shift);
    if (next_extent < populated)
      CO_RETURN_IF_ERROR(co_await scan_extents(scan, next_extent, populated, sink));
    ASSIGN_OR_CO_RETURN(const bool unchanged, co_await is_unchanged(scan, next_extent, next));
    if (!unchanged) continue;
    for (const VerifyingSink::Row& row : sink.rows) {
      const uint64_t extent_index = row.block / limits::kBlocksPerExtent;
      if (extents.empty() || extents.back() != extent_index) extents.push_back(extent_index);
    }
    if (!next) break;
    next_extent = populated + 1;
  }
  std::ranges::sort(extents);  // stripes come one after the other
  extents.erase(std::unique(extents.begin(), extents.end()), extents.end());
  co_return extents;
}

// A merge that goes on beside it changes bitmaps and blocks together: where the bitmap is the same before and
// behind the blocks, they belong together.
Task<Result<void>> check_frozen_layer(LayerScan scan, std::string owner, CheckReport& report,
                                      Progress* progress) {
  uint64_t next_extent = 0;
  while (next_extent < kEndExtent) {
    if (progress != nullptr && progress->cancelled()) co_return fail(Errc::cancelled, "stopped");
    ASSIGN_OR_CO_RETURN(const auto next, co_await next_bitmap(scan, next_extent));
    const uint64_t populated = next ? next->extent_index : kEndExtent;
    VerifyingSink gap_sink(uint32_t{1} << scan.block_shift);
    if (next_extent < populated)
      CO_RETURN_IF_ERROR(co_await scan_extents(scan, next_extent, populated, gap_sink));
    VerifyingSink sink(uint32_t{1} << scan.block_shift);
    if (next) CO_RETURN_IF_ERROR(co_await scan_extents(scan, populated, populated + 1, sink));
    ASSIGN_OR_CO_RETURN(const bool unchanged, co_await is_unchanged(scan, next_extent, next));
    if (!unchanged) continue;
    compare(scan, owner, next_extent, nullptr, gap_sink.rows, report);
    if (!next) break;
    const auto bits = ExtentBits::decode(next->value);
    if (bits) {
      compare(scan, owner, populated, &*bits, sink.rows, report);
    } else {
      add_finding(report,
                  {owner, (populated * limits::kBlocksPerExtent) << scan.block_shift, 0, bits.error().what});
    }
    next_extent = populated + 1;
  }
  co_return Result<void>{};
}

}  // namespace fdbnbd::volume
