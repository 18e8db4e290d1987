#include "kv/memory/memory_engine.h"

#include <atomic>
#include <utility>

#include "base/assert.h"
#include "kv/memory/memory_disk.h"
#include "kv/memory/memory_faults.h"

namespace fdbnbd::kv {

namespace {

// Rows of a bulk read that are collected at a time, so that a long read does not hold the disk.
constexpr size_t kBulkRowsPerTurn = 1024;
constexpr uint64_t kMaxLateByCommits = 8;

class MemoryEngineImpl final : public MemoryEngine {
 public:
  MemoryEngineImpl(std::shared_ptr<MemoryDisk> disk, const MemoryOptions& options)
      : disk_(std::move(disk)), options_(options), faults_(*disk_, options.seed) {}
  ~MemoryEngineImpl() override {
    if (!crashed_) disk_->close();
  }

  std::string_view name() const override { return "memory"; }
  Capabilities capabilities() const override { return options_.capabilities; }
  EngineStats stats() const override { return {.stored_bytes = disk_->stored_bytes()}; }
  std::unique_ptr<Transaction> begin(Executor& executor) override;
  Task<Result<void>> read(Executor& executor, const BulkRead& request, RowSink& sink) override;
  Task<Result<void>> sync(Executor& executor) override;

  FaultPlan& faults() override { return faults_; }
  size_t unsynced_commits_count() const override { return disk_->unsynced_commits_count(); }
  void crash(Crash kind) override;

  MemoryDisk& disk() { return *disk_; }
  MemoryFaults& plan() { return faults_; }
  // Of the last commit through this engine; 0 before that.
  Version last_commit() const { return last_commit_; }
  // Lets others run, and time pass: `part` of a drawn latency.
  Task<void> pause(Executor& executor, Duration delay) const;
  Duration draw_half_latency() { return faults_.draw_latency() / 2; }
  // Whether the engine is there to do anything.
  Result<void> check_alive() const;
  // The same for what changes the store.
  Result<void> check_writable() const;
  Task<Result<Version>> commit(Executor& executor, CommitRequest request);

 private:
  Result<Version> commit_with_faults(CommitRequest request);
  Result<void> read_range(const BulkRead& request, size_t range_index, RowSink& sink);

  const std::shared_ptr<MemoryDisk> disk_;
  const MemoryOptions options_;
  MemoryFaults faults_;
  std::atomic<bool> crashed_ = false;
  std::atomic<bool> sync_failed_ = false;
  std::atomic<Version> last_commit_ = 0;
};

class MemoryTransaction final : public Transaction {
 public:
  MemoryTransaction(MemoryEngineImpl& engine, Executor& executor) : engine_(engine), executor_(executor) {}

  Task<Result<Version>> read_version() override;
  void set_read_version(Version version) override { request_.read_version = version; }
  bool use_recent_version() override {
    const Version version = engine_.last_commit();
    if (version == 0) return false;
    request_.read_version = version;
    return true;
  }
  Task<Result<std::optional<std::string>>> get(std::string_view key, Isolation isolation) override;
  Task<Result<RangeResult>> get_range(KeyRange range, RangeOptions options, Isolation isolation) override;

  void set(std::string_view key, std::string_view value) override { add(MutationKind::set, key, value); }
  void clear(std::string_view key) override { add(MutationKind::clear, key, {}); }
  void clear_range(KeyRange range) override {
    if (range.begin < range.end) add(MutationKind::clear_range, range.begin, range.end);
  }
  void bit_or(std::string_view key, std::string_view operand) override {
    add(MutationKind::bit_or, key, operand);
  }
  void bit_and(std::string_view key, std::string_view operand) override {
    add(MutationKind::bit_and, key, operand);
  }
  void disable_write_conflicts() override { write_conflicts_ = false; }
  void add_read_conflict(KeyRange range) override {
    request_.read_conflicts.emplace_back(range.begin, range.end);
  }
  uint64_t mutation_bytes() const override { return request_.mutations.bytes(); }
  Task<Result<Version>> commit() override;

 private:
  void add(MutationKind kind, std::string_view key, std::string_view value) {
    request_.mutations.add(kind, key, value, write_conflicts_);
  }
  Version choose_read_version();

