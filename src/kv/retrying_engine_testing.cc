#include "kv/retrying_engine_testing.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "base/limits.h"
#include "base/random.h"
#include "kv/mutations.h"
#include "kv/retry.h"

namespace fdbnbd::kv {

namespace {

// Attempts that all conflict, after which a conflict is taken for one.
constexpr uint32_t kConflictsToBelieve = 5;
constexpr std::string_view kOwnRows = "\xfe";

std::atomic<uint64_t> next_token{1};

class RetryingTransaction final : public Transaction {
 public:
  RetryingTransaction(Engine& engine, Executor& executor)
      : engine_(engine), executor_(executor), random_(next_token), inner_(engine.begin(executor)) {}

  void set_background() override {
    is_background_ = true;
    inner_->set_background();
  }
  Task<Result<Version>> read_version() override;
  void set_read_version(Version version) override {
    note_version(version);
    inner_->set_read_version(version);
  }
  Task<Result<std::optional<std::string>>> get(std::string_view key, Isolation isolation) override;
  Task<Result<RangeResult>> get_range(KeyRange range, RangeOptions options, Isolation isolation) override;
  void set(std::string_view key, std::string_view value) override { add(MutationKind::set, key, value); }
  void clear(std::string_view key) override { add(MutationKind::clear, key, {}); }
  void clear_range(KeyRange range) override {
    add(MutationKind::clear_range, range.begin, std::min(range.end, kOwnRows));
  }
  void bit_or(std::string_view key, std::string_view operand) override {
    add(MutationKind::bit_or, key, operand);
  }
  void bit_and(std::string_view key, std::string_view operand) override {
    add(MutationKind::bit_and, key, operand);
  }
  void disable_write_conflicts() override {
    inner_->disable_write_conflicts();
    changes_.emplace_back([](Transaction& transaction) { transaction.disable_write_conflicts(); });
  }
  void add_read_conflict(KeyRange range) override {
    inner_->add_read_conflict(range);
    changes_.emplace_back([begin = std::string(range.begin), end = std::string(range.end)](
                              Transaction& transaction) { transaction.add_read_conflict({begin, end}); });
  }
  uint64_t mutation_bytes() const override { return inner_->mutation_bytes(); }
  Task<void> await_turn() override { return inner_->await_turn(); }
  Task<Result<Version>> commit() override;

 private:
  // A read that goes into the conflicts.
  struct Reading {
    std::string begin;
    std::string end;  // empty: of one key
    RangeOptions options;
  };

  void add(MutationKind kind, std::string_view key, std::string_view value);
  static void apply(Transaction& transaction, MutationKind kind, std::string_view key,
                    std::string_view value);
  void note_version(Version version) {
    if (!version_) version_known_at_ = executor_.clock().now();
    version_ = version;
  }
  // No further attempt can succeed: the store forgets versions.
  bool is_too_old() const {
    return version_ && executor_.clock().now() - version_known_at_ > limits::kFdbReadVersionLifetime;
  }
  Task<void> wait() { co_await sleep_for(executor_, backoff(++failures_count_, random_)); }
  // A new attempt, which has read and changed all that this one has.
  Task<void> begin_again();
  Task<Result<Version>> commit_once(const std::string& token);
  // After an unknown result: the version at which it happened, or nothing: it will not any more.
  Task<std::optional<Version>> decide(std::string token, Version before);
  Task<bool> is_there_at(std::string token, Version version);
  Task<Version> newest_version();

