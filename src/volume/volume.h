#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "async/range_lock.h"
#include "async/semaphore.h"
#include "block/export.h"
#include "kv/engine.h"
#include "volume/block_reader.h"
#include "volume/commit_queue.h"
#include "volume/fence.h"
#include "volume/intents.h"
#include "volume/keys.h"
#include "volume/presence.h"
#include "volume/records.h"
#include "volume/store.h"

namespace fdbnbd::volume {

// A volume that this process has open for writing: requests become range locks, bulk reads and commits
// (src/README.md, "The life of a request"). Lives on executor(); all of its data is that thread's, unless it
// says otherwise.
class Volume final : public block::Export {
 public:
  // What open() found out, and what the volume needs of its store.
  struct Environment {
    kv::Engine& engine;
    Executor& executor;
    const KeySpace& keys;
    Fence::Owner owner;
  };

  // Takes the volume over and loads its presence bitmaps. On the environment's executor, as everything below.
  static Task<Result<std::unique_ptr<Volume>>> open(Environment environment, std::string name,
                                                    VolumeRecord record);

  // No request may be in flight or come. Writes the usage record and gives the ownership up; a failure only
  // costs the next opener time, and is logged.
  Task<void> close();

  Executor& executor() override { return executor_; }
  block::ExportInfo info() const override;
  Task<Result<std::vector<block::ReadSegment>>> read(uint64_t offset_bytes, MutableByteView into) override;
  Task<Result<void>> write(uint64_t offset_bytes, ByteView data, block::WriteOptions options) override;
  Task<Result<void>> flush() override;
  Task<Result<void>> trim(uint64_t offset_bytes, uint64_t length_bytes, block::WriteOptions options) override;
  Task<Result<void>> write_zeroes(uint64_t offset_bytes, uint64_t length_bytes,
                                  block::ZeroOptions options) override;
  Task<Result<void>> cache(uint64_t offset_bytes, uint64_t length_bytes) override;
  Task<Result<std::vector<block::StatusExtent>>> block_status(uint64_t offset_bytes, uint64_t length_bytes,
                                                              uint32_t extents_limit) override;

  // Online; a shrink waits for the requests in the part that goes.
  Task<Result<void>> resize(uint64_t size_bytes);

  void set_name(std::string name) { name_ = std::move(name); }

  // Verifies every stored block against its checksum and the bitmaps against what is stored, beside requests.
  // Adds to `report`.
  Task<Result<void>> check(CheckReport& report, Progress* progress);

  // Bytes of keys and values that are stored for the volume's blocks.
  Task<Result<uint64_t>> measure_stored_bytes(Progress* progress);

  // Any thread.
  uint64_t used_bytes() const { return used_bytes_.load(std::memory_order_relaxed); }
  uint64_t size_bytes() const override { return size_bytes_.load(std::memory_order_relaxed); }

 private:
  // Blocks [begin, end).
  struct BlockSpan {
    uint64_t begin;
    uint64_t end;
  };

  Volume(Environment environment, std::string name, VolumeRecord record);

  Task<Result<void>> begin_tenure();
  Task<Result<void>> load_presence();

  // A metadata transaction in which `body(transaction, fence)` runs only while the volume is ours. Must be
  // idempotent.
  template <typename Body>
  Task<Result<void>> transact_as_owner(Body& body);
  template <typename Body>
  Task<Result<void>> run_as_owner(kv::Transaction& transaction, Body& body);
  Task<Result<void>> commit_record(const VolumeRecord& record);

  BlockSpan span_of(uint64_t offset_bytes, uint64_t length_bytes) const;
  Result<void> check_inside(uint64_t offset_bytes, uint64_t length_bytes, Errc past_end) const;
  LayerShape shape() const;
  uint64_t blocks_count() const;

  // The *_locked functions need the range lock on the blocks they touch.
  Task<Result<std::vector<block::ReadSegment>>> read_locked(uint64_t offset_bytes, MutableByteView into);
  Task<Result<std::vector<std::byte>>> read_block_locked(uint64_t block);
  // Blocks that end up all zero get `zero_state`: absent or zero.
  Task<Result<void>> write_locked(uint64_t offset_bytes, ByteView data, BlockState zero_state);
  Task<Result<void>> clear_locked(uint64_t offset_bytes, uint64_t length_bytes, BlockState target);
  // Whole blocks, in steps of limited size.
  Task<Result<void>> clear_blocks_locked(BlockSpan span, BlockState target);
  // Writes zeroes to a part of one block, where the block holds anything.
  Task<Result<void>> zero_part_locked(uint64_t offset_bytes, uint64_t length_bytes, BlockState target);

  Task<Result<void>> clear(uint64_t offset_bytes, uint64_t length_bytes, BlockState target, Errc past_end,
                           bool fua);
  // Commits the intents that have something to commit, then takes over their bits.
  Task<Result<void>> commit(std::vector<ExtentIntent*> intents);
  Task<Result<void>> scan_extents(uint64_t begin_extent, uint64_t end_extent, kv::RowSink& sink);
  Task<Result<void>> check_extents(uint64_t begin_extent, uint64_t end_extent, CheckReport& report);
  Task<Result<void>> check_gap(uint64_t begin_extent, uint64_t end_extent, CheckReport& report);
  Error unreadable(const BlockReader::Failure& failure) const;

  kv::Engine& engine_;
  Executor& executor_;
  const KeySpace& keys_;
  std::string name_;
  VolumeRecord record_;
  Fence fence_;
  CommitQueue commits_;
  RangeLock locks_;  // in blocks
  PresenceMap presence_;
  LayerId layer_;  // the top one, which is written
  Random random_;  // for back-off
  Semaphore admission_{limits::kMaxRequestsPerVolume};
  std::atomic<uint64_t> used_bytes_{0};  // written by the executor's thread
  std::atomic<uint64_t> size_bytes_{0};  // the same
};

// Counts the finding, and keeps it while there is room.
void add_finding(CheckReport& report, CheckFinding finding);

}  // namespace fdbnbd::volume
