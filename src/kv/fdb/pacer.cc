#include "kv/fdb/pacer.h"

#include <utility>
#include <vector>

#include "base/assert.h"
#include "base/limits.h"
#include "kv/fdb/errors.h"

namespace fdbnbd::kv::fdb {

namespace {

constexpr LatencyWindow::Bounds kPayments = {
    .least = 1,
    .most = limits::kFdbMaxPayments,
    .initial = limits::kFdbInitialPayments,
    .quick = limits::kFdbQuickReadVersion,
    .slow = limits::kFdbSlowReadVersion,
};
constexpr LatencyWindow::Bounds kCommits = {
    .least = 1,
    .most = limits::kFdbMaxCommits,
    .initial = limits::kFdbCommitsInFlight,
    .quick = limits::kFdbQuickCommit,
    .slow = limits::kFdbSlowCommit,
};

}  // namespace

Pacer::Pacer(const Api& api, FDBDatabase* database, const Clock& clock)
    : api_(api), database_(database), clock_(clock), payments_(kPayments), commits_(kCommits) {}

Pacer::~Pacer() {
  std::unique_lock lock(mutex_);
  ASSERT(commits_count_ == 0 && waiters_.empty());
  std::vector<FDBTransaction*> to_cancel;
  for (const Payment& payment : outstanding_) to_cancel.push_back(payment.transaction.get());
  lock.unlock();
  // Those that end meanwhile stay where they are: only start_payment() frees them.
  for (FDBTransaction* const transaction : to_cancel) api_.transaction_cancel(transaction);
  lock.lock();
  all_paid_.wait(lock, [this] { return outstanding_.empty(); });
}

Task<void> Pacer::admit(Executor& executor) {
  for (Duration pause = pause_left(); pause > Duration::zero(); pause = pause_left())
    co_await sleep_for(executor, pause);
  co_await Turn(*this, executor);
  start_payment();
}

Duration Pacer::pause_left() const {
  const std::lock_guard lock(mutex_);
  return paused_until_ - clock_.now();
}

bool Pacer::has_room() const {
  return payments_count_ < payments_.size() && commits_count_ < commits_.size();
}

void Pacer::take_room() {
  ++payments_count_;
  ++commits_count_;
}

bool Pacer::Turn::await_suspend(std::coroutine_handle<> waiter) {
  const std::lock_guard lock(pacer_.mutex_);
  if (pacer_.waiters_.empty() && pacer_.has_room()) {
    pacer_.take_room();
    return false;
  }
  waiter_ = waiter;
  pacer_.waiters_.push_back(this);
  return true;
}

void Pacer::wake_waiters() {
  while (!waiters_.empty() && has_room()) {
    take_room();
    Turn* const next = waiters_.front();
    waiters_.pop_front();
    next->grant();
  }
}

void Pacer::start_payment() {
  std::list<Payment> paid;
  std::list<Payment> started;
  FDBTransaction* made = nullptr;
  const fdb_error_t error = api_.database_create_transaction(database_, &made);
  ASSERT(error == 0);
  started.emplace_back(*this, TransactionHandle(made, {&api_}), FutureHandle(nullptr, {&api_}), clock_.now());
  Payment& payment = started.front();
  payment.self = started.begin();
  payment.future.reset(api_.transaction_get_read_version(made));
  {
    const std::lock_guard lock(mutex_);
    paid.swap(paid_);
    outstanding_.splice(outstanding_.end(), started);
  }
  // Not with the lock held: it may be ready already.
  const fdb_error_t not_set = api_.future_set_callback(payment.future.get(), &on_payment_ready, &payment);
  ASSERT(not_set == 0);
}

void Pacer::on_payment_ready(FDBFuture*, void* payment) noexcept {
  Payment& ready = *static_cast<Payment*>(payment);
  ready.pacer.on_payment_ended(ready);
}

void Pacer::on_payment_ended(Payment& payment) {
  const MonotonicTime now = clock_.now();
  const fdb_error_t error = api_.future_get_error(payment.future.get());
  const std::lock_guard lock(mutex_);
  if (error != 0) {
    note_refusal(payments_, payment.started_at, now);
  } else {
    payments_.on_done(payment.started_at, now, payments_count_);
  }
  --payments_count_;
  paid_.splice(paid_.end(), outstanding_, payment.self);
  wake_waiters();
  // With the lock held: the pacer may be gone as soon as it is not.
  if (outstanding_.empty()) all_paid_.notify_all();
}

void Pacer::on_commit_ended(MonotonicTime started_at, bool is_refused) {
  const MonotonicTime now = clock_.now();
  const std::lock_guard lock(mutex_);
  if (is_refused) {
    note_refusal(commits_, started_at, now);
  } else {
    commits_.on_done(started_at, now, commits_count_);
  }
  --commits_count_;
  wake_waiters();
}

void Pacer::note_refusal(LatencyWindow& window, MonotonicTime started_at, MonotonicTime now) {
  window.on_refused(started_at, now);
  paused_until_ = now + limits::kFdbRefusalPause;
}

}  // namespace fdbnbd::kv::fdb
