#pragma once

#include <rocksdb/options.h>

#include <cstdint>

#include "kv/rocks/key_router.h"

namespace fdbnbd::kv {

// How RocksDB is set up; the reasons are in docs/decisions/0002-rocksdb-options.md.

// How the memory of the store is divided.
struct MemoryPlan {
  // The block cache's capacity: all that follows is charged to it.
  uint64_t cache_bytes;
  uint64_t bulk_write_buffer_bytes;
  uint64_t meta_write_buffer_bytes;
};
inline constexpr int kBulkWriteBuffers = 3;
inline constexpr int kMetaWriteBuffers = 2;
MemoryPlan plan_memory(uint64_t memory_bytes);

struct StoreConfig {
  rocksdb::DBOptions db;
  rocksdb::ColumnFamilyOptions families[kFamiliesCount];  // by Family
};
StoreConfig make_store_config(uint64_t memory_bytes);

// The name of a family in RocksDB.
const std::string& family_name(Family family);

}  // namespace fdbnbd::kv
