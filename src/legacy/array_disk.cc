#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "base/endian.h"
#include "base/limits.h"
#include "legacy/directory.h"
#include "legacy/disk.h"
#include "legacy/rows.h"
#include "legacy/tuple.h"

// spullara/nbd: a directory ("com.sampullara.fdb.array", NAME) with two more in it. In "data" (BLOCK,
// MILLISECONDS) is the version of a block that was written at that time; the newest one counts. In "metadata"
// are the size of a block, of the disk, and, of a snapshot, the path of the disk that it was taken of and the
// time: blocks that it has not itself are those of that disk at that time.
//
// The server takes offsets for signed 32-bit numbers. A request at 2 GiB works on block -2^31 / block size,
// and one at 4 GiB on block 0; only what of a request lies behind its first block counts on from there, so
// that a request across 2 GiB goes on with positive blocks. Here a disk is what the server shows: first the
// blocks that requests in a stretch lead to, and where there are none, those that requests from before 2 GiB
// have reached.

namespace fdbnbd::legacy {

namespace {

constexpr const char* kArraysDirectory = "com.sampullara.fdb.array";
constexpr uint64_t kHalfRangeBytes = 1ULL << 31;  // of the numbers that offsets are taken for
constexpr uint64_t kRangeBytes = 1ULL << 32;
// A server renews its lease every 30 s and takes one of this age for abandoned.
constexpr auto kLeaseTime = std::chrono::minutes(1);

using Path = std::vector<std::string>;

// What is in the directory "metadata" of one disk.
struct Metadata {
  uint64_t block_bytes = 0;
  std::optional<uint64_t> size_bytes;
  std::optional<int64_t> lease_ms;
  std::optional<Path> parent;
  int64_t parent_ms = 0;
};

std::string text_key(std::string_view prefix, std::string_view name) {
  std::string key(prefix);
  append_text(key, name);
  return key;
}

std::string bytes_key(std::string_view prefix, std::string_view name) {
  std::string key(prefix);
  append_bytes(key, name);
  return key;
}

template <typename T>
Result<T> parse_be(const std::string& value, std::string_view what) {
  if (value.size() == sizeof(T)) return load_be<T>(value.data());
  return fail(Errc::corruption,
              fmt::format("its {} has {} bytes instead of {}", what, value.size(), sizeof(T)));
}

Result<Path> parse_path(const std::string& packed) {
  Path path;
  TupleReader tuple(packed);
  while (!tuple.at_end()) {
    auto name = tuple.string();
    if (!name) return fail(Errc::corruption, "the path of its parent is damaged");
    path.push_back(std::move(*name));
  }
  if (path.empty()) return fail(Errc::corruption, "the path of its parent is empty");
  return path;
}

Task<Result<Metadata>> read_metadata(kv::Engine& engine, Executor& executor, std::string prefix) {
  // The server's own code sets the names of these as text, ...
  const std::string block_size_key = text_key(prefix, "block_size");
  const std::string parent_key = text_key(prefix, "parent");
  const std::string parent_time_key = text_key(prefix, "parent_timestamp");
  // ... and those of these as bytes.
  const std::string size_key = bytes_key(prefix, "size");
  const std::string lease_key = bytes_key(prefix, "lease");
  ASSIGN_OR_CO_RETURN(const auto block_size, co_await get_row(engine, executor, block_size_key));
  ASSIGN_OR_CO_RETURN(const auto parent, co_await get_row(engine, executor, parent_key));
  ASSIGN_OR_CO_RETURN(const auto parent_time, co_await get_row(engine, executor, parent_time_key));
  ASSIGN_OR_CO_RETURN(const auto size, co_await get_row(engine, executor, size_key));
  ASSIGN_OR_CO_RETURN(const auto lease, co_await get_row(engine, executor, lease_key));

  Metadata metadata;
  if (!block_size) co_return fail(Errc::corruption, "it has no block size");
  ASSIGN_OR_CO_RETURN(metadata.block_bytes, parse_be<uint32_t>(*block_size, "block size"));
  if (size) {
    ASSIGN_OR_CO_RETURN(metadata.size_bytes, parse_be<uint64_t>(*size, "size"));
  }
  if (lease) {
    ASSIGN_OR_CO_RETURN(const uint64_t lease_ms, parse_be<uint64_t>(*lease, "lease"));
    metadata.lease_ms = static_cast<int64_t>(lease_ms);
  }
  if (parent) {
    ASSIGN_OR_CO_RETURN(metadata.parent, parse_path(*parent));
    const auto time = TupleReader(parent_time.value_or("")).integer();
    if (!time) co_return fail(Errc::corruption, "the time at which it was taken of its parent is damaged");
    metadata.parent_ms = *time;
  }
  co_return metadata;
}

// A disk, and below it the one that it is a snapshot of, and so on.
struct Layer {
  std::string data_prefix;
  int64_t until_ms;  // versions behind this time do not count
};

// Newest versions of blocks into a window.
class VersionRows final : public kv::RowSink {
 public:
  // The window's block n is stored as n + `shift`.
  VersionRows(BlockWindow& window, const Layer& layer, uint64_t block_bytes, int64_t shift)
      : window_(window), layer_(layer), block_bytes_(block_bytes), shift_(shift) {
    window.begin_pass();
  }

