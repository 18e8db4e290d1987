#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>

#include "async/executor.h"
#include "async/task.h"
#include "base/clock.h"
#include "base/random.h"
#include "base/result.h"
#include "kv/engine.h"
#include "kv/fdb/abi.h"
#include "kv/fdb/api.h"
#include "kv/fdb/errors.h"
#include "kv/fdb/handles.h"
#include "kv/fdb/pacer.h"
#include "kv/fdb/read_version_cache.h"

// What the transactions and bulk reads of one engine share.

namespace fdbnbd::kv::fdb {

// How commits at a version that their caller has set are held to what the cluster can take.
enum class Pacing : uint8_t {
  beside,  // each pays for a read version while it is under way (Pacer)
  before,  // each waits for a read version first: a measure for the other
  off,     // not at all: to see what happens
};

// A transaction that reads at `version`, for any number of reads at once. Whoever reads keeps a reference
// until the results are there.
struct ReadTransaction {
  ReadTransaction(TransactionHandle the_handle, Version the_version)
      : handle(std::move(the_handle)), version(the_version) {}

  const TransactionHandle handle;
  const Version version;
};

struct Client {
  Client(const Api& the_api, DatabaseHandle the_database, const Clock& the_clock,
         Duration read_version_lifetime, Duration stall_warning, Duration the_background_patience,
         Pacing the_pacing)
      : api(the_api),
        database(std::move(the_database)),
        clock(the_clock),
        read_versions(the_clock, read_version_lifetime),
        stall_warning_after(stall_warning),
        background_patience(the_background_patience),
        pacing(the_pacing),
        pacer(the_api, database.get(), the_clock) {}
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  const Api& api;
  const DatabaseHandle database;
  const Clock& clock;
  ReadVersionCache read_versions;
  const Duration stall_warning_after;
  const Duration background_patience;
  // Whether the log says that the cluster does not answer: once, however many wait.
  std::atomic<bool> is_stalled = false;
  const Pacing pacing;
  Pacer pacer;

  // A new transaction that does not see its own writes. No timeout and no retry limit, ever: a commit that is
  // given up may still take effect.
  Result<TransactionHandle> make_transaction() const;
  struct BackgroundTransaction {
    TransactionHandle handle;
    Version version = 0;  // which it has
    bool yields = false;  // its version was left over by others
  };
  // Makes a new transaction one for background work, or gives another one for it. Its read version is one
  // that others leave, so that the cluster slows it down first; where they leave none for
  // `background_patience`, it takes its turn among them, and so does what comes in the next
  // limits::kFdbBackgroundUrgency. Its reads yield always.
  Task<Result<BackgroundTransaction>> begin_background(Executor& executor, TransactionHandle transaction);

  // At the cached read version, shared with other reads; nothing where that is not fresh. Any thread.
  std::shared_ptr<ReadTransaction> shared_read_transaction();
  // A read of `transaction` has failed: the next ones get another one, and where it was too old another
  // version. Any thread.
  void retire(const ReadTransaction& transaction, bool is_too_old);

  // Asks for a read version and notes it. `transaction` lives until the task is done.
  Task<Result<Version>> get_read_version(Executor& executor, FDBTransaction* transaction);

 private:
  // The error of the read version's future, 0 for success.
  Task<fdb_error_t> ask_read_version(Executor& executor, FDBTransaction* transaction, Version& version);

  // What it means, once the cluster has been left alone for a while where it asks for that.
  Task<Error> read_version_failure(Executor& executor, fdb_error_t error) const;

  // Until then background work does not wait for what others leave.
  std::atomic<MonotonicTime> urgent_until_ = MonotonicTime{};

  std::mutex shared_mutex_;
  // Guarded by shared_mutex_: the last one that was given out, and how many more reads may have it.
  std::shared_ptr<ReadTransaction> shared_transaction_;
  uint32_t shared_reads_left_ = 0;
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

}  // namespace fdbnbd::kv::fdb
