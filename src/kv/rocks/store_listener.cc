#include "kv/rocks/store_listener.h"

#include <chrono>
#include <thread>

#include "base/log.h"
#include "kv/rocks/rocks_errors.h"
#include "kv/rocks/rocks_store.h"

namespace fdbnbd::kv {

namespace {

using Properties = rocksdb::DB::Properties;

// One that failed stays pending.
constexpr auto kFlushPoll = std::chrono::milliseconds(1);
constexpr int kFlushPolls = 2000;

// All writes fail with this error until the commit lane tells RocksDB to go on.
rocksdb::Status until_resumed(const rocksdb::Status& error) {
  return {error, rocksdb::Status::Severity::kHardError};
}

}  // namespace

void StoreListener::OnBackgroundError(rocksdb::BackgroundErrorReason reason, rocksdb::Status* error) {
  if (reason == rocksdb::BackgroundErrorReason::kCompaction) {
    if (error->IsCorruption() && !damage_found_.exchange(true))
      log::error("the store is damaged; some space is not reclaimed any more: {}", error->ToString());
    // The store is as it was, and RocksDB tries again by itself. Rows that cannot be read are reported when
    // they are; a store that refuses all writes for one of them would help nobody. But where writes wait for
    // compactions, they would wait for as long as those fail. On a full disk they need not be slowed down
    // first, to 16 KB/s.
    if (compactions_stop_writes() || (errc_of(*error) == Errc::no_space && compactions_slow_writes())) {
      let_flushes_begin();
      *error = until_resumed(*error);
    } else {
      *error = rocksdb::Status::OK();
    }
  } else if (reason == rocksdb::BackgroundErrorReason::kMemTable && error->IsIOError()) {
    // A new log could not be made. RocksDB gives up for good, since the old one may have had something in its
    // buffer; here each write empties it.
    *error = until_resumed(*error);
  }
}

void StoreListener::OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason /*reason*/, rocksdb::Status error,
                                         bool* auto_recovery) {
  if (error.ok() || errc_of(error) == Errc::no_space) *auto_recovery = false;
}

bool StoreListener::is_set(Family family, const std::string& property) const {
  const RocksStore* const store = store_;
  uint64_t value = 0;
  return store != nullptr && store->db().GetIntProperty(store->family(family), property, &value) &&
         value != 0;
}

bool StoreListener::compactions_stop_writes() const {
  // Otherwise the writes may just as well wait for that to be written out.
  const auto has_memory_to_write_out = [this](Family family) {
    return is_set(family, Properties::kNumImmutableMemTable);
  };
  return is_set(Family::meta, Properties::kIsWriteStopped) && !has_memory_to_write_out(Family::meta) &&
         !has_memory_to_write_out(Family::bulk);
}

bool StoreListener::compactions_slow_writes() const {
  return is_set(Family::meta, Properties::kActualDelayedWriteRate);
}

void StoreListener::let_flushes_begin() const {
  const auto is_pending = [this](Family family) { return is_set(family, Properties::kMemTableFlushPending); };
  for (int i = 0; i < kFlushPolls && (is_pending(Family::meta) || is_pending(Family::bulk)); ++i)
    std::this_thread::sleep_for(kFlushPoll);
}

}  // namespace fdbnbd::kv
