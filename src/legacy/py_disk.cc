#include <fmt/core.h>
#include <zlib.h>

#include <array>
#include <charconv>
#include <utility>

#include "base/limits.h"
#include "legacy/disk.h"
#include "legacy/rows.h"
#include "legacy/tuple.h"

// fdb-nbd.py: ('dev', NAME, 'meta', 'block_size' | 'num_blocks') are decimal numbers, ('dev', NAME, 'blocks',
// NUMBER) is a block, deflated.

namespace fdbnbd::legacy {

namespace {

// Python 2, for which the program was written, packs its strings as byte strings; a port to Python 3 would
// pack text.
using AppendString = void (*)(std::string& tuple, std::string_view string);
constexpr std::array<AppendString, 2> kStringKinds = {append_bytes, append_text};

std::string pack(AppendString append, std::initializer_list<std::string_view> strings) {
  std::string tuple;
  for (const std::string_view string : strings) append(tuple, string);
  return tuple;
}

struct Geometry {
  uint64_t block_bytes = 0;
  uint64_t blocks_count = 0;
};

// A number as Python's str() writes it.
Result<uint64_t> parse_number(const std::string& text, std::string_view what) {
  uint64_t number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec == std::errc() && parsed.ptr == text.data() + text.size()) return number;
  return fail(Errc::corruption, fmt::format("its {} \"{}\" is not a number", what, text));
}

Result<Geometry> parse_geometry(const std::string& block_size, const std::string& num_blocks) {
  Geometry geometry;
  ASSIGN_OR_RETURN(geometry.block_bytes, parse_number(block_size, "block_size"));
  ASSIGN_OR_RETURN(geometry.blocks_count, parse_number(num_blocks, "num_blocks"));
  if (geometry.block_bytes < 1 || geometry.block_bytes > limits::kMaxLegacyBlockBytes) {
    return fail(Errc::not_supported, fmt::format("its blocks have {} bytes; 1 to {} can be imported",
                                                 geometry.block_bytes, limits::kMaxLegacyBlockBytes));
  }
  if (geometry.blocks_count < 1 || geometry.blocks_count > limits::kMaxVolumeBytes / geometry.block_bytes) {
    return fail(Errc::not_supported, fmt::format("it has {} blocks of {} bytes, which no volume can have",
                                                 geometry.blocks_count, geometry.block_bytes));
  }
  return geometry;
}

// Inflates blocks into a window.
class BlockRows final : public kv::RowSink {
 public:
  BlockRows(BlockWindow& window, const std::string& prefix, uint64_t block_bytes)
      : window_(window), prefix_(prefix), block_(block_bytes) {
    window.begin_pass();
  }

  void on_range_row(size_t /*range_index*/, std::string_view key, std::string_view value) override {
    if (!result_) return;
    TupleReader tuple(key.substr(prefix_.size()));
    const auto number = tuple.integer();
    if (!number || *number < 0 || !tuple.at_end()) {
      result_ = fail(Errc::corruption, "there is a key among its blocks that is none of a block");
      return;
    }
    uLongf length = block_.size();
    const int status = ::uncompress(reinterpret_cast<Bytef*>(block_.data()), &length,
                                    reinterpret_cast<const Bytef*>(value.data()), value.size());
    if (status != Z_OK || length != block_.size()) {
      result_ = fail(Errc::corruption, fmt::format("block {} is damaged: it does not inflate to {} bytes",
                                                   *number, block_.size()));
      return;
    }
    window_.fill(static_cast<uint64_t>(*number), block_);
  }
  void on_point_row(size_t, std::string_view) override {}
  void on_unreadable_range_row(size_t, std::string_view) override {
    if (result_) result_ = fail(Errc::io, "a block cannot be read from the store");
  }
  void on_unreadable_point(size_t) override {}

  const Result<void>& result() const { return result_; }

 private:
  BlockWindow& window_;
  const std::string& prefix_;
  std::vector<std::byte> block_;  // the one that is being inflated
  Result<void> result_;
};

class PyDisk final : public Disk {
 public:
  PyDisk(kv::Engine& engine, std::string name, std::string prefix, Geometry geometry)
      : engine_(engine), name_(std::move(name)), prefix_(std::move(prefix)), geometry_(geometry) {}