  MemoryEngineImpl& engine_;
  Executor& executor_;
  CommitRequest request_;
  bool write_conflicts_ = true;
  bool committed_ = false;
};

Version MemoryTransaction::choose_read_version() {
  if (!request_.read_version) request_.read_version = engine_.disk().newest_version();
  return *request_.read_version;
}

Task<Result<Version>> MemoryTransaction::read_version() {
  if (request_.read_version) co_return *request_.read_version;
  const Duration delay = engine_.draw_half_latency();
  co_await engine_.pause(executor_, delay);
  CO_RETURN_IF_ERROR(engine_.check_alive());
  const Version version = choose_read_version();
  co_await engine_.pause(executor_, delay);
  CO_RETURN_IF_ERROR(engine_.check_alive());
  co_return version;
}

Task<Result<std::optional<std::string>>> MemoryTransaction::get(std::string_view key, Isolation isolation) {
  if (isolation == Isolation::serializable) request_.read_conflicts.emplace_back(key, key_after(key));
  const Duration delay = engine_.draw_half_latency();
  co_await engine_.pause(executor_, delay);
  CO_RETURN_IF_ERROR(engine_.check_alive());
  Result<SharedValue> value = engine_.disk().get(key, choose_read_version());
  co_await engine_.pause(executor_, delay);
  CO_RETURN_IF_ERROR(engine_.check_alive());
  if (!value) co_return propagate(value);
  if (*value == nullptr) co_return std::nullopt;
  if (engine_.plan().is_unreadable(key)) co_return fail(Errc::corruption, "a row cannot be read");
  co_return **value;
}

Task<Result<RangeResult>> MemoryTransaction::get_range(KeyRange range, RangeOptions options,
                                                       Isolation isolation) {
  ASSERT(options.rows_limit > 0);
  const Duration delay = engine_.draw_half_latency();
  co_await engine_.pause(executor_, delay);
  CO_RETURN_IF_ERROR(engine_.check_alive());
  // One more row tells whether rows are left.
  auto found =
      engine_.disk().get_range(range, size_t{options.rows_limit} + 1, options.reverse, choose_read_version());
  co_await engine_.pause(executor_, delay);
  CO_RETURN_IF_ERROR(engine_.check_alive());
  if (!found) co_return propagate(found);
  RangeResult result;
  result.more = found->size() > options.rows_limit;
  if (result.more) found->resize(options.rows_limit);
  if (isolation == Isolation::serializable && range.begin < range.end) {
    // What was seen, and not what lies behind it.
    std::string begin(range.begin);
    std::string end(range.end);
    if (result.more) (options.reverse ? begin : end) = found->back().key;
    if (result.more && !options.reverse) end = key_after(end);
    request_.read_conflicts.emplace_back(std::move(begin), std::move(end));
  }
  for (SharedRow& row : *found) {
    if (engine_.plan().is_unreadable(row.key)) co_return fail(Errc::corruption, "a row cannot be read");
    result.rows.push_back({std::move(row.key), *row.value});
  }
  co_return result;
}

Task<Result<Version>> MemoryTransaction::commit() {
  ASSERT(!committed_);
  committed_ = true;
  // A transaction that changed nothing took effect when it read.
  if (request_.mutations.empty()) return read_version();
  return engine_.commit(executor_, std::move(request_));
}

Task<void> MemoryEngineImpl::pause(Executor& executor, Duration delay) const {
  if (delay > Duration::zero()) {
    co_await sleep_for(executor, delay);
  } else if (options_.always_suspend) {
    co_await reschedule(executor);
  }
}

Result<void> MemoryEngineImpl::check_alive() const {
  if (crashed_) return fail(Errc::io, "the store in memory has crashed");
  if (faults_.unavailable()) return fail(Errc::unavailable, "the store in memory was made unavailable");
  return {};
}

Result<void> MemoryEngineImpl::check_writable() const {
  RETURN_IF_ERROR(check_alive());
  if (sync_failed_) return fail(Errc::io, "the store in memory failed to sync before");
  return {};
}

std::unique_ptr<Transaction> MemoryEngineImpl::begin(Executor& executor) {
  return std::make_unique<MemoryTransaction>(*this, executor);
}

Task<Result<Version>> MemoryEngineImpl::commit(Executor& executor, CommitRequest request) {
  const Duration delay = draw_half_latency();
  co_await pause(executor, delay);
  CO_RETURN_IF_ERROR(check_writable());
  Result<Version> version = commit_with_faults(std::move(request));
  if (version) last_commit_ = *version;
  co_await pause(executor, delay);
  if (version && crashed_) co_return fail(Errc::unknown_result, "the store in memory crashed meanwhile");
  co_return version;
}

Result<Version> MemoryEngineImpl::commit_with_faults(CommitRequest request) {
  const auto stores_something = [&] {
    for (size_t i = 0; i < request.mutations.size(); ++i)
      if (request.mutations[i].kind == MutationKind::set) return true;
    return false;
  };
  if (faults_.full() && stores_something()) return fail(Errc::no_space, "the store in memory was made full");
  const std::optional<CommitFault> fault = faults_.take_commit_fault();
  if (!fault) return disk_->commit(request);
  const auto unknown = fail(Errc::unknown_result, "the store in memory was made to lose the outcome");
  switch (*fault) {
    case CommitFault::conflict:
      return fail(Errc::conflict, "the store in memory was made to conflict");
    case CommitFault::unavailable:
      return fail(Errc::unavailable, "the store in memory was made unavailable");
    case CommitFault::no_space:
      return fail(Errc::no_space, "the store in memory was made full");
    case CommitFault::io:
      return fail(Errc::io, "the store in memory was made to fail");
    case CommitFault::unknown_applied: {
      Result<Version> version = disk_->commit(request);
      if (!version) return version;
      return unknown;
    }
    case CommitFault::unknown_not_applied:
      return unknown;
    case CommitFault::unknown_applied_late:
      disk_->commit_late(std::move(request), 1 + faults_.draw(kMaxLateByCommits));
      return unknown;
  }
  ASSERT(false);
}

Task<Result<void>> MemoryEngineImpl::read(Executor& executor, const BulkRead& request, RowSink& sink) {
  const Duration delay = draw_half_latency();
  co_await pause(executor, delay);
  CO_RETURN_IF_ERROR(check_alive());
  for (size_t i = 0; i < request.points.size(); ++i) {
    Result<SharedValue> value = disk_->get(request.points[i], MemoryDisk::kNewest);
    if (!value) co_return propagate(value);
    if (*value == nullptr) continue;
    if (faults_.is_unreadable(request.points[i])) {
      sink.on_unreadable_point(i);
    } else {
      sink.on_point_row(i, **value);
    }
  }
  for (size_t i = 0; i < request.ranges.size(); ++i) CO_RETURN_IF_ERROR(read_range(request, i, sink));
  co_await pause(executor, delay);
  co_return check_alive();
}

Result<void> MemoryEngineImpl::read_range(const BulkRead& request, size_t range_index, RowSink& sink) {
  std::string begin(request.ranges[range_index].begin);
  while (true) {
    auto rows = disk_->get_range({begin, request.ranges[range_index].end}, kBulkRowsPerTurn, false,
                                 MemoryDisk::kNewest);
    if (!rows) return propagate(rows);
    for (const SharedRow& row : *rows) {
      if (faults_.is_unreadable(row.key)) {
        sink.on_unreadable_range_row(range_index, row.key);
      } else {
        sink.on_range_row(range_index, row.key, *row.value);
      }
    }
    if (rows->size() < kBulkRowsPerTurn) return {};
    begin = key_after(rows->back().key);
  }
}

Task<Result<void>> MemoryEngineImpl::sync(Executor& executor) {
  const Duration delay = draw_half_latency();
  co_await pause(executor, delay);
  CO_RETURN_IF_ERROR(check_writable());
  if (faults_.take_sync_fault()) {
    sync_failed_ = true;
    co_return check_writable();
  }
  disk_->sync();
  co_await pause(executor, delay);
  if (crashed_) co_return fail(Errc::io, "the store in memory has crashed");
  co_return Result<void>();
}

void MemoryEngineImpl::crash(Crash kind) {
  if (crashed_.exchange(true)) return;
  if (kind.power_loss) {
    ASSERT(options_.can_lose_power);
    const size_t unsynced_count = disk_->unsynced_commits_count();
    const size_t kept_count =
        kind.unsynced_commits_kept ? *kind.unsynced_commits_kept : faults_.draw(unsynced_count + 1);
    disk_->lose_unsynced_commits(kept_count);
  }
  disk_->close();
}

}  // namespace

Result<std::unique_ptr<MemoryEngine>> open_memory_engine(MemoryOptions options) {
  std::shared_ptr<MemoryDisk> disk = options.disk ? options.disk : make_memory_disk();
  RETURN_IF_ERROR(disk->open(options));
  return std::make_unique<MemoryEngineImpl>(std::move(disk), options);
}

}  // namespace fdbnbd::kv
