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

// As Engine::read().
Result<void> read_bulk(const RocksStore& store, const BulkRead& request, RowSink& sink);

}  // namespace fdbnbd::kv
