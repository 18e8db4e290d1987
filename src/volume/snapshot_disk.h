#pragma once

#include <memory>
#include <string>

#include "block/export.h"
#include "volume/chain_reader.h"
#include "volume/keys.h"
#include "volume/records.h"

namespace fdbnbd::volume {

// A snapshot that is open: a disk that nobody can write, so it needs no ownership. Lives on executor(); all
// of its data is that thread's.
class SnapshotDisk final : public block::Export {
 public:
  // On `executor`. not_found where the snapshot has been removed meanwhile.
  static Task<Result<std::unique_ptr<SnapshotDisk>>> open(kv::Engine& engine, Executor& executor,
                                                          const KeySpace& keys, std::string name,
                                                          VolumeRecord volume, SnapshotRecord snapshot);

  Executor& executor() override { return executor_; }
  block::ExportInfo info() const override;
  uint64_t size_bytes() const override { return size_bytes_; }
  Task<Result<std::vector<block::ReadSegment>>> read(uint64_t offset_bytes, MutableByteView into) override;
  Task<Result<void>> write(uint64_t offset_bytes, ByteView data, block::WriteOptions options) override;
  Task<Result<void>> flush() override;
  Task<Result<void>> trim(uint64_t offset_bytes, uint64_t length_bytes, block::WriteOptions options) override;
  Task<Result<void>> write_zeroes(uint64_t offset_bytes, uint64_t length_bytes,
                                  block::ZeroOptions options) override;
  Task<Result<void>> cache(uint64_t offset_bytes, uint64_t length_bytes) override;
  Task<Result<std::vector<block::StatusExtent>>> block_status(uint64_t offset_bytes, uint64_t length_bytes,
                                                              uint32_t extents_limit) override;
  Task<Result<std::vector<block::FlaggedExtent>>> topic_status(block::StatusTopic topic,
                                                               uint64_t offset_bytes, uint64_t length_bytes,
                                                               uint32_t extents_limit) override;

  // Blocks that read as data. Constant.
  uint64_t data_blocks_count() const { return chain_.map().data_blocks_count(); }

 private:
  SnapshotDisk(kv::Engine& engine, Executor& executor, const KeySpace& keys, std::string name,
               const VolumeRecord& volume, const SnapshotRecord& snapshot);

  Result<void> check_inside(uint64_t offset_bytes, uint64_t length_bytes) const;

  kv::Engine& engine_;
  Executor& executor_;
  const KeySpace& keys_;
  const VolumeId volume_;
  const std::string name_;
  const std::string display_name_;
  const uint64_t size_bytes_;
  const uint32_t block_bytes_;
  ChainReader chain_;
};

}  // namespace fdbnbd::volume