  // Versions of one block come in the order of their times.
  void on_range_row(size_t /*range_index*/, std::string_view key, std::string_view value) override {
    if (!result_) return;
    TupleReader tuple(key.substr(layer_.data_prefix.size()));
    const auto block = tuple.integer();
    const auto written_ms = tuple.integer();
    if (!block || !written_ms || !tuple.at_end()) {
      result_ = fail(Errc::corruption, "there is a key among its blocks that is none of a block");
      return;
    }
    if (*written_ms > layer_.until_ms) return;
    if (value.size() != block_bytes_) {
      result_ = fail(Errc::corruption, fmt::format("block {} is damaged: it has {} bytes instead of {}",
                                                   *block, value.size(), block_bytes_));
      return;
    }
    window_.fill(static_cast<uint64_t>(*block - shift_), as_bytes(value));
  }
  void on_point_row(size_t, std::string_view) override {}
  void on_unreadable_range_row(size_t, std::string_view) override {
    if (result_) result_ = fail(Errc::io, "a block cannot be read from the store");
  }
  void on_unreadable_point(size_t) override {}

  const Result<void>& result() const { return result_; }

 private:
  BlockWindow& window_;
  const Layer& layer_;
  const uint64_t block_bytes_;
  const int64_t shift_;
  Result<void> result_;
};

class ArrayDisk final : public Disk {
 public:
  // `layers` is not empty.
  ArrayDisk(kv::Engine& engine, std::string name, std::vector<Layer> layers, uint64_t size_bytes,
            uint64_t block_bytes)
      : engine_(engine),
        name_(std::move(name)),
        layers_(std::move(layers)),
        size_bytes_(size_bytes),
        block_bytes_(block_bytes) {}

  uint64_t size_bytes() const override { return size_bytes_; }

  std::string warning() const override {
    if (size_bytes_ <= kRangeBytes) return {};
    return fmt::format(
        "volume {} has {} bytes, but spullara/nbd keeps only the lower 32 bits of offsets: what it was given "
        "for beyond 4 GiB is stored over what lies before. It is imported as that server shows it",
        name_, size_bytes_);
  }

  Task<Result<bool>> read(Executor& executor, uint64_t offset_bytes, MutableByteView into) override {
    bool any_stored = false;
    while (!into.empty()) {
      const uint64_t part_bytes = std::min<uint64_t>(into.size(), stretch_end(offset_bytes) - offset_bytes);
      BlockWindow window(offset_bytes, into.first(part_bytes), block_bytes_);
      const auto result = co_await read_stretch(executor, window, offset_bytes);
      if (!result) {
        co_return fail(result.error().code,
                       fmt::format("volume {}, blocks {} to {}: {}", name_, window.first_block(),
                                   window.first_block() + window.blocks_count() - 1, result.error().what));
      }
      any_stored |= window.any_filled();
      offset_bytes += part_bytes;
      into = into.subspan(part_bytes);
    }
    co_return any_stored;
  }

  Task<Result<uint64_t>> find_data(Executor& executor, uint64_t offset_bytes) override {
    while (offset_bytes < size_bytes_) {
      const uint64_t end_bytes = stretch_end(offset_bytes);
      uint64_t found_bytes = end_bytes;
      for (const int64_t shift : shifts(offset_bytes)) {
        for (const Layer& layer : layers_) {
          ASSIGN_OR_CO_RETURN(const uint64_t found,
                              co_await find_in_layer(executor, layer, shift, offset_bytes, found_bytes));
          found_bytes = found;
        }
      }
      if (found_bytes < end_bytes) co_return found_bytes;
      offset_bytes = end_bytes;
    }
    co_return size_bytes_;
  }

