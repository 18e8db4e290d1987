#include "kv/fdb/client.h"

#include <algorithm>
#include <chrono>

#include "base/limits.h"
#include "base/log.h"
#include "kv/fdb/future.h"
#include "kv/retry.h"

namespace fdbnbd::kv::fdb {

void ReadVersionCache::note(Version version, MonotonicTime asked_at) {
  const std::lock_guard lock(mutex_);
  if (version < version_) return;
  asked_at_ = version > version_ ? asked_at : std::max(asked_at_, asked_at);
  version_ = version;
}

void ReadVersionCache::refuse(Version version) {
  const std::lock_guard lock(mutex_);
  refused_ = std::max(refused_, version);
}

std::optional<Version> ReadVersionCache::fresh() const {
  const std::lock_guard lock(mutex_);
  if (version_ <= refused_ || clock_.now() - asked_at_ >= lifetime_) return std::nullopt;
  return version_;
}

Result<TransactionHandle> Client::make_transaction() const {
  FDBTransaction* made = nullptr;
  fdb_error_t error = api.database_create_transaction(database, &made);
  if (error != 0) return tl::unexpected(error_of(api, error, Operation::read, "begin a transaction"));
  TransactionHandle transaction(made, {&api});
  error = api.transaction_set_option(made, static_cast<int>(TransactionOption::read_your_writes_disable),
                                     nullptr, 0);
  if (error != 0) return tl::unexpected(error_of(api, error, Operation::read, "begin a transaction"));
  return transaction;
}

StallWarning::StallWarning(Client& client, Executor& executor, const char* waits_for)
    : client_(client), executor_(executor), waits_for_(waits_for) {
  executor_.start_timer(*this, client_.stall_warning_after);
}

StallWarning::~StallWarning() {
  executor_.cancel_timer(*this);
  if (!is_warned_) return;
  client_.is_stalled = false;
  log::info("FoundationDB answers again");
}

void StallWarning::run() noexcept {
  if (client_.is_stalled.exchange(true)) return;
  is_warned_ = true;
  log::warning("FoundationDB has not answered for {} s (waiting for {}); clients wait until it does",
               std::chrono::duration<double>(client_.stall_warning_after).count(), waits_for_);
}

Task<Result<Version>> Client::get_read_version(Executor& executor, FDBTransaction* transaction) {
  const MonotonicTime asked_at = read_versions.now();
  const Future future(api, api.transaction_get_read_version(transaction));
  const StallWarning warning(*this, executor, "a read version");
  fdb_error_t error = co_await future.ready(executor);
  Version version = 0;
  if (error == 0) error = api.future_get_int64(future.get(), &version);
  if (error != 0) {
    if (meaning_of(error, Operation::read).remedy == Remedy::long_wait)
      co_await sleep_for(executor, limits::kFdbLongWait);
    co_return tl::unexpected(error_of(api, error, Operation::read, "get a read version"));
  }
  read_versions.note(version, asked_at);
  co_return version;
}

Task<void> wait_before_attempt(Executor& executor, Remedy remedy, uint32_t attempt, Random& random) {
  Duration delay = Duration::zero();
  if (remedy == Remedy::long_wait) {
    constexpr Duration kHalf = Duration(limits::kFdbLongWait) / 2;
    delay = kHalf + Duration(random.below(kHalf.count()));
  } else if (remedy != Remedy::new_read_version || attempt > 2) {
    // A version that is too old twice in a row is the sign of a cluster that cannot follow.
    delay = backoff(attempt, random);
  }
  if (delay > Duration::zero()) co_await sleep_for(executor, delay);
}

}  // namespace fdbnbd::kv::fdb
