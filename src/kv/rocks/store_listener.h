#pragma once

#include <rocksdb/listener.h>

#include <atomic>
#include <string>

#include "kv/rocks/key_router.h"

namespace fdbnbd::kv {

class RocksStore;

// Decides what an error of RocksDB's background work means for the store. RocksDB stops all writes for good,
// or keeps a note of it that nothing clears and that later fails writes which only had to wait.
class StoreListener final : public rocksdb::EventListener {
 public:
  // Once the store is open.
  void watch(const RocksStore& store) { store_ = &store; }

  // Whether a compaction has met damage. Any thread.
  bool damage_found() const { return damage_found_; }

  // To be called before RocksDB learns that writes fail. It forgets a flush that it has scheduled and that
  // has not begun by then, and later waits for it for ever.
  void let_flushes_begin() const;

  void OnBackgroundError(rocksdb::BackgroundErrorReason reason, rocksdb::Status* error) override;

  // RocksDB's own recovery from a full disk looks for room too seldom, and stands in the way of the commit
  // lane's.
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason reason, rocksdb::Status error,
                            bool* auto_recovery) override;

 private:
  // Whether a property of the family, or of the whole store, is not 0.
  bool is_set(Family family, const std::string& property) const;
  bool compactions_stop_writes() const;
  bool compactions_slow_writes() const;

  std::atomic<const RocksStore*> store_ = nullptr;
  std::atomic<bool> damage_found_ = false;
};

}  // namespace fdbnbd::kv
