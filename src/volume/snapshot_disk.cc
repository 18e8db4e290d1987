#include "volume/snapshot_disk.h"

#include <fmt/core.h>

#include <utility>

#include "base/checked_math.h"
#include "base/limits.h"
#include "volume/diff.h"

namespace fdbnbd::volume {

namespace {

tl::unexpected<Error> read_only() {
  return fail(Errc::read_only, "a snapshot cannot be written");
}

}  // namespace

SnapshotDisk::SnapshotDisk(kv::Engine& engine, Executor& executor, const KeySpace& keys, std::string name,
                           const VolumeRecord& volume, const SnapshotRecord& snapshot)
    : engine_(engine),
      executor_(executor),
      keys_(keys),
      volume_(volume.id),
      name_(std::move(name)),
      display_name_(fmt::format("snapshot \"{}\"", name_)),
      size_bytes_(snapshot.size_bytes),
      block_bytes_(volume.block_bytes()),
      chain_(engine, executor, keys, {volume.block_shift, volume.striping}) {}

Task<Result<std::unique_ptr<SnapshotDisk>>> SnapshotDisk::open(kv::Engine& engine, Executor& executor,
                                                               const KeySpace& keys, std::string name,
                                                               VolumeRecord volume, SnapshotRecord snapshot) {
  std::unique_ptr<SnapshotDisk> disk(
      new SnapshotDisk(engine, executor, keys, std::move(name), volume, snapshot));
  auto loaded = co_await disk->chain_.load(snapshot.layer);
  if (!loaded) {
    co_return fail(loaded.error().code, fmt::format("{}: {}", disk->display_name_, loaded.error().what));
  }
  co_return disk;
}

Result<void> SnapshotDisk::check_inside(uint64_t offset_bytes, uint64_t length_bytes) const {
  if (length_bytes > 0 && range_fits(offset_bytes, length_bytes, size_bytes_)) return {};
  return fail(Errc::invalid, fmt::format("{} bytes at {} are not inside {} of {} bytes", length_bytes,
                                         offset_bytes, display_name_, size_bytes_));
}

block::ExportInfo SnapshotDisk::info() const {
  block::ExportInfo info;
  info.name = name_;
  info.size_bytes = size_bytes_;
  info.preferred_block_bytes = block_bytes_;
  info.max_payload_bytes = limits::kMaxPayloadBytes;
  info.read_only = true;
  info.has_depth = true;
  return info;
}

Task<Result<std::vector<block::ReadSegment>>> SnapshotDisk::read(uint64_t offset_bytes,
                                                                 MutableByteView into) {
  CO_RETURN_IF_ERROR(check_inside(offset_bytes, into.size()));
  co_return co_await chain_.read(offset_bytes, into, display_name_);
}

Task<Result<void>> SnapshotDisk::write(uint64_t /*offset_bytes*/, ByteView /*data*/,
                                       block::WriteOptions /*options*/) {
  co_return read_only();
}

Task<Result<void>> SnapshotDisk::flush() {
  co_return Result<void>{};
}

Task<Result<void>> SnapshotDisk::trim(uint64_t /*offset_bytes*/, uint64_t /*length_bytes*/,
                                      block::WriteOptions /*options*/) {
  co_return read_only();
}

Task<Result<void>> SnapshotDisk::write_zeroes(uint64_t /*offset_bytes*/, uint64_t /*length_bytes*/,
                                              block::ZeroOptions /*options*/) {
  co_return read_only();
}

Task<Result<void>> SnapshotDisk::cache(uint64_t offset_bytes, uint64_t length_bytes) {
  co_return check_inside(offset_bytes, length_bytes);
}

Task<Result<std::vector<block::StatusExtent>>> SnapshotDisk::block_status(uint64_t offset_bytes,
                                                                          uint64_t length_bytes,
                                                                          uint32_t extents_limit) {
  CO_RETURN_IF_ERROR(check_inside(offset_bytes, length_bytes));
  co_return chain_.block_status(offset_bytes, length_bytes, extents_limit);
}

Task<Result<std::vector<block::FlaggedExtent>>> SnapshotDisk::topic_status(block::StatusTopic topic,
                                                                           uint64_t offset_bytes,
                                                                           uint64_t length_bytes,
                                                                           uint32_t extents_limit) {
  CO_RETURN_IF_ERROR(check_inside(offset_bytes, length_bytes));
  if (topic.kind == block::StatusTopic::Kind::depth)
    co_return chain_.depth_status(offset_bytes, length_bytes, extents_limit);
  DiffPoints points{
      .volume = volume_, .from = std::move(topic.snapshot), .to = name_.substr(name_.find('@') + 1)};
  const DiffSpan span{.begin_bytes = offset_bytes, .end_bytes = offset_bytes + length_bytes};
  co_return co_await changed_status(engine_, executor_, keys_, std::move(points), span, extents_limit);
}

}  // namespace fdbnbd::volume
