#include "volume/layer_check.h"

#include <algorithm>
#include <bitset>
#include <optional>
#include <set>
#include <utility>

#include "kv/retry.h"
#include "volume/block_codec.h"
#include "volume/presence.h"
#include "volume/records.h"

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

void add_report(CheckReport& report, CheckReport part) {
  report.volumes_count += part.volumes_count;
  report.blocks_count += part.blocks_count;
  report.mended_count += part.mended_count;
  report.findings_count += part.findings_count - part.findings.size();  // those that the part has not kept
  for (CheckFinding& finding : part.findings) add_finding(report, std::move(finding));
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

namespace {

// What is wrong with one extent at one version, with its blocks counted.
Task<Result<CheckReport>> check_extent_in(kv::Transaction& transaction, LayerScan scan,
                                          const std::string& owner, uint64_t extent_index) {
  transaction.set_background();
  CheckReport report;
  const std::string layer_key = scan.keys.layer(scan.layer);
  auto record = co_await transaction.get(layer_key, kv::Isolation::snapshot);
  if (!record) co_return propagate(record);
  // Merged away or removed: it loses its blocks and bitmaps in another order.
  const auto decoded =
      record->has_value() ? LayerRecord::decode(**record) : Result<LayerRecord>(LayerRecord{});
  if (!record->has_value() || (decoded && decoded->state == LayerState::deleting)) co_return report;
  const std::string bitmap_key = scan.keys.bitmap(scan.layer, extent_index);
  auto bitmap = co_await transaction.get(bitmap_key, kv::Isolation::snapshot);
  if (!bitmap) co_return propagate(bitmap);
  VerifyingSink sink(uint32_t{1} << scan.block_shift);
  const uint64_t first_block = extent_index * limits::kBlocksPerExtent;
  std::string begin = scan.keys.block(scan.layer, scan.striping, first_block);
  const std::string end =
      key_after(scan.keys.block(scan.layer, scan.striping, first_block + limits::kBlocksPerExtent - 1));
  while (true) {
    auto page = co_await transaction.get_range({begin, end}, {}, kv::Isolation::snapshot);
    if (!page) co_return propagate(page);
    for (const kv::KeyValue& row : page->rows) sink.on_range_row(0, row.key, row.value);
    if (!page->more || page->rows.empty()) break;
    begin = key_after(page->rows.back().key);
  }
  if (!bitmap->has_value()) {
    compare(scan, owner, extent_index, nullptr, sink.rows, report);
  } else if (const auto bits = ExtentBits::decode(**bitmap)) {
    compare(scan, owner, extent_index, &*bits, sink.rows, report);
  } else {
    add_finding(report, {owner, first_block << scan.block_shift, 0, bits.error().what});
  }
  co_return report;
}

// Of extents where something looked wrong, what is: the findings are replaced, the blocks stay counted.
Task<Result<void>> look_again(LayerScan scan, const std::string& owner, std::set<uint64_t> extents,
                              CheckReport& part) {
  part.findings.clear();
  part.findings_count = 0;
  Random random(scan.layer.value);
  for (const uint64_t extent_index : extents) {
    auto body = [&](kv::Transaction& transaction) {
      return check_extent_in(transaction, scan, owner, extent_index);
    };
    auto exact = co_await kv::transact<CheckReport>(scan.engine, scan.executor, random, body);
    if (!exact) co_return propagate(exact);
    for (CheckFinding& finding : exact->findings) add_finding(part, std::move(finding));
  }
  co_return Result<void>{};
}

// What goes on beside it changes bitmaps and blocks together: where the bitmap is the same before and behind
// the blocks, they belong together. Somebody who writes can change it and change it back, though.
Task<Result<void>> check_layer(LayerScan scan, std::string owner, bool is_written, CheckReport& report,
                               Progress* progress) {
  const uint64_t blocks_before = report.blocks_count;
  uint64_t next_extent = 0;
  while (next_extent < kEndExtent) {
    if (progress != nullptr) {
      if (progress->cancelled()) co_return fail(Errc::cancelled, "stopped");
      const uint64_t done_bytes = (report.blocks_count - blocks_before) << scan.block_shift;
      progress->on_progress(done_bytes, 0);
    }
    ASSIGN_OR_CO_RETURN(const auto next, co_await next_bitmap(scan, next_extent));
    const uint64_t populated = next ? next->extent_index : kEndExtent;
    VerifyingSink gap_sink(uint32_t{1} << scan.block_shift);
    if (next_extent < populated)
      CO_RETURN_IF_ERROR(co_await scan_extents(scan, next_extent, populated, gap_sink));
    VerifyingSink sink(uint32_t{1} << scan.block_shift);
    if (next) CO_RETURN_IF_ERROR(co_await scan_extents(scan, populated, populated + 1, sink));
    ASSIGN_OR_CO_RETURN(const bool unchanged, co_await is_unchanged(scan, next_extent, next));
    if (!unchanged && !is_written) continue;
    CheckReport part;
    compare(scan, owner, next_extent, nullptr, gap_sink.rows, part);
    if (next) {
      const auto bits = ExtentBits::decode(next->value);
      if (bits) {
        compare(scan, owner, populated, &*bits, sink.rows, part);
      } else {
        add_finding(
            part, {owner, (populated * limits::kBlocksPerExtent) << scan.block_shift, 0, bits.error().what});
      }
    }
    if (is_written && part.findings_count > 0) {
      std::set<uint64_t> extents;
      for (const VerifyingSink::Row& row : gap_sink.rows)
        extents.insert(row.block / limits::kBlocksPerExtent);
      if (next) extents.insert(populated);
      CO_RETURN_IF_ERROR(co_await look_again(scan, owner, std::move(extents), part));
    }
    report.blocks_count += part.blocks_count;
    report.findings_count += part.findings_count - part.findings.size();  // those that the part has not kept
    for (CheckFinding& finding : part.findings) add_finding(report, std::move(finding));
    if (!next) break;
    next_extent = populated + 1;
  }
  co_return Result<void>{};
}

}  // namespace

Task<Result<uint64_t>> count_layer_blocks(LayerScan scan) {
  constexpr size_t kRowsAtOnce = 1000;
  std::string begin = scan.keys.bitmap(scan.layer, 0);
  const std::string end = scan.keys.layer_end('B', scan.layer);
  Random random(scan.layer.value);
  uint64_t blocks_count = 0;
  while (true) {
    auto body = [&](kv::Transaction& transaction) {
      transaction.set_background();
      return transaction.get_range({begin, end}, {.rows_limit = kRowsAtOnce}, kv::Isolation::snapshot);
    };
    auto page = co_await kv::transact<kv::RangeResult>(scan.engine, scan.executor, random, body);
    if (!page) co_return propagate(page);
    for (const kv::KeyValue& row : page->rows) {
      if (const auto bits = ExtentBits::decode(row.value)) blocks_count += bits->data_count();
    }
    if (!page->more || page->rows.empty()) co_return blocks_count;
    begin = key_after(page->rows.back().key);
  }
}

Task<Result<void>> check_frozen_layer(LayerScan scan, std::string owner, CheckReport& report,
                                      Progress* progress) {
  return check_layer(scan, std::move(owner), false, report, progress);
}

Task<Result<void>> check_written_layer(LayerScan scan, std::string owner, CheckReport& report,
                                       Progress* progress) {
  return check_layer(scan, std::move(owner), true, report, progress);
}

}  // namespace fdbnbd::volume
