#include "kv/fdb/transaction.h"

#include <algorithm>
#include <climits>
#include <optional>
#include <string>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"
#include "kv/fdb/future.h"
#include "kv/mutations.h"

namespace fdbnbd::kv::fdb {

namespace {

class FdbTransaction final : public Transaction {
 public:
  FdbTransaction(Client& client, Executor& executor)
      : client_(client), executor_(executor), random_(reinterpret_cast<uintptr_t>(this)) {
    auto made = client.make_transaction();
    if (made) {
      transaction_ = std::move(*made);
    } else {
      failure_ = std::move(made.error());
    }
  }
  ~FdbTransaction() override {
    if (has_turn_) client_.pacer.give_back();
  }

  void set_background() override;
  Task<Result<Version>> read_version() override;
  void set_read_version(Version version) override;
  bool use_recent_version() override;
  Task<Result<std::optional<std::string>>> get(std::string_view key, Isolation isolation) override;
  Task<Result<RangeResult>> get_range(KeyRange range, RangeOptions options, Isolation isolation) override;
  void set(std::string_view key, std::string_view value) override;
  void clear(std::string_view key) override;
  void clear_range(KeyRange range) override;
  void bit_or(std::string_view key, std::string_view operand) override {
    mutate_bits(MutationType::bit_or, key, operand);
  }
  void bit_and(std::string_view key, std::string_view operand) override {
    mutate_bits(MutationType::bit_and, key, operand);
  }
  void disable_write_conflicts() override { write_conflicts_ = false; }
  void add_read_conflict(KeyRange range) override;
  uint64_t mutation_bytes() const override { return mutation_bytes_; }
  Task<void> await_turn() override;
  Task<Result<Version>> commit() override;

 private:
  const Api& api() const { return client_.api; }
  // Before each mutation: counts it. False where there is no transaction to put it into.
  bool begin_mutation(std::string_view key, std::string_view value);
  // Before whatever is asked of it or put into it: whether background work is to begin first. What is put in
  // before that, a version among it, has to stay, and so does the transaction.
  bool leave_blank() { return std::exchange(stage_, Stage::used) == Stage::blank_background; }
  Task<Result<void>> begin_in_background();
  // Until the cluster lets one more transaction start; its version is not used.
  Task<void> wait_for_a_version();
  void mutate_bits(MutationType type, std::string_view key, std::string_view operand);
  void keep_failure(fdb_error_t error, std::string_view doing);
  // The part of a range that one reply holds, behind what `result` has already; and whether anything is left.
  Task<Result<bool>> get_range_part(std::string& begin, std::string& end, RangeOptions options, bool snapshot,
                                    uint64_t& bytes, RangeResult& result);

