#pragma once

#include <rocksdb/snapshot.h>

#include <optional>
#include <string>
#include <string_view>

#include "kv/engine.h"
#include "kv/rocks/rocks_store.h"

// Reads of a store. They block, and run on the threads that are meant for that.

namespace fdbnbd::kv {

Result<std::optional<std::string>> read_row(const RocksStore& store, const rocksdb::Snapshot* snapshot,
                                            std::string_view key);

Result<RangeResult> read_rows(const RocksStore& store, const rocksdb::Snapshot* snapshot, KeyRange range,
                              RangeOptions options);

// Some points and ranges of a BulkRead that follow each other.
struct BulkPart {
  size_t first_point = 0;
  size_t points_count = 0;
  size_t first_range = 0;
  size_t ranges_count = 0;

  bool empty() const { return points_count == 0 && ranges_count == 0; }
};

// What to read next of `request`: a little, so that a large request does not keep small ones waiting. Empty
// behind the end. Starts with BulkPart{}.
BulkPart next_part(const BulkRead& request, BulkPart after);

// As Engine::read(), for a part of the request.
Result<void> read_bulk(const RocksStore& store, const BulkRead& request, BulkPart part, RowSink& sink);

}  // namespace fdbnbd::kv
