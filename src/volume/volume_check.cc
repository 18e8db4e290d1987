#include <fmt/core.h>

#include <bitset>
#include <utility>

#include "kv/retry.h"
#include "volume/block_codec.h"
#include "volume/volume.h"

// Reading all that is stored for a volume: `check` and `du`.

namespace fdbnbd::volume {

namespace {

// Verifies the rows of a part of a layer.
class VerifyingSink final : public kv::RowSink {
 public:
  explicit VerifyingSink(uint32_t block_bytes) : block_(block_bytes) {}

  struct Row {
    uint64_t block;
    std::string problem;  // empty: fine
  };

  std::vector<Row> rows;

  void on_range_row(size_t, std::string_view key, std::string_view value) override {
    const uint64_t block = KeySpace::block_of(key);
    const auto decoded = decode_block_value(value, block, block_);
    rows.push_back({block, decoded ? std::string() : decoded.error().what});
  }
  void on_unreadable_range_row(size_t, std::string_view key) override {
    rows.push_back({KeySpace::block_of(key), "the store cannot read it"});
  }
  void on_point_row(size_t, std::string_view) override {}
  void on_unreadable_point(size_t) override {}

 private:
  std::vector<std::byte> block_;
};

class CountingSink final : public kv::RowSink {
 public:
  uint64_t bytes_count = 0;

  void on_range_row(size_t, std::string_view key, std::string_view value) override {
    bytes_count += key.size() + value.size();
  }
  void on_unreadable_range_row(size_t, std::string_view key) override { bytes_count += key.size(); }
  void on_point_row(size_t, std::string_view) override {}
  void on_unreadable_point(size_t) override {}
};

Error cancelled() {
  return {Errc::cancelled, "stopped"};
}

}  // namespace

void add_finding(CheckReport& report, CheckFinding finding) {
  ++report.findings_count;
  if (report.findings.size() < kMaxCheckFindings) report.findings.push_back(std::move(finding));
}

// Reads the stored blocks of extents [begin, end), stripe by stripe.
Task<Result<void>> Volume::scan_extents(uint64_t begin_extent, uint64_t end_extent, kv::RowSink& sink) {
  const uint64_t first_block = begin_extent * limits::kBlocksPerExtent;
  const uint64_t end_block = end_extent * limits::kBlocksPerExtent;
  std::vector<std::string> bounds;
  if (end_extent - begin_extent == 1) {
    bounds.push_back(keys_.block(layer_, record_.striping, first_block));
    bounds.push_back(key_after(keys_.block(layer_, record_.striping, end_block - 1)));
  } else {
    for (uint32_t stripe = 0; stripe < record_.striping.stripes_count; ++stripe) {
      bounds.push_back(keys_.stripe_block(layer_, stripe, first_block));
      bounds.push_back(keys_.stripe_block(layer_, stripe, end_block));
    }
  }
  kv::BulkRead request;
  request.background = true;
  for (size_t i = 0; i < bounds.size(); i += 2) request.ranges.push_back({bounds[i], bounds[i + 1]});
  co_return co_await engine_.read(executor_, request, sink);
}

// One extent that has something, or a stretch of extents that should have nothing.
Task<Result<void>> Volume::check_extents(uint64_t begin_extent, uint64_t end_extent, CheckReport& report) {
  RangeLock::Guard lock(locks_, begin_extent * limits::kBlocksPerExtent,
                        end_extent * limits::kBlocksPerExtent, RangeLock::Mode::shared);
  co_await lock.acquire();
  VerifyingSink sink(record_.block_bytes());
  CO_RETURN_IF_ERROR(co_await scan_extents(begin_extent, end_extent, sink));
  // What another server has written since would look like damage.
  CO_RETURN_IF_ERROR(co_await check_lease());
  const auto found = [&](uint64_t block, std::string what) {
    add_finding(report, {name_, block << record_.block_shift, record_.block_bytes(), std::move(what)});
  };
  std::bitset<limits::kBlocksPerExtent> stored;
  for (VerifyingSink::Row& row : sink.rows) {
    ++report.blocks_count;
    if (!row.problem.empty()) {
      found(row.block, std::move(row.problem));
    } else if (presence_.state(row.block) != BlockState::data) {
      found(row.block, "stored, but the presence bitmap does not have it");
    } else if (row.block >= blocks_count()) {
      found(row.block, "stored behind the end of the volume");
    }
    stored.set(row.block % limits::kBlocksPerExtent);
  }
  if (end_extent - begin_extent > 1) co_return Result<void>{};

  const ExtentBits& bits = presence_.extent(begin_extent);
  for (uint32_t i = 0; i < limits::kBlocksPerExtent; ++i) {
    if (bits.state(i) == BlockState::data && !stored.test(i)) {
      found(begin_extent * limits::kBlocksPerExtent + i, "in the presence bitmap, but not stored");
    }
  }
  const std::string bitmap_key = keys_.bitmap(layer_, begin_extent);
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
  const uint64_t end_extent = ((UINT64_C(1) << 56) / limits::kBlocksPerExtent) - 1;  // what a key can name
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
    presence_.for_each_extent(next_extent, end_extent, [&](uint64_t extent_index, const ExtentBits&) {
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
  CO_RETURN_IF_ERROR(co_await scan_extents(begin_extent, end_extent, sink));
  if (sink.bytes_count == 0) co_return Result<void>{};
  // Something is there: either written meanwhile or wrong. The lock tells.
  co_return co_await check_extents(begin_extent, end_extent, report);
}

Task<Result<uint64_t>> Volume::measure_stored_bytes(Progress* progress) {
  const uint64_t total_bytes = used_bytes();
  CountingSink sink;
  uint64_t done_blocks = 0;
  uint64_t next_extent = 0;
  while (true) {
    if (progress != nullptr) {
      if (progress->cancelled()) co_return tl::unexpected(cancelled());
      progress->on_progress(done_blocks << record_.block_shift, total_bytes);
    }
    CO_RETURN_IF_ERROR(check_tenure());
    std::optional<uint64_t> populated;
    presence_.for_each_extent(next_extent, UINT64_MAX, [&](uint64_t extent_index, const ExtentBits& bits) {
      populated = extent_index;
      done_blocks += bits.data_count();
      return false;
    });
    if (!populated) co_return sink.bytes_count;
    CO_RETURN_IF_ERROR(co_await scan_extents(*populated, *populated + 1, sink));
    next_extent = *populated + 1;
  }
}

}  // namespace fdbnbd::volume
