#include "legacy/rows.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/checked_math.h"
#include "base/limits.h"
#include "base/random.h"
#include "kv/retry.h"
#include "legacy/tuple.h"

namespace fdbnbd::legacy {

namespace {

// What a row takes beside its block, generously.
constexpr uint64_t kRowOverheadBytes = 100;

using Keys = std::vector<std::string>;

Task<Result<Keys>> read_keys(kv::Transaction& transaction, const std::string& begin, const std::string& end,
                             uint32_t count) {
  ASSIGN_OR_CO_RETURN(
      const kv::RangeResult found,
      co_await transaction.get_range({begin, end}, {.rows_limit = count}, kv::Isolation::snapshot));
  Keys keys;
  for (const kv::KeyValue& row : found.rows) keys.push_back(row.key);
  co_return keys;
}

}  // namespace

Task<Result<std::optional<std::string>>> get_row(kv::Engine& engine, Executor& executor,
                                                 std::string_view key) {
  Random random(reinterpret_cast<uintptr_t>(&engine));
  const auto body = [key](kv::Transaction& transaction) {
    return transaction.get(key, kv::Isolation::snapshot);
  };
  co_return co_await kv::transact<std::optional<std::string>>(engine, executor, random, body);
}

Task<Result<Keys>> first_keys(kv::Engine& engine, Executor& executor, std::string begin, std::string end,
                              uint32_t count) {
  Random random(reinterpret_cast<uintptr_t>(&engine));
  const auto body = [&](kv::Transaction& transaction) { return read_keys(transaction, begin, end, count); };
  co_return co_await kv::transact<Keys>(engine, executor, random, body);
}

Task<Result<std::string>> names_below(kv::Engine& engine, Executor& executor, std::string prefix) {
  std::string end = prefix + '\xff';
  // One more, to tell whether that is all.
  constexpr uint32_t kCount = limits::kMaxLegacyNamesShown + 1;
  ASSIGN_OR_CO_RETURN(const Keys keys, co_await first_keys(engine, executor, prefix, std::move(end), kCount));
  std::string names;
  for (size_t i = 0; i < std::min<size_t>(keys.size(), limits::kMaxLegacyNamesShown); ++i) {
    const auto name = TupleReader(std::string_view(keys[i]).substr(prefix.size())).string();
    if (name) names += (names.empty() ? "; there are " : ", ") + *name;
  }
  if (keys.size() > limits::kMaxLegacyNamesShown) names += " and more";
  co_return names;
}

BlockWindow::BlockWindow(uint64_t offset_bytes, MutableByteView into, uint64_t block_bytes)
    : offset_bytes_(offset_bytes),
      into_(into),
      block_bytes_(block_bytes),
      first_block_(offset_bytes / block_bytes),
      filled_in_(divide_up(offset_bytes + into.size(), block_bytes) - first_block_),
      unfilled_count_(filled_in_.size()) {
  std::ranges::fill(into, std::byte{0});
}

void BlockWindow::fill(uint64_t block, ByteView data) {
  if (block < first_block_ || block - first_block_ >= filled_in_.size()) return;
  uint32_t& filled_in = filled_in_[block - first_block_];
  if (filled_in != 0 && filled_in != pass_) return;
  if (filled_in == 0) --unfilled_count_;
  filled_in = pass_;
  const uint64_t block_begin = block * block_bytes_;
  const uint64_t begin = std::max(block_begin, offset_bytes_);
  const uint64_t end = std::min(block_begin + block_bytes_, offset_bytes_ + into_.size());
  std::memcpy(into_.data() + (begin - offset_bytes_), data.data() + (begin - block_begin), end - begin);
}

uint64_t blocks_per_range(const kv::Engine& engine, uint64_t block_bytes) {
  const uint64_t reply_bytes = engine.capabilities().range_reply_bytes;
  if (reply_bytes == 0) return UINT64_MAX;
  return std::max<uint64_t>(1, reply_bytes / (block_bytes + kRowOverheadBytes));
}

}  // namespace fdbnbd::legacy