 private:
  // Within a stretch the stored blocks follow each other as the disk's blocks do.
  uint64_t stretch_end(uint64_t offset_bytes) const {
    return std::min(size_bytes_, (offset_bytes / kHalfRangeBytes + 1) * kHalfRangeBytes);
  }

  // What the numbers of the disk's blocks are stored as, less those numbers: the stretch's choices, best
  // first.
  std::vector<int64_t> shifts(uint64_t offset_bytes) const {
    const auto blocks_per_lap = static_cast<int64_t>(kRangeBytes / block_bytes_);
    const int64_t plain = -static_cast<int64_t>(offset_bytes / kRangeBytes) * blocks_per_lap;
    if (offset_bytes % kRangeBytes < kHalfRangeBytes) return {plain};
    return {plain - blocks_per_lap, plain};
  }

  std::string key(const Layer& layer, int64_t stored_block) const {
    std::string packed = layer.data_prefix;
    append_integer(packed, stored_block);
    return packed;
  }

  Task<Result<void>> read_stretch(Executor& executor, BlockWindow& window, uint64_t offset_bytes) {
    for (const int64_t shift : shifts(offset_bytes)) {
      for (const Layer& layer : layers_) {
        if (window.all_filled()) co_return Result<void>();
        CO_RETURN_IF_ERROR(co_await read_layer(executor, window, layer, shift));
      }
    }
    co_return Result<void>();
  }

  Task<Result<void>> read_layer(Executor& executor, BlockWindow& window, const Layer& layer, int64_t shift) {
    const uint64_t end_block = window.first_block() + window.blocks_count();
    const uint64_t step = blocks_per_range(engine_, block_bytes_);
    std::vector<std::string> keys = {key(layer, static_cast<int64_t>(window.first_block()) + shift)};
    for (uint64_t block = window.first_block(); block < end_block;) {
      block += std::min(step, end_block - block);
      keys.push_back(key(layer, static_cast<int64_t>(block) + shift));
    }
    kv::BulkRead request;
    for (size_t i = 0; i + 1 < keys.size(); ++i) request.ranges.push_back({keys[i], keys[i + 1]});
    VersionRows rows(window, layer, block_bytes_, shift);
    CO_RETURN_IF_ERROR(co_await engine_.read(executor, request, rows));
    co_return rows.result();
  }

  // The first offset in [begin_bytes, end_bytes) with a stored block; end_bytes where there is none.
  Task<Result<uint64_t>> find_in_layer(Executor& executor, const Layer& layer, int64_t shift,
                                       uint64_t begin_bytes, uint64_t end_bytes) {
    const uint64_t first_block = begin_bytes / block_bytes_;
    const uint64_t last_block = (end_bytes - 1) / block_bytes_;
    std::string begin = key(layer, static_cast<int64_t>(first_block) + shift);
    std::string end = key(layer, static_cast<int64_t>(last_block) + 1 + shift);
    ASSIGN_OR_CO_RETURN(const auto keys,
                        co_await first_keys(engine_, executor, std::move(begin), std::move(end), 1));
    if (keys.empty()) co_return end_bytes;
    const auto stored =
        TupleReader(std::string_view(keys.front()).substr(layer.data_prefix.size())).integer();
    // What is no block is refused where it is read.
    if (!stored) co_return begin_bytes;
    const uint64_t found_bytes = static_cast<uint64_t>(*stored - shift) * block_bytes_;
    co_return std::clamp(found_bytes, begin_bytes, end_bytes);
  }

