#include "kv/fdb/pacer.h"

#include <charconv>
#include <chrono>
#include <optional>
#include <string_view>
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

// How the cluster is, as its client library tells it for the asking; one JSON object.
constexpr std::string_view kHealthKey = "\xff\xff/metrics/health/aggregate";

// A number of that object.
std::optional<uint64_t> number_of(std::string_view health, std::string_view name) {
  const size_t found = health.find(name);
  if (found == std::string_view::npos) return std::nullopt;
  const std::string_view text = health.substr(found + name.size());
  uint64_t number = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), number).ec != std::errc()) return std::nullopt;
  return number;
}

// The queue of the storage server that limits the cluster; those that it can do without are left out.
std::optional<WriteRate::Queue> limiting_queue(std::string_view health) {
  const auto bytes = number_of(health, "\"limiting_storage_queue\":");
  const auto lag_versions = number_of(health, "\"limiting_storage_durability_lag\":");
  if (!bytes || !lag_versions) return std::nullopt;
  // A million versions are a second.
  return WriteRate::Queue{*bytes, std::chrono::microseconds(*lag_versions)};
}

}  // namespace

Pacer::Pacer(const Api& api, FDBDatabase* database, const Clock& clock)
    : api_(api), database_(database), clock_(clock), payments_(kPayments), commits_(kCommits) {}

Pacer::~Pacer() {
  std::unique_lock lock(mutex_);
  ASSERT(commits_count_ == 0 && waiters_.empty());
  std::vector<FDBTransaction*> to_cancel;
  for (const Question& question : outstanding_) to_cancel.push_back(question.transaction.get());
  lock.unlock();
  // Those that end meanwhile stay where they are: only start() frees them.
  for (FDBTransaction* const transaction : to_cancel) api_.transaction_cancel(transaction);
  lock.lock();
  all_answered_.wait(lock, [this] { return outstanding_.empty(); });
}

Task<void> Pacer::admit(Executor& executor, uint64_t bytes) {
  bool look = false;
  const Duration turn = take_bytes(bytes, look);
  if (look) {
    start(&Pacer::on_health, [this](FDBTransaction* transaction) {
      return api_.transaction_get(transaction, bytes_of(kHealthKey), length_of(kHealthKey), 1);
    });
  }
  if (turn > Duration::zero()) co_await sleep_for(executor, turn);
  for (Duration pause = pause_left(); pause > Duration::zero(); pause = pause_left())
    co_await sleep_for(executor, pause);
  co_await Turn(*this, executor);
  start(&Pacer::on_paid,
        [this](FDBTransaction* transaction) { return api_.transaction_get_read_version(transaction); });
}

Duration Pacer::take_bytes(uint64_t bytes, bool& look) {
  const MonotonicTime now = clock_.now();
  const std::lock_guard lock(mutex_);
  look = !is_looking_ && now - looked_at_ >= WriteRate::kInterval;
  if (look) {
    is_looking_ = true;
    looked_at_ = now;
  }
  return rate_.reserve(now, bytes);
}

Duration Pacer::commit_wait() const {
  const std::lock_guard lock(mutex_);
  return rate_.wait(clock_.now());
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

template <typename Ask>
void Pacer::start(void (Pacer::*on_answer)(const Question&), Ask ask) {
  std::list<Question> answered;
  std::list<Question> started;
  FDBTransaction* made = nullptr;
  const fdb_error_t error = api_.database_create_transaction(database_, &made);
  ASSERT(error == 0);
  started.emplace_back(*this, on_answer, TransactionHandle(made, {&api_}), FutureHandle(nullptr, {&api_}),
                       clock_.now());
  Question& question = started.front();
  question.self = started.begin();
  question.future.reset(ask(made));
  {
    const std::lock_guard lock(mutex_);
    answered.swap(answered_);
    outstanding_.splice(outstanding_.end(), started);
  }
  // Not with the lock held: it may be ready already.
  const fdb_error_t not_set = api_.future_set_callback(question.future.get(), &on_ready, &question);
  ASSERT(not_set == 0);
}

void Pacer::on_ready(FDBFuture*, void* question) noexcept {
  Question& ready = *static_cast<Question*>(question);
  Pacer& pacer = ready.pacer;
  const std::lock_guard lock(pacer.mutex_);
  (pacer.*ready.on_answer)(ready);
  pacer.answered_.splice(pacer.answered_.end(), pacer.outstanding_, ready.self);
  pacer.wake_waiters();
  // With the lock held: the pacer may be gone as soon as it is not.
  if (pacer.outstanding_.empty()) pacer.all_answered_.notify_all();
}

void Pacer::on_paid(const Question& payment) {
  const MonotonicTime now = clock_.now();
  if (api_.future_get_error(payment.future.get()) != 0) {
    note_refusal(payments_, payment.started_at, now);
  } else {
    payments_.on_done(payment.started_at, now, payments_count_);
  }
  --payments_count_;
}

// Where the cluster does not tell, the rate stays as it is.
void Pacer::on_health(const Question& question) {
  is_looking_ = false;
  fdb_bool_t present = 0;
  const uint8_t* value = nullptr;
  int length = 0;
  if (api_.future_get_value(question.future.get(), &present, &value, &length) != 0 || present == 0) return;
  if (const auto queue = limiting_queue(view_of(value, length))) rate_.on_queue(clock_.now(), *queue);
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

void Pacer::give_back() {
  const std::lock_guard lock(mutex_);
  --commits_count_;
  wake_waiters();
}

void Pacer::note_refusal(LatencyWindow& window, MonotonicTime started_at, MonotonicTime now) {
  window.on_refused(started_at, now);
  paused_until_ = now + limits::kFdbRefusalPause;
}

}  // namespace fdbnbd::kv::fdb