  Client& client_;
  Executor& executor_;
  Random random_;  // for back-off
  TransactionHandle transaction_{nullptr, {nullptr}};
  std::optional<Error> failure_;  // of a call that cannot report it
  std::optional<Version> read_version_;
  bool is_version_given_ = false;  // rather than asked for
  enum class Stage : uint8_t { blank, blank_background, used };
  Stage stage_ = Stage::blank;
  bool does_not_yield_ = false;  // though it is background work
  bool write_conflicts_ = true;
  bool mutated_ = false;
  bool has_waited_ = false;  // for its turn
  bool has_turn_ = false;    // which the pacer is told the end of
  bool committed_ = false;
  uint64_t mutation_bytes_ = 0;
};

void FdbTransaction::keep_failure(fdb_error_t error, std::string_view doing) {
  if (error != 0 && !failure_) failure_ = error_of(api(), error, Operation::read, doing);
}

void FdbTransaction::set_background() {
  ASSERT(stage_ == Stage::blank);
  stage_ = Stage::blank_background;
}

Task<Result<void>> FdbTransaction::begin_in_background() {
  auto begun = co_await client_.begin_background(executor_, std::move(transaction_));
  if (!begun) {
    failure_ = begun.error();
    co_return propagate(begun);
  }
  transaction_ = std::move(begun->handle);
  read_version_ = begun->version;
  does_not_yield_ = !begun->yields;
  co_return Result<void>();
}

Task<Result<Version>> FdbTransaction::read_version() {
  if (failure_) co_return tl::unexpected(*failure_);
  if (leave_blank()) CO_RETURN_IF_ERROR(co_await begin_in_background());
  if (read_version_) co_return *read_version_;
  auto version = co_await client_.get_read_version(executor_, transaction_.get());
  if (version) read_version_ = *version;
  co_return version;
}

void FdbTransaction::set_read_version(Version version) {
  if (failure_) return;
  leave_blank();
  read_version_ = version;
  is_version_given_ = true;
  api().transaction_set_read_version(transaction_.get(), version);
}

// Not held back when it commits: it is one of few, and somebody waits for it.
bool FdbTransaction::use_recent_version() {
  const std::optional<Version> version = client_.read_versions.fresh();
  if (failure_ || !version) return false;
  leave_blank();
  read_version_ = *version;
  api().transaction_set_read_version(transaction_.get(), *version);
  return true;
}

Task<Result<std::optional<std::string>>> FdbTransaction::get(std::string_view key, Isolation isolation) {
  if (failure_) co_return tl::unexpected(*failure_);
  if (leave_blank()) CO_RETURN_IF_ERROR(co_await begin_in_background());
  const Future future(api(), api().transaction_get(transaction_.get(), bytes_of(key), length_of(key),
                                                   isolation == Isolation::snapshot));
  fdb_error_t error = co_await future.ready(executor_);
  fdb_bool_t present = 0;
  const uint8_t* value = nullptr;
  int value_length = 0;
  if (error == 0) error = api().future_get_value(future.get(), &present, &value, &value_length);
  if (error != 0) co_return tl::unexpected(error_of(api(), error, Operation::read, "read a key"));
  if (present == 0) co_return std::nullopt;
  co_return std::string(view_of(value, value_length));
}

Task<Result<RangeResult>> FdbTransaction::get_range(KeyRange range, RangeOptions options,
                                                    Isolation isolation) {
  ASSERT(options.rows_limit > 0);
  if (failure_) co_return tl::unexpected(*failure_);
  if (leave_blank()) CO_RETURN_IF_ERROR(co_await begin_in_background());
  RangeResult result;
  if (range.begin >= range.end) co_return result;
  std::string begin(range.begin);
  std::string end(range.end);
  uint64_t bytes = 0;
  // One reply holds little, so several make up a page; they are of one version.
  bool more = true;
  while (more && result.rows.size() < options.rows_limit && bytes < limits::kFdbRangePageBytes) {
    auto part = co_await get_range_part(begin, end, options, isolation == Isolation::snapshot, bytes, result);
    if (!part) co_return propagate(part);
    more = *part;
  }
  result.more = more;
  co_return result;
}

Task<Result<bool>> FdbTransaction::get_range_part(std::string& begin, std::string& end, RangeOptions options,
                                                  bool snapshot, uint64_t& bytes, RangeResult& result) {
  const size_t rows_left = std::min<size_t>(options.rows_limit - result.rows.size(), INT_MAX);
  const Future future(api(), api().transaction_get_range(
                                 transaction_.get(), bytes_of(begin), length_of(begin), 0, 1, bytes_of(end),
                                 length_of(end), 0, 1, static_cast<int>(rows_left), 0,
                                 static_cast<int>(StreamingMode::want_all), 0, snapshot, options.reverse));
  fdb_error_t error = co_await future.ready(executor_);
  const FDBKeyValue* rows = nullptr;
  int rows_count = 0;
  fdb_bool_t more = 0;
  if (error == 0) error = api().future_get_keyvalue_array(future.get(), &rows, &rows_count, &more);
  if (error != 0) co_return tl::unexpected(error_of(api(), error, Operation::read, "read a range"));
  for (int i = 0; i < rows_count; ++i) {
    const std::string_view key = view_of(rows[i].key, rows[i].key_length);
    const std::string_view value = view_of(rows[i].value, rows[i].value_length);
    result.rows.push_back({std::string(key), std::string(value)});
    bytes += key.size() + value.size();
  }
  if (more == 0 || rows_count == 0) co_return false;
  if (options.reverse) {
    end = result.rows.back().key;
  } else {
    begin = key_after(result.rows.back().key);
  }
  co_return begin < end;
}

bool FdbTransaction::begin_mutation(std::string_view key, std::string_view value) {
  mutation_bytes_ += key.size() + value.size();
  mutated_ = true;
  leave_blank();
  if (failure_) return false;
  if (!write_conflicts_) {
    // It holds for the next mutation alone.
    keep_failure(api().transaction_set_option(
                     transaction_.get(),
                     static_cast<int>(TransactionOption::next_write_no_write_conflict_range), nullptr, 0),
                 "make a change blind");
  }
  return !failure_;
}

void FdbTransaction::set(std::string_view key, std::string_view value) {
  if (!begin_mutation(key, value)) return;
  api().transaction_set(transaction_.get(), bytes_of(key), length_of(key), bytes_of(value), length_of(value));
}

void FdbTransaction::clear(std::string_view key) {
  if (!begin_mutation(key, {})) return;
  api().transaction_clear(transaction_.get(), bytes_of(key), length_of(key));
}

void FdbTransaction::clear_range(KeyRange range) {
  if (range.begin >= range.end || !begin_mutation(range.begin, range.end)) return;
  api().transaction_clear_range(transaction_.get(), bytes_of(range.begin), length_of(range.begin),
                                bytes_of(range.end), length_of(range.end));
}

void FdbTransaction::mutate_bits(MutationType type, std::string_view key, std::string_view operand) {
  if (!begin_mutation(key, operand)) return;
  api().transaction_atomic_op(transaction_.get(), bytes_of(key), length_of(key), bytes_of(operand),
                              length_of(operand), static_cast<int>(type));
}

void FdbTransaction::add_read_conflict(KeyRange range) {
  if (failure_ || range.begin >= range.end) return;
  leave_blank();
  keep_failure(api().transaction_add_conflict_range(
                   transaction_.get(), bytes_of(range.begin), length_of(range.begin), bytes_of(range.end),
                   length_of(range.end), static_cast<int>(ConflictRangeType::read)),
               "declare what was read");
}

Task<void> FdbTransaction::await_turn() {
  ASSERT(!has_waited_);
  has_waited_ = true;
  StallWarning warning(client_, executor_, "a turn to commit");
  if (client_.pacing == Pacing::before) co_await wait_for_a_version();
  if (client_.pacing != Pacing::beside) co_return;
  co_await client_.pacer.admit(executor_, mutation_bytes_);
  has_turn_ = true;
}

Task<Result<Version>> FdbTransaction::commit() {
  ASSERT(!committed_);
  committed_ = true;
  // One that changed nothing took effect when it read.
  if (!mutated_ || failure_) co_return co_await read_version();
  // The cluster has held back those that asked it for their read version, but for its disks' sake too late.
  const bool is_held = is_version_given_ || (does_not_yield_ && client_.pacing == Pacing::beside);
  if (does_not_yield_ && client_.pacer.commit_wait() > limits::kFdbMaxBackgroundCommitWait)
    co_return fail(Errc::busy, "the cluster's disks have no room for background work");
  if (is_held && !has_waited_) co_await await_turn();
  StallWarning warning(client_, executor_, "a commit");
  const MonotonicTime started_at = client_.clock.now();
  const Future future(api(), api().transaction_commit(transaction_.get()));
  const fdb_error_t error = co_await future.ready(executor_);
  const bool is_at_limit = error != 0 && meaning_of(error, Operation::commit).remedy == Remedy::long_wait;
  if (std::exchange(has_turn_, false)) client_.pacer.on_commit_ended(started_at, is_at_limit);
  if (error != 0) {
    // The caller's own back-off is for conflicts and short outages.
    if (is_at_limit) co_await wait_before_attempt(executor_, Remedy::long_wait, 1, random_);
    co_return tl::unexpected(error_of(api(), error, Operation::commit, "commit"));
  }
  // Only valid now that the future is ready without an error.
  Version version = -1;
  const fdb_error_t no_version = api().transaction_get_committed_version(transaction_.get(), &version);
  ASSERT(no_version == 0 && version > 0);
  client_.read_versions.note(version, started_at);
  co_return version;
}

Task<void> FdbTransaction::wait_for_a_version() {
  auto other = client_.make_transaction();
  if (other) static_cast<void>(co_await client_.get_read_version(executor_, other->get()));
}

}  // namespace

std::unique_ptr<Transaction> begin_transaction(Client& client, Executor& executor) {
  return std::make_unique<FdbTransaction>(client, executor);
}

}  // namespace fdbnbd::kv::fdb
