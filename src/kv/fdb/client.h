#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>

#include "async/executor.h"
#include "async/task.h"
#include "base/clock.h"
#include "base/random.h"
#include "base/result.h"
#include "kv/engine.h"
#include "kv/fdb/abi.h"
#include "kv/fdb/api.h"
#include "kv/fdb/errors.h"

// What the transactions and bulk reads of one engine share.

namespace fdbnbd::kv::fdb {

// The newest version at which this engine may read what it committed itself, as long as it is fresh: so a
// bulk read need not ask for one. FoundationDB keeps about five seconds. Any thread.
class ReadVersionCache {
 public:
  ReadVersionCache(const Clock& clock, Duration lifetime) : clock_(clock), lifetime_(lifetime) {}

  MonotonicTime now() const { return clock_.now(); }

  // `version` was given out or committed at some time after `asked_at`.
  void note(Version version, MonotonicTime asked_at);
  // The store refused to read at `version`: it and older ones are not given out again.
  void refuse(Version version);
  // No older than any version noted before the call.
  std::optional<Version> fresh() const;

 private:
  const Clock& clock_;
  const Duration lifetime_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  Version version_ = 0;
  Version refused_ = 0;
  MonotonicTime asked_at_{};
};

struct TransactionDeleter {
  const Api* api;
  void operator()(FDBTransaction* transaction) const { api->transaction_destroy(transaction); }
};
using TransactionHandle = std::unique_ptr<FDBTransaction, TransactionDeleter>;

struct Client {
  Client(const Api& the_api, FDBDatabase* the_database, const Clock& clock, Duration read_version_lifetime,
         Duration stall_warning)
      : api(the_api),
        database(the_database),
        read_versions(clock, read_version_lifetime),
        stall_warning_after(stall_warning) {}
  ~Client() { api.database_destroy(database); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  const Api& api;
  FDBDatabase* const database;
  ReadVersionCache read_versions;
  const Duration stall_warning_after;
  // Whether the log says that the cluster does not answer: once, however many wait.
  std::atomic<bool> is_stalled = false;

  // A new transaction that does not see its own writes. No timeout and no retry limit, ever: a commit that is
  // given up may still take effect.
  Result<TransactionHandle> make_transaction() const;

  // Asks for a read version and notes it. `transaction` lives until the task is done.
  Task<Result<Version>> get_read_version(Executor& executor, FDBTransaction* transaction);
};

// Says in the log that the cluster does not answer, while one lives longer than it should. It lives in the
// frame of the coroutine that waits.
class StallWarning final : private TimerWork {
 public:
  // `waits_for` is a literal: "a commit".
  StallWarning(Client& client, Executor& executor, const char* waits_for);
  ~StallWarning();
  StallWarning(const StallWarning&) = delete;
  StallWarning& operator=(const StallWarning&) = delete;

 private:
  void run() noexcept override;

  Client& client_;
  Executor& executor_;
  const char* const waits_for_;
  bool is_warned_ = false;
};

// Waits as `remedy` asks before attempt number `attempt` (from 1) of a read.
Task<void> wait_before_attempt(Executor& executor, Remedy remedy, uint32_t attempt, Random& random);

inline const uint8_t* bytes_of(std::string_view text) {
  return reinterpret_cast<const uint8_t*>(text.data());
}
inline int length_of(std::string_view text) {
  return static_cast<int>(text.size());
}
inline std::string_view view_of(const uint8_t* bytes, int length) {
  return {reinterpret_cast<const char*>(bytes), static_cast<size_t>(length)};
}

}  // namespace fdbnbd::kv::fdb