  kv::Engine& engine_;
  const std::string name_;
  const std::vector<Layer> layers_;
  const uint64_t size_bytes_;
  const uint64_t block_bytes_;
};

Result<void> check_size(uint64_t size_bytes, uint64_t block_bytes) {
  if (block_bytes < 1 || block_bytes > limits::kMaxLegacyBlockBytes) {
    return fail(Errc::not_supported, fmt::format("its blocks have {} bytes; 1 to {} can be imported",
                                                 block_bytes, limits::kMaxLegacyBlockBytes));
  }
  if (size_bytes < 1 || size_bytes > limits::kMaxVolumeBytes)
    return fail(Errc::not_supported, fmt::format("it has {} bytes, which no volume can have", size_bytes));
  // Beyond 2 GiB its server then mixes up the blocks.
  if (size_bytes > kHalfRangeBytes && kHalfRangeBytes % block_bytes != 0) {
    return fail(Errc::not_supported,
                fmt::format("it has more than 2 GiB in blocks of {} bytes, which is no power of two: its "
                            "server cannot read it back",
                            block_bytes));
  }
  return {};
}

Result<void> check_lease(const Metadata& metadata, WallTime now) {
  if (!metadata.lease_ms) return {};
  const auto now_ms = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count();
  const int64_t age_ms = now_ms - *metadata.lease_ms;
  if (age_ms >= std::chrono::milliseconds(kLeaseTime).count()) return {};
  return fail(Errc::busy, "its server is running, or ended less than a minute ago; stop it, or wait");
}

// The rest of what open_array_disk() does: its errors do not name the volume yet.
Task<Result<std::unique_ptr<Disk>>> open_layers(kv::Engine& engine, Executor& executor, std::string name,
                                                WallTime now) {
  std::vector<Layer> layers;
  std::optional<uint64_t> size_bytes;
  uint64_t block_bytes = 0;
  int64_t until_ms = std::numeric_limits<int64_t>::max();
  Path path = {kArraysDirectory, name};
  for (uint32_t depth = 0;; ++depth) {
    if (depth == limits::kMaxLegacyLayers) {
      co_return fail(Errc::not_supported, fmt::format("it is a snapshot of a snapshot, more than {} deep",
                                                      limits::kMaxLegacyLayers));
    }
    ASSIGN_OR_CO_RETURN(const auto directory, co_await find_directory(engine, executor, path));
    if (!directory)
      co_return fail(Errc::corruption, fmt::format("{}, which it is a snapshot of, is gone", path.back()));
    ASSIGN_OR_CO_RETURN(const auto metadata_prefix,
                        co_await find_directory(engine, executor, *directory, "metadata"));
    if (!metadata_prefix) co_return fail(Errc::corruption, fmt::format("{} has no metadata", path.back()));
    ASSIGN_OR_CO_RETURN(const Metadata metadata, co_await read_metadata(engine, executor, *metadata_prefix));
    if (depth == 0) {
      CO_RETURN_IF_ERROR(check_lease(metadata, now));
      block_bytes = metadata.block_bytes;
    } else if (metadata.block_bytes != block_bytes) {
      co_return fail(Errc::not_supported,
                     fmt::format("{}, which it is a snapshot of, has blocks of another size", path.back()));
    }
    // A snapshot has the size of what it was taken of.
    if (!size_bytes) size_bytes = metadata.size_bytes;
    ASSIGN_OR_CO_RETURN(const auto data_prefix,
                        co_await find_directory(engine, executor, *directory, "data"));
    if (data_prefix) layers.push_back({*data_prefix, until_ms});
    if (!metadata.parent) break;
    path = *metadata.parent;
    until_ms = std::min(until_ms, metadata.parent_ms);
  }
  if (!size_bytes) co_return fail(Errc::corruption, "it has no size");
  CO_RETURN_IF_ERROR(check_size(*size_bytes, block_bytes));
  co_return std::make_unique<ArrayDisk>(engine, std::move(name), std::move(layers), *size_bytes, block_bytes);
}

}  // namespace

Task<Result<std::unique_ptr<Disk>>> open_array_disk(kv::Engine& engine, Executor& executor, std::string name,
                                                    WallTime now) {
  Path arrays_path = {kArraysDirectory};
  ASSIGN_OR_CO_RETURN(const auto arrays, co_await find_directory(engine, executor, std::move(arrays_path)));
  std::string names;
  if (arrays) {
    ASSIGN_OR_CO_RETURN(const auto found, co_await find_directory(engine, executor, *arrays, name));
    if (found) {
      auto disk = co_await open_layers(engine, executor, name, now);
      if (!disk) disk.error().what = fmt::format("volume {}: {}", name, disk.error().what);
      co_return disk;
    }
    std::string entries = entries_prefix(*arrays);
    ASSIGN_OR_CO_RETURN(names, co_await names_below(engine, executor, std::move(entries)));
  }
  co_return fail(Errc::not_found,
                 fmt::format("spullara/nbd has no volume {} in this cluster{}", name, names));
}

}  // namespace fdbnbd::legacy