  Engine& engine_;
  Executor& executor_;
  Random random_;  // for back-off
  std::unique_ptr<Transaction> inner_;
  std::optional<Version> version_;
  MonotonicTime version_known_at_{};
  bool is_background_ = false;
  bool mutated_ = false;
  std::vector<Reading> readings_;
  std::vector<std::function<void(Transaction&)>> changes_;
  uint32_t failures_count_ = 0;
};

void RetryingTransaction::apply(Transaction& transaction, MutationKind kind, std::string_view key,
                                std::string_view value) {
  switch (kind) {
    case MutationKind::set:
      return transaction.set(key, value);
    case MutationKind::clear:
      return transaction.clear(key);
    case MutationKind::clear_range:
      return transaction.clear_range({key, value});
    case MutationKind::bit_or:
      return transaction.bit_or(key, value);
    case MutationKind::bit_and:
      return transaction.bit_and(key, value);
  }
}

void RetryingTransaction::add(MutationKind kind, std::string_view key, std::string_view value) {
  // An empty range is no change.
  if (kind != MutationKind::clear_range || key < value) mutated_ = true;
  apply(*inner_, kind, key, value);
  changes_.emplace_back([kind, key = std::string(key), value = std::string(value)](Transaction& transaction) {
    apply(transaction, kind, key, value);
  });
}

Task<void> RetryingTransaction::begin_again() {
  for (bool is_first = true;; is_first = false) {
    if (!is_first) co_await wait();
    if (is_too_old()) co_return;
    inner_ = engine_.begin(executor_);
    if (is_background_) inner_->set_background();
    if (version_) inner_->set_read_version(*version_);
    bool is_read = true;
    for (const Reading& reading : readings_) {
      if (reading.end.empty()) {
        const auto value = co_await inner_->get(reading.begin, Isolation::serializable);
        is_read = value.has_value();
      } else {
        const auto rows = co_await inner_->get_range({reading.begin, reading.end}, reading.options,
                                                     Isolation::serializable);
        is_read = rows.has_value();
      }
      if (!is_read) break;
    }
    if (!is_read) continue;
    for (const auto& change : changes_) change(*inner_);
    co_return;
  }
}

Task<Result<Version>> RetryingTransaction::read_version() {
  while (true) {
    auto version = co_await inner_->read_version();
    if (version) note_version(*version);
    if (version || version.error().code != Errc::unavailable) co_return version;
    co_await wait();
    co_await begin_again();
  }
}

Task<Result<std::optional<std::string>>> RetryingTransaction::get(std::string_view key, Isolation isolation) {
  // So that each attempt reads at it.
  auto version = co_await read_version();
  if (!version) co_return propagate(version);
  while (true) {
    auto value = co_await inner_->get(key, isolation);
    if (value && isolation == Isolation::serializable) readings_.push_back({std::string(key), {}, {}});
    if (value || value.error().code != Errc::unavailable || is_too_old()) co_return value;
    co_await begin_again();
  }
}

Task<Result<RangeResult>> RetryingTransaction::get_range(KeyRange range, RangeOptions options,
                                                         Isolation isolation) {
  auto version = co_await read_version();
  if (!version) co_return propagate(version);
  range.end = std::min(range.end, kOwnRows);
  while (true) {
    auto rows = co_await inner_->get_range(range, options, isolation);
    if (rows && isolation == Isolation::serializable && range.begin < range.end)
      readings_.push_back({std::string(range.begin), std::string(range.end), options});
    if (rows || rows.error().code != Errc::unavailable || is_too_old()) co_return rows;
    co_await begin_again();
  }
}

Task<Result<Version>> RetryingTransaction::commit() {
  auto version = co_await read_version();
  if (!version || !mutated_) co_return version;
  for (uint32_t conflicts_count = 0;;) {
    if (is_too_old()) co_return fail(Errc::conflict, "its read version is too old by now");
    const Version before = co_await newest_version();
    const std::string token = std::string(kOwnRows) + std::to_string(next_token++);
    auto committed = co_await commit_once(token);
    if (committed) co_return committed;
    const Errc code = committed.error().code;
    if (code == Errc::unknown_result) {
      const std::optional<Version> happened = co_await decide(token, before);
      if (happened) co_return *happened;
    } else if (code == Errc::conflict) {
      if (++conflicts_count == kConflictsToBelieve) co_return committed;
    } else if (code == Errc::unavailable) {
      co_await wait();
    } else {
      co_return committed;
    }
    co_await begin_again();
  }
}

// The token's row tells whether it happened, and whoever writes it first keeps the commit from happening.
Task<Result<Version>> RetryingTransaction::commit_once(const std::string& token) {
  inner_->add_read_conflict({token, key_after(token)});
  inner_->set(token, "committed");
  return inner_->commit();
}

Task<std::optional<Version>> RetryingTransaction::decide(std::string token, Version before) {
  while (true) {
    const auto barrier = engine_.begin(executor_);
    const auto found = co_await barrier->get(token, Isolation::serializable);
    if (found && found->has_value()) {
      if (**found != "committed") co_return std::nullopt;
      break;
    }
    if (found) {
      barrier->set(token, "given up");
      static_cast<void>(co_await barrier->commit());
    }
    co_await wait();
  }
  // The row is there from the version of the commit on, which is behind `before`.
  Version at = co_await newest_version();
  while (before + 1 < at) {
    const Version middle = before + (at - before) / 2;
    const bool is_there = co_await is_there_at(token, middle);
    (is_there ? at : before) = middle;
  }
  co_return at;
}

Task<bool> RetryingTransaction::is_there_at(std::string token, Version version) {
  while (true) {
    const auto reader = engine_.begin(executor_);
    reader->set_read_version(version);
    const auto value = co_await reader->get(token, Isolation::snapshot);
    if (value) co_return value->has_value();
    ASSERT(value.error().code == Errc::unavailable);
    co_await wait();
  }
}

Task<Version> RetryingTransaction::newest_version() {
  while (true) {
    const auto reader = engine_.begin(executor_);
    const auto version = co_await reader->read_version();
    if (version) co_return *version;
    co_await wait();
  }
}

class RetryingEngine final : public Engine {
 public:
  explicit RetryingEngine(std::unique_ptr<Engine> engine) : engine_(std::move(engine)) {}

  std::string_view name() const override { return engine_->name(); }
  Capabilities capabilities() const override { return engine_->capabilities(); }
  EngineStats stats() const override { return engine_->stats(); }
  std::unique_ptr<Transaction> begin(Executor& executor) override {
    return std::make_unique<RetryingTransaction>(*engine_, executor);
  }
  Task<Result<void>> read(Executor& executor, const BulkRead& request, RowSink& sink) override;
  Task<Result<void>> sync(Executor& executor) override { return engine_->sync(executor); }

 private:
  const std::unique_ptr<Engine> engine_;
};

Task<Result<void>> RetryingEngine::read(Executor& executor, const BulkRead& request, RowSink& sink) {
  BulkRead without_own = request;
  for (KeyRange& range : without_own.ranges) range.end = std::min(range.end, kOwnRows);
  co_return co_await engine_->read(executor, without_own, sink);
}

}  // namespace

std::unique_ptr<Engine> make_retrying_engine(std::unique_ptr<Engine> engine) {
  return std::make_unique<RetryingEngine>(std::move(engine));
}

}  // namespace fdbnbd::kv
