#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "async/task.h"
#include "base/result.h"
#include "kv/engine.h"
#include "volume/keys.h"
#include "volume/store.h"

// Reading all that one layer stores, for `check`.

namespace fdbnbd::volume {

// Which layer, and how to get at it. The references outlive what is done with it.
struct LayerScan {
  kv::Engine& engine;
  Executor& executor;
  const KeySpace& keys;
  LayerId layer;
  uint8_t block_shift = 0;
  Striping striping;
};

// Verifies the rows that it is given.
class VerifyingSink final : public kv::RowSink {
 public:
  explicit VerifyingSink(uint32_t block_bytes) : block_(block_bytes) {}

  struct Row {
    uint64_t block;
    std::string problem;  // empty: fine
  };
  std::vector<Row> rows;

  void on_range_row(size_t range_index, std::string_view key, std::string_view value) override;
  void on_unreadable_range_row(size_t range_index, std::string_view key) override;
  void on_point_row(size_t, std::string_view) override {}
  void on_unreadable_point(size_t) override {}

 private:
  std::vector<std::byte> block_;
};

// Adds keys and values up.
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

// Reads the blocks of extents [begin_extent, end_extent), stripe by stripe, as background work.
Task<Result<void>> scan_extents(LayerScan scan, uint64_t begin_extent, uint64_t end_extent,
                                kv::RowSink& sink);

// Extents that have blocks but no bitmap, in order. For layers that nobody writes, or whose writer's changes
// do not matter.
Task<Result<std::vector<uint64_t>>> find_extents_without_bitmap(LayerScan scan);

// Compares what a layer stores with its bitmaps and verifies it. For layers that nobody writes; they may be
// merged away meanwhile. Findings name `owner`. `progress` hears of the layer's bytes.
Task<Result<void>> check_frozen_layer(LayerScan scan, std::string owner, CheckReport& report,
                                      Progress* progress);

// The same for a layer that another server may write meanwhile: what looks wrong counts where it is wrong at
// one version. In a store that several share.
Task<Result<void>> check_written_layer(LayerScan scan, std::string owner, CheckReport& report,
                                       Progress* progress);

// How many blocks the layer has, by its bitmaps; those that are damaged have none.
Task<Result<uint64_t>> count_layer_blocks(LayerScan scan);

// Counts the finding, and keeps it while there is room.
void add_finding(CheckReport& report, CheckFinding finding);
// What another part of the check has read and found.
void add_report(CheckReport& report, CheckReport part);

// What a key can name lies below.
inline constexpr uint64_t kEndExtent = ((UINT64_C(1) << 56) / limits::kBlocksPerExtent) - 1;

}  // namespace fdbnbd::volume
