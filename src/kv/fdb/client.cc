#include "kv/fdb/client.h"

#include <chrono>
#include <initializer_list>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "kv/fdb/future.h"
#include "kv/retry.h"

namespace fdbnbd::kv::fdb {

namespace {

// The cluster has no version to give for background work.
constexpr fdb_error_t kBatchTransactionThrottled = 1051;

// Hints, which older clients do not all have: no harm is done where one is not taken.
void give_hints(const Api& api, FDBTransaction* transaction, std::initializer_list<TransactionOption> hints) {
  for (const TransactionOption hint : hints)
    static_cast<void>(api.transaction_set_option(transaction, static_cast<int>(hint), nullptr, 0));
}

void let_reads_yield(const Api& api, FDBTransaction* transaction) {
  give_hints(api, transaction,
             {TransactionOption::read_priority_low, TransactionOption::read_server_side_cache_disable});
}

// Cancels a transaction when it has waited long enough.
class Patience final : private TimerWork {
 public:
  Patience(const Api& api, Executor& executor, FDBTransaction* transaction, Duration length)
      : api_(api), executor_(executor), transaction_(transaction) {
    executor_.start_timer(*this, length);
  }
  ~Patience() { executor_.cancel_timer(*this); }
  Patience(const Patience&) = delete;
  Patience& operator=(const Patience&) = delete;

  bool is_over() const { return is_over_; }

 private:
  void run() noexcept override {
    is_over_ = true;
    api_.transaction_cancel(transaction_);
  }

  const Api& api_;
  Executor& executor_;
  FDBTransaction* const transaction_;
  bool is_over_ = false;
};

}  // namespace

Result<TransactionHandle> Client::make_transaction() const {
  FDBTransaction* made = nullptr;
  fdb_error_t error = api.database_create_transaction(database.get(), &made);
  if (error != 0) return tl::unexpected(error_of(api, error, Operation::read, "begin a transaction"));
  TransactionHandle transaction(made, {&api});
  error = api.transaction_set_option(made, static_cast<int>(TransactionOption::read_your_writes_disable),
                                     nullptr, 0);
  if (error != 0) return tl::unexpected(error_of(api, error, Operation::read, "begin a transaction"));
  return transaction;
}

std::shared_ptr<ReadTransaction> Client::shared_read_transaction() {
  const std::optional<Version> version = read_versions.fresh();
  if (!version) return nullptr;
  const std::lock_guard lock(shared_mutex_);
  if (shared_transaction_ == nullptr || shared_transaction_->version != *version || shared_reads_left_ == 0) {
    auto made = make_transaction();
    if (!made) return nullptr;
    api.transaction_set_read_version(made->get(), *version);
    shared_transaction_ = std::make_shared<ReadTransaction>(std::move(*made), *version);
    shared_reads_left_ = limits::kFdbReadsPerTransaction;
  }
  --shared_reads_left_;
  return shared_transaction_;
}

void Client::retire(const ReadTransaction& transaction, bool is_too_old) {
  if (is_too_old) read_versions.refuse(transaction.version);
  const std::lock_guard lock(shared_mutex_);
  if (shared_transaction_.get() == &transaction) shared_transaction_.reset();
}

Task<Result<Client::BackgroundTransaction>> Client::begin_background(Executor& executor,
                                                                     TransactionHandle transaction) {
  let_reads_yield(api, transaction.get());
  const bool yields = clock.now() >= urgent_until_.load(std::memory_order_relaxed);
  if (yields) {
    give_hints(api, transaction.get(), {TransactionOption::priority_batch});
    Version version = 0;
    Patience patience(api, executor, transaction.get(), background_patience);
    const fdb_error_t error = co_await ask_read_version(executor, transaction.get(), version);
    if (!patience.is_over() && error == 0)
      co_return BackgroundTransaction{std::move(transaction), version, /*yields=*/true};
    if (!patience.is_over() && error != kBatchTransactionThrottled)
      co_return tl::unexpected(co_await read_version_failure(executor, error));
    urgent_until_.store(clock.now() + limits::kFdbBackgroundUrgency, std::memory_order_relaxed);
  }
  if (yields) {
    // The first one is of no use any more, and `patience` has let go of it.
    auto another = make_transaction();
    if (!another) co_return propagate(another);
    transaction = std::move(*another);
    let_reads_yield(api, transaction.get());
  }
  auto version = co_await get_read_version(executor, transaction.get());
  if (!version) co_return propagate(version);
  co_return BackgroundTransaction{std::move(transaction), *version, /*yields=*/false};
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

Task<fdb_error_t> Client::ask_read_version(Executor& executor, FDBTransaction* transaction,
                                           Version& version) {
  const MonotonicTime asked_at = clock.now();
  const Future future(api, api.transaction_get_read_version(transaction));
  StallWarning warning(*this, executor, "a read version");
  fdb_error_t error = co_await future.ready(executor);
  if (error == 0) error = api.future_get_int64(future.get(), &version);
  if (error == 0) read_versions.note(version, asked_at);
  co_return error;
}

Task<Result<Version>> Client::get_read_version(Executor& executor, FDBTransaction* transaction) {
  Version version = 0;
  const fdb_error_t error = co_await ask_read_version(executor, transaction, version);
  if (error == 0) co_return version;
  co_return tl::unexpected(co_await read_version_failure(executor, error));
}

Task<Error> Client::read_version_failure(Executor& executor, fdb_error_t error) const {
  if (meaning_of(error, Operation::read).remedy == Remedy::long_wait)
    co_await sleep_for(executor, limits::kFdbLongWait);
  co_return error_of(api, error, Operation::read, "get a read version");
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
