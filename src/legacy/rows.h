#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "async/executor.h"
#include "async/task.h"
#include "base/bytes.h"
#include "base/result.h"
#include "kv/engine.h"

// What the readers of all layouts share: rows of a store, and blocks that land in a piece of memory.

namespace fdbnbd::legacy {

// The value of `key`, which the caller keeps until the task is done.
Task<Result<std::optional<std::string>>> get_row(kv::Engine& engine, Executor& executor,
                                                 std::string_view key);

// The first keys in [begin, end), at most `count` of them.
Task<Result<std::vector<std::string>>> first_keys(kv::Engine& engine, Executor& executor, std::string begin,
                                                  std::string end, uint32_t count);

// The names that are the next element of the tuples that begin with `prefix`, for the message that another
// one is not there: "; there are a, b", or nothing.
Task<Result<std::string>> names_below(kv::Engine& engine, Executor& executor, std::string prefix);

// A piece of a disk in memory, and which of its blocks have been filled.
class BlockWindow {
 public:
  // `into` is the caller's; all of it becomes zero.
  BlockWindow(uint64_t offset_bytes, MutableByteView into, uint64_t block_bytes);

  // The blocks of the disk that overlap the window: [first_block(), first_block() + blocks_count()).
  uint64_t first_block() const { return first_block_; }
  uint64_t blocks_count() const { return filled_in_.size(); }

  // Blocks are filled in passes: within one a later value replaces an earlier one, between them the first one
  // stays. `data` is one block.
  void begin_pass() { ++pass_; }
  void fill(uint64_t block, ByteView data);

  bool all_filled() const { return unfilled_count_ == 0; }
  bool any_filled() const { return unfilled_count_ < filled_in_.size(); }

 private:
  const uint64_t offset_bytes_;
  const MutableByteView into_;
  const uint64_t block_bytes_;
  const uint64_t first_block_;
  uint32_t pass_ = 0;
  std::vector<uint32_t> filled_in_;  // the pass, by block; 0: none yet
  size_t unfilled_count_;
};

// How many blocks of this size one range read should ask for, so that several are answered in parallel.
uint64_t blocks_per_range(const kv::Engine& engine, uint64_t block_bytes);

}  // namespace fdbnbd::legacy
