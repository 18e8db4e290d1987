#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "base/random.h"
#include "block/export.h"
#include "kv/engine.h"
#include "volume/chain.h"
#include "volume/keys.h"
#include "volume/records.h"

namespace fdbnbd::volume {

// A volume as the store has it at each moment, whoever writes it: a disk that nobody can write, and that
// takes no ownership. Each request sees all that was acknowledged before it began, anywhere, and each aligned
// limits::kLiveViewPieceBytes of a read are of one instant. It follows resizes, snapshots, rollbacks and
// merges; not_found once the volume has been removed. Lives on executor(); all of its data is that thread's,
// unless it says otherwise.
class LiveView final : public block::Export {
 public:
  // `volume` is its record, of whatever time. `keys` outlives the view.
  LiveView(kv::Engine& engine, Executor& executor, const KeySpace& keys, std::string name,
           const VolumeRecord& volume);

  // Looks at the volume without reading anything of it: afterwards size_bytes() is no older than the call.
  Task<Result<void>> refresh();

  Executor& executor() override { return executor_; }
  block::ExportInfo info() const override;
  // As of the newest request that ended. Any thread.
  uint64_t size_bytes() const override { return size_bytes_.load(std::memory_order_relaxed); }
  Task<Result<std::vector<block::ReadSegment>>> read(uint64_t offset_bytes, MutableByteView into) override;
  Task<Result<void>> write(uint64_t offset_bytes, ByteView data, block::WriteOptions options) override;
  Task<Result<void>> flush() override;
  Task<Result<void>> trim(uint64_t offset_bytes, uint64_t length_bytes, block::WriteOptions options) override;
  Task<Result<void>> write_zeroes(uint64_t offset_bytes, uint64_t length_bytes,
                                  block::ZeroOptions options) override;
  Task<Result<void>> cache(uint64_t offset_bytes, uint64_t length_bytes) override;
  // Covers at most limits::kLiveViewStatusExtents extents of the volume.
  Task<Result<std::vector<block::StatusExtent>>> block_status(uint64_t offset_bytes, uint64_t length_bytes,
                                                              uint32_t extents_limit) override;

 private:
  // Bytes of the disk; may be empty.
  struct Range {
    uint64_t offset_bytes = 0;
    uint64_t length_bytes = 0;
  };
  // What the store says at one version.
  struct Records;

  // The map of the range's extents as of the transaction's version. invalid where the range is not inside the
  // volume at that version.
  Task<Result<ChainMap>> look(kv::Transaction& transaction, Range range);
  Task<Result<Records>> fetch(kv::Transaction& transaction, std::vector<LayerId> chain, Range range);
  Result<void> check_range(Range range, uint64_t size_bytes) const;
  // Whether `records` are those of all layers below the volume's top, and of no others.
  static bool is_complete(const Records& records);
  Result<ChainMap> map_of(const Records& records) const;
  void note_size(kv::Version version, uint64_t size_bytes);

  Task<Result<std::vector<block::ReadSegment>>> read_piece(uint64_t offset_bytes, MutableByteView into);
  Task<Result<std::vector<block::ReadSegment>>> read_in(kv::Transaction& transaction, uint64_t offset_bytes,
                                                        MutableByteView into);
  std::string display_name() const;

  kv::Engine& engine_;
  Executor& executor_;
  const KeySpace& keys_;
  const std::string name_;
  const VolumeId id_;
  const uint8_t block_shift_;
  const Striping striping_;
  Random random_;  // for back-off
  // The layers as they were seen last, the top first. Only a guess of what to ask for: each request reads
  // anew what says so.
  std::vector<LayerId> chain_;
  kv::Version newest_version_ = 0;       // that size_bytes_ is of
  std::atomic<uint64_t> size_bytes_{0};  // written by the executor's thread
};

}  // namespace fdbnbd::volume
