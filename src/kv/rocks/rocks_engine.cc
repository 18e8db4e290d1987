#include "kv/rocks/rocks_engine.h"

#include <sys/resource.h>
#include <unistd.h>

#include <latch>
#include <utility>

#include "async/blocking_pool.h"
#include "base/assert.h"
#include "kv/rocks/commit_lane.h"
#include "kv/rocks/fast_crc32c.h"
#include "kv/rocks/rocks_reader.h"
#include "kv/rocks/rocks_store.h"
#include "kv/rocks/sync_lane.h"

namespace fdbnbd::kv {

namespace {

constexpr size_t kReadThreads = 2;
constexpr uint32_t kCommitsInFlight = 2;
constexpr int kBackgroundNice = 10;

class LowerPriority final : public Work {
 public:
  void run() noexcept override {
    // The priority of this thread alone; it is no loss where it cannot be set.
    static_cast<void>(setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kBackgroundNice));
    done_.count_down();
  }
  void wait() { done_.wait(); }

 private:
  std::latch done_{1};
};

class RocksEngine final : public Engine {
 public:
  explicit RocksEngine(std::unique_ptr<RocksStore> store)
      : store_(std::move(store)),
        readers_("rocks read", kReadThreads),
        background_readers_("rocks scan", 1),
        reclaimer_(*store_),
        commits_(*store_, reclaimer_),
        syncs_(*store_, commits_) {
    LowerPriority lower;
    background_readers_.submit(lower);
    lower.wait();
  }

  std::string_view name() const override { return "rocksdb"; }
  Capabilities capabilities() const override {
    return {.commits_in_flight = kCommitsInFlight, .commits_can_be_in_doubt = false};
  }
  EngineStats stats() const override;
  std::unique_ptr<Transaction> begin(Executor& executor) override;
  Task<Result<void>> read(Executor& executor, const BulkRead& request, RowSink& sink) override {
    BlockingPool& pool = request.background ? background_readers_ : readers_;
    for (BulkPart part = next_part(request, {}); !part.empty(); part = next_part(request, part)) {
      auto result = co_await pool.run(
          executor, [this, &request, part, &sink] { return read_bulk(*store_, request, part, sink); });
      if (!result) co_return propagate(result);
    }
    co_return Result<void>{};
  }
  Task<Result<void>> sync(Executor& executor) override {
    PendingSync sync(executor);
    syncs_.submit(sync);
    co_return co_await sync.done;
  }

  RocksStore& store() { return *store_; }
  BlockingPool& readers() { return readers_; }
  CommitLane& commits() { return commits_; }

 private:
  const std::unique_ptr<RocksStore> store_;
  BlockingPool readers_;
  BlockingPool background_readers_;
  Reclaimer reclaimer_;
  CommitLane commits_;
  SyncLane syncs_;
};

class RocksTransaction final : public Transaction {
 public:
  RocksTransaction(RocksEngine& engine, Executor& executor)
      : engine_(engine), executor_(executor), commit_(executor) {}
  ~RocksTransaction() override {
    if (snapshot_ != nullptr) engine_.store().db().ReleaseSnapshot(snapshot_);
  }

  Task<Result<Version>> read_version() override;
  void set_read_version(Version version) override { commit_.read_version = version; }
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
    commit_.read_conflicts.emplace_back(range.begin, range.end);
  }
  uint64_t mutation_bytes() const override { return commit_.mutations.bytes(); }
  Task<Result<Version>> commit() override;

 private:
  void add(MutationKind kind, std::string_view key, std::string_view value) {
    ASSERT(!committed_);
    commit_.mutations.add(kind, key, value, write_conflicts_);
  }
  // The state that all reads of this transaction see: that of the read version, or the newest one where the
  // version was set, whose difference the conflicts will tell.
  const rocksdb::Snapshot* snapshot() {
    if (snapshot_ == nullptr) {
      const RocksStore::State state = engine_.store().take_snapshot();
      snapshot_ = state.snapshot;
      if (!commit_.read_version) commit_.read_version = state.version;
    }
    return snapshot_;
  }

  RocksEngine& engine_;
  Executor& executor_;
  PendingCommit commit_;
  const rocksdb::Snapshot* snapshot_ = nullptr;
  bool write_conflicts_ = true;
  bool committed_ = false;
};

EngineStats RocksEngine::stats() const {
  EngineStats stats;
  stats.memory_bound_bytes = store_->memory_bytes();
  for (const Family family : {Family::meta, Family::bulk}) {
    for (const std::string& property :
         {rocksdb::DB::Properties::kTotalSstFilesSize, rocksdb::DB::Properties::kTotalBlobFileSize,
          rocksdb::DB::Properties::kCurSizeAllMemTables}) {
      uint64_t bytes = 0;
      if (store_->db().GetIntProperty(store_->family(family), property, &bytes)) stats.stored_bytes += bytes;
    }
  }
  return stats;
}

std::unique_ptr<Transaction> RocksEngine::begin(Executor& executor) {
  return std::make_unique<RocksTransaction>(*this, executor);
}

Task<Result<Version>> RocksTransaction::read_version() {
  if (!commit_.read_version) {
    co_await engine_.readers().run(executor_, [this] { return snapshot(); });
  }
  co_return *commit_.read_version;
}

Task<Result<std::optional<std::string>>> RocksTransaction::get(std::string_view key, Isolation isolation) {
  if (isolation == Isolation::serializable) commit_.read_conflicts.emplace_back(key, key_after(key));
  return engine_.readers().run(executor_, [this, key] { return read_row(engine_.store(), snapshot(), key); });
}

Task<Result<RangeResult>> RocksTransaction::get_range(KeyRange range, RangeOptions options,
                                                      Isolation isolation) {
  Result<RangeResult> result = co_await engine_.readers().run(
      executor_, [this, range, options] { return read_rows(engine_.store(), snapshot(), range, options); });
  if (result && isolation == Isolation::serializable && range.begin < range.end) {
    // What was seen, and not what lies behind it.
    std::string begin(range.begin);
    std::string end(range.end);
    if (result->more) (options.reverse ? begin : end) = result->rows.back().key;
    if (result->more && !options.reverse) end = key_after(end);
    commit_.read_conflicts.emplace_back(std::move(begin), std::move(end));
  }
  co_return result;
}

Task<Result<Version>> RocksTransaction::commit() {
  ASSERT(!committed_);
  committed_ = true;
  // A transaction that changed nothing took effect when it read.
  if (commit_.mutations.empty()) co_return commit_.read_version.value_or(engine_.store().last_version());
  engine_.commits().submit(commit_);
  co_return co_await commit_.done;
}

}  // namespace

Result<std::unique_ptr<Engine>> open_rocks_engine(const RocksOptions& options) {
  ASSERT(crc32c_is_correct());
  ASSIGN_OR_RETURN(std::unique_ptr<RocksStore> store, RocksStore::open(options));
  return std::make_unique<RocksEngine>(std::move(store));
}

}  // namespace fdbnbd::kv
