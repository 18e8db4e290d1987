#include "kv/fdb/client.h"

#include <algorithm>

#include "base/limits.h"
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

Task<Result<Version>> Client::get_read_version(Executor& executor, FDBTransaction* transaction) {
  const MonotonicTime asked_at = read_versions.now();
  const Future future(api, api.transaction_get_read_version(transaction));
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
