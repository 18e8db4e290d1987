#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "async/task.h"
#include "base/bytes.h"
#include "base/function.h"
#include "base/result.h"
#include "kv/engine.h"
#include "volume/block_codec.h"
#include "volume/keys.h"

namespace fdbnbd::volume {

// One bulk read of stored blocks: turns runs of blocks into keys, and the rows that come back
// into verified, unpacked bytes at their place. Used once, in the frame of the coroutine that awaits run().
class BlockReader final : private kv::RowSink {
 public:
  struct Failure {
    uint64_t block = 0;
    Error error;
    bool is_missing = false;  // the store has no such row
  };

  // The byte range [offset, offset + into.size()) of the volume is read into `into`; blocks that stick out
  // are cut.
  BlockReader(const KeySpace& keys, Striping striping, uint32_t block_bytes, uint64_t offset_bytes,
              MutableByteView into);

  // Asks for blocks that are known to be stored in `layer`. A run does not cross an extent.
  void add_run(LayerId layer, uint64_t first_block, uint64_t blocks_count);

  bool empty() const { return expected_count_ == 0; }

  // The lowest block that could not be read, if any: unreadable, not matching its checksum, or not there.
  Task<Result<std::optional<Failure>>> run(kv::Engine& engine, Executor& executor);

  // The same with rows from somewhere else. Ranges are cut to `range_bytes` of rows (0: no bound).
  using Source = FunctionRef<Task<Result<void>>(const kv::BulkRead&, kv::RowSink&)>;
  Task<Result<std::optional<Failure>>> run(uint64_t range_bytes, Source source);

 private:
  // A single block is asked for by its key; from here on a range is cheaper.
  static constexpr uint64_t kRangeFromBlocks = 4;
  // Of a row besides its key and the block: the trailer of the value, and what FoundationDB counts for a row.
  static constexpr uint64_t kRowOverheadBytes = kBlockTrailerBytes + 24;

  void on_range_row(size_t range_index, std::string_view key, std::string_view value) override;
  void on_point_row(size_t point_index, std::string_view value) override;
  void on_unreadable_range_row(size_t range_index, std::string_view key) override;
  void on_unreadable_point(size_t point_index) override;

  // Cuts ranges so that each has at most `range_bytes` of rows (0: no bound).
  void cut_ranges(uint64_t range_bytes);
  void deliver(uint64_t block, std::string_view value);
  void fail_block(uint64_t block, Error error, bool is_missing = false);
  std::optional<uint64_t> first_missing_block() const;

  struct Point {
    LayerId layer;
    uint64_t block;
  };
  struct Run {
    LayerId layer;
    uint64_t first_block;
    uint64_t blocks_count;
  };

  const KeySpace& keys_;
  const Striping striping_;
  const uint32_t block_bytes_;
  const uint64_t offset_bytes_;
  const MutableByteView into_;
  std::vector<Run> ranges_;
  std::vector<Point> points_;
  uint64_t expected_count_ = 0;

  // Written by the engine's thread during run().
  uint64_t delivered_count_ = 0;
  std::vector<uint64_t> delivered_blocks_;
  std::optional<Failure> failure_;
  std::vector<std::byte> scratch_;
};

}  // namespace fdbnbd::volume