  uint64_t size_bytes() const override { return geometry_.block_bytes * geometry_.blocks_count; }

  Task<Result<bool>> read(Executor& executor, uint64_t offset_bytes, MutableByteView into) override {
    BlockWindow window(offset_bytes, into, geometry_.block_bytes);
    const uint64_t end_block = window.first_block() + window.blocks_count();
    const uint64_t step = blocks_per_range(engine_, geometry_.block_bytes);
    std::vector<std::string> keys = {key(window.first_block())};
    for (uint64_t block = window.first_block(); block < end_block;) {
      block += std::min(step, end_block - block);
      keys.push_back(key(block));
    }
    kv::BulkRead request;
    for (size_t i = 0; i + 1 < keys.size(); ++i) request.ranges.push_back({keys[i], keys[i + 1]});
    BlockRows rows(window, prefix_, geometry_.block_bytes);
    auto result = co_await engine_.read(executor, request, rows);
    if (result) result = rows.result();
    if (!result) {
      co_return fail(result.error().code,
                     fmt::format("disk {}, blocks {} to {}: {}", name_, window.first_block(), end_block - 1,
                                 result.error().what));
    }
    co_return window.any_filled();
  }

  Task<Result<uint64_t>> find_data(Executor& executor, uint64_t offset_bytes) override {
    const uint64_t first_block = offset_bytes / geometry_.block_bytes;
    std::string begin = key(first_block);
    std::string end = key(geometry_.blocks_count);
    ASSIGN_OR_CO_RETURN(const auto keys,
                        co_await first_keys(engine_, executor, std::move(begin), std::move(end), 1));
    if (keys.empty()) co_return size_bytes();
    const auto block = TupleReader(std::string_view(keys.front()).substr(prefix_.size())).integer();
    // What is no block is refused where it is read.
    const uint64_t found = block && *block >= 0 ? static_cast<uint64_t>(*block) : first_block;
    co_return std::max(offset_bytes, found * geometry_.block_bytes);
  }

 private:
  std::string key(uint64_t block) const {
    std::string packed = prefix_;
    append_integer(packed, static_cast<int64_t>(block));
    return packed;
  }

  kv::Engine& engine_;
  const std::string name_;
  const std::string prefix_;  // of the blocks' keys
  const Geometry geometry_;
};

Task<Result<std::string>> known_names(kv::Engine& engine, Executor& executor) {
  for (const AppendString append : kStringKinds) {
    std::string prefix = pack(append, {"devices"});
    ASSIGN_OR_CO_RETURN(std::string names, co_await names_below(engine, executor, std::move(prefix)));
    if (!names.empty()) co_return names;
  }
  co_return std::string();
}

}  // namespace

Task<Result<std::unique_ptr<Disk>>> open_py_disk(kv::Engine& engine, Executor& executor, std::string name) {
  for (const AppendString append : kStringKinds) {
    const std::string block_size_key = pack(append, {"dev", name, "meta", "block_size"});
    const std::string num_blocks_key = pack(append, {"dev", name, "meta", "num_blocks"});
    ASSIGN_OR_CO_RETURN(const auto block_size, co_await get_row(engine, executor, block_size_key));
    ASSIGN_OR_CO_RETURN(const auto num_blocks, co_await get_row(engine, executor, num_blocks_key));
    if (!block_size || !num_blocks) continue;
    const auto geometry = parse_geometry(*block_size, *num_blocks);
    if (!geometry)
      co_return fail(geometry.error().code, fmt::format("disk {}: {}", name, geometry.error().what));
    std::string prefix = pack(append, {"dev", name, "blocks"});
    co_return std::make_unique<PyDisk>(engine, std::move(name), std::move(prefix), *geometry);
  }
  ASSIGN_OR_CO_RETURN(const std::string names, co_await known_names(engine, executor));
  co_return fail(Errc::not_found, fmt::format("fdb-nbd.py has no disk {} in this cluster{}", name, names));
}

}  // namespace fdbnbd::legacy
