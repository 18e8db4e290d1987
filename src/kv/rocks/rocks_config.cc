#include "kv/rocks/rocks_config.h"

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>
#include <rocksdb/write_buffer_manager.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>

#include "base/assert.h"
#include "base/limits.h"

namespace fdbnbd::kv {

namespace {

using limits::kKiB;
using limits::kMiB;

constexpr int kMaxOpenFiles = 512;
constexpr uint64_t kDelayedWriteBytesPerSecond = 64 * kMiB;
constexpr uint64_t kMaxWalBytes = 192 * kMiB;

rocksdb::BlockBasedTableOptions table_options(const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.block_size = 8 * kKiB;
  table.format_version = 5;
  table.checksum = rocksdb::kXXH3;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  // Indexes and filters are part of the memory bound.
  table.cache_index_and_filter_blocks = true;
  table.cache_index_and_filter_blocks_with_high_priority = true;
  table.pin_l0_filter_and_index_blocks_in_cache = true;
  return table;
}

}  // namespace

const std::string& family_name(Family family) {
  static const std::string names[kFamiliesCount] = {rocksdb::kDefaultColumnFamilyName, "bulk"};
  return names[static_cast<size_t>(family)];
}

MemoryPlan plan_memory(uint64_t memory_bytes) {
  ASSERT(memory_bytes >= limits::kMinRocksMemoryBytes);
  MemoryPlan plan{};
  plan.cache_bytes = memory_bytes;
  plan.bulk_write_buffer_bytes = std::min<uint64_t>(memory_bytes / 6, 128 * kMiB);
  plan.meta_write_buffer_bytes = std::min<uint64_t>(memory_bytes / 32, 16 * kMiB);
  return plan;
}

StoreConfig make_store_config(uint64_t memory_bytes) {
  const MemoryPlan plan = plan_memory(memory_bytes);
  const auto cache = rocksdb::NewLRUCache(plan.cache_bytes, 4, false, 0.5);
  const uint64_t write_buffers_bytes =
      kBulkWriteBuffers * plan.bulk_write_buffer_bytes + kMetaWriteBuffers * plan.meta_write_buffer_bytes;
  ASSERT(write_buffers_bytes <= memory_bytes * 3 / 4);

  StoreConfig config;
  rocksdb::DBOptions& db = config.db;
  db.create_missing_column_families = true;
  // Stops at the first hole in the log, as a power loss leaves it, and never goes on behind one.
  db.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  db.paranoid_checks = true;
  // One flush at a time: where the sync of a log fails, a second one would sync the same log, on which
  // RocksDB ends the process.
  db.max_background_flushes = 1;
  db.max_background_compactions = std::clamp(static_cast<int>(std::thread::hardware_concurrency()) - 1, 1, 7);
  db.max_open_files = kMaxOpenFiles;
  db.max_total_wal_size = kMaxWalBytes;
  // All that matters is in the log, which may be one that cannot be left any more.
  db.avoid_flush_during_shutdown = true;
  // Written out while it is made, so that a sync finds little left to do.
  db.bytes_per_sync = kMiB;
  db.wal_bytes_per_sync = kMiB;
  // Large sequential reads profit from the kernel's read-ahead; it leaves random ones alone.
  db.advise_random_on_open = false;
  // One thread writes; the concurrent paths would cost without any gain.
  db.allow_concurrent_memtable_write = false;
  db.enable_write_thread_adaptive_yield = false;
  // Charged to the cache; the families' own bounds stop writes before this one would.
  db.write_buffer_manager = std::make_shared<rocksdb::WriteBufferManager>(memory_bytes, cache);
  db.delayed_write_rate = kDelayedWriteBytesPerSecond;
  db.info_log_level = rocksdb::WARN_LEVEL;
  db.max_log_file_size = 4 * kMiB;
  db.keep_log_file_num = 4;
  db.stats_dump_period_sec = 0;
  db.stats_persist_period_sec = 0;

  rocksdb::ColumnFamilyOptions& meta = config.families[static_cast<size_t>(Family::meta)];
  meta.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table_options(cache)));
  meta.write_buffer_size = plan.meta_write_buffer_bytes;
  meta.max_write_buffer_number = kMetaWriteBuffers;
  meta.compression = rocksdb::kLZ4Compression;
  meta.level_compaction_dynamic_level_bytes = true;
  meta.max_bytes_for_level_base = 32 * kMiB;
  meta.target_file_size_base = 8 * kMiB;

  rocksdb::ColumnFamilyOptions& bulk = config.families[static_cast<size_t>(Family::bulk)];
  bulk.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table_options(cache)));
  bulk.write_buffer_size = plan.bulk_write_buffer_bytes;
  bulk.max_write_buffer_number = kBulkWriteBuffers;
  bulk.compression = rocksdb::kNoCompression;
  bulk.enable_blob_files = true;
  // Small values too: in the tree a damaged one would take its neighbours with it.
  bulk.min_blob_size = 0;
  bulk.blob_file_size = 64 * kMiB;
  bulk.blob_compression_type = rocksdb::kNoCompression;
  bulk.enable_blob_garbage_collection = true;
  bulk.blob_garbage_collection_age_cutoff = 0.3;
  bulk.blob_garbage_collection_force_threshold = 0.5;
  bulk.blob_compaction_readahead_size = kMiB;
  // The tree holds keys and references only: small files keep a compaction, and the values that it moves,
  // near the keys that changed.
  bulk.level_compaction_dynamic_level_bytes = true;
  bulk.max_bytes_for_level_base = 8 * kMiB;
  bulk.target_file_size_base = kMiB;
  // Files of keys are small: more of them may wait for a compaction that is busy moving values.
  bulk.level0_slowdown_writes_trigger = 32;
  bulk.level0_stop_writes_trigger = 64;
  return config;
}

}  // namespace fdbnbd::kv
