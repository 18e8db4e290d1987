// A libfdb_c.so over a cluster in memory: FoundationDB's C interface as far as the engine uses it, with a
// network thread of its own. It is as unkind as the real one may be: results come in a random order,
// callbacks run on the network thread or inside the call that sets them, and a commit whose transaction is
// gone may still take effect. See kv/fdb/fake_fdb_testing.h for how a test steers it.

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <type_traits>

#include "base/assert.h"
#include "fake_cluster.h"
#include "kv/fdb/abi.h"

using fdbnbd::fake::Cluster;
using fdbnbd::fake::Commit;
using fdbnbd::fake::Fault;
using fdbnbd::fake::Row;
using fdbnbd::fake::Value;
using fdbnbd::fake::Version;
using namespace fdbnbd::kv::fdb;

namespace {

constexpr size_t kReplyBytes = 80'000;
constexpr int kNoSuchFile = 1515;
constexpr int kCancelled = 1025;
constexpr int kClientInvalidOperation = 2000;
constexpr int kUsedDuringCommit = 2017;

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

// Stores the rows of a file of lines "KEY VALUE" in hexadecimal; "-" is an empty value.
void load_rows(Cluster& empty, const char* path) {
  Commit rows;
  std::ifstream file(path);
  for (std::string key, value; file >> key >> value;)
    rows.mutations.add(fdbnbd::kv::MutationKind::set, from_hex(key), from_hex(value), true);
  Version version = 0;
  empty.begin_batch();
  empty.commit(rows, version);
}

Cluster& cluster() {
  static Cluster* const the_cluster = [] {
    auto* made = new Cluster;
    made->reset(1);
    if (const char* const path = std::getenv("FAKE_FDB_ROWS"); path != nullptr) load_rows(*made, path);
    return made;
  }();
  return *the_cluster;
}

void count(FakeCount what, int64_t change = 1) {
  const std::lock_guard lock(cluster().mutex);
  cluster().counts[what] += change;
}

std::string bytes(const uint8_t* data, int length) {
  return {reinterpret_cast<const char*>(data), static_cast<size_t>(length)};
}

struct Reply {
  int error = 0;
  int64_t number = 0;
  Value value;
  std::vector<Row> rows;
  bool more = false;
};

}  // namespace

// Kept by the caller until destroyed, and by what will make it ready.
struct FDB_future {
  void complete(Reply with) {
    FDBCallback to_call = nullptr;
    {
      const std::lock_guard lock(mutex);
      if (ready) return;
      reply = std::move(with);
      for (const Row& row : reply.rows)
        view.push_back({reinterpret_cast<const uint8_t*>(row.key.data()), static_cast<int>(row.key.size()),
                        reinterpret_cast<const uint8_t*>(row.value->data()),
                        static_cast<int>(row.value->size())});
      ready = true;
      to_call = callback;
    }
    if (to_call != nullptr) to_call(this, argument);
  }

  std::mutex mutex;
  // Guarded by mutex.
  bool ready = false;
  Reply reply;
  std::vector<FDBKeyValue> view;
  FDBCallback callback = nullptr;
  void* argument = nullptr;
  // The caller's own reference, until it destroys the future.
  std::shared_ptr<FDB_future> self;
};

namespace {

using FutureRef = std::shared_ptr<FDB_future>;

// What outlives the caller's handle while something is under way.
struct TransactionState {
  std::mutex mutex;
  // Guarded by mutex.
  Commit commit;
  bool next_is_blind = false;
  bool batch_priority = false;
  bool committing = false;
  bool cancelled = false;
  bool used = false;
  int64_t size_limit_bytes = 10'000'000;
  Version committed_version = -1;
  std::vector<std::weak_ptr<FDB_future>> futures;
};
using TransactionRef = std::shared_ptr<TransactionState>;

struct CommitTask {
  TransactionRef transaction;
  Commit request;
  FutureRef future;
};

// The network thread's queue.
struct Network {
  std::mutex mutex;
  std::condition_variable changed;
  // Guarded by mutex.
  std::vector<std::function<void()>> tasks;
  std::vector<CommitTask> commits;
  bool stopping = false;
};
Network& network() {
  static Network* const the_network = new Network;
  return *the_network;
}

void finish_commit(const CommitTask& task, int error, Version version) {
  if (error == 0) {
    const std::lock_guard lock(task.transaction->mutex);
    task.transaction->committed_version = version;
  }
  task.future->complete({.error = error, .number = 0, .value = {}, .rows = {}, .more = false});
}

void run_commits(std::vector<CommitTask> batch) {
  std::vector<std::pair<int, Version>> outcomes;
  {
    Cluster& target = cluster();
    const std::lock_guard lock(target.mutex);
    target.begin_batch();
    for (CommitTask& task : batch) {
      Version version = -1;
      // What a commit in a queue is judged by was fixed when it was sent.
      if (!task.request.read_version) task.request.read_version = target.newest_version();
      const std::optional<Fault> fault = target.take_fault(kFakeCommit);
      int error = 0;
      if (!fault || fault->outcome == kFakeApplied) error = target.commit(task.request, version);
      if (fault && fault->outcome == kFakeLate) target.late_commits.push_back(std::move(task.request));
      if (fault) error = fault->error;
      outcomes.emplace_back(error, version);
    }
  }
  for (size_t i = 0; i < batch.size(); ++i) finish_commit(batch[i], outcomes[i].first, outcomes[i].second);
}

bool is_immediate() {
  const std::lock_guard lock(cluster().mutex);
  return cluster().immediate;
}

void submit(std::function<void()> task) {
  if (is_immediate()) return task();
  Network& target = network();
  const std::lock_guard lock(target.mutex);
  target.tasks.push_back(std::move(task));
  target.changed.notify_one();
}

bool is_holding() {
  const std::lock_guard lock(cluster().mutex);
  return cluster().holding;
}

void submit_commit(CommitTask task) {
  if (is_immediate() && !is_holding()) {
    std::vector<CommitTask> batch;
    batch.push_back(std::move(task));
    return run_commits(std::move(batch));
  }
  Network& target = network();
  const std::lock_guard lock(target.mutex);
  target.commits.push_back(std::move(task));
  target.changed.notify_one();
}

// Commits to run now: all that wait, or any one of them.
std::vector<CommitTask> take_commits(std::vector<CommitTask>& commits) {
  Cluster& source = cluster();
  const std::lock_guard lock(source.mutex);
  std::vector<CommitTask> batch;
  if (source.holding || commits.empty()) return batch;
  if (source.batching) {
    batch.swap(commits);
  } else {
    const auto picked = commits.begin() + static_cast<std::ptrdiff_t>(source.random.below(commits.size()));
    batch.push_back(std::move(*picked));
    commits.erase(picked);
  }
  return batch;
}

bool pick_commits_first() {
  const std::lock_guard lock(cluster().mutex);
  return cluster().random.one_in(2);
}

size_t pick(size_t bound) {
  const std::lock_guard lock(cluster().mutex);
  return cluster().random.below(bound);
}

FDBFuture* make_future(const TransactionRef& transaction, const std::function<void(FutureRef)>& start) {
  auto future = std::make_shared<FDB_future>();
  future->self = future;
  count(kFakeLiveFutures);
  bool cancelled = false;
  bool misused = false;
  {
    const std::lock_guard lock(transaction->mutex);
    transaction->used = true;
    cancelled = transaction->cancelled;
    misused = transaction->committing;
    transaction->futures.push_back(future);
  }
  if (cancelled || misused) {
    future->complete({.error = cancelled ? kCancelled : kUsedDuringCommit,
                      .number = 0,
                      .value = {},
                      .rows = {},
                      .more = false});
  } else {
    start(future);
  }
  return future.get();
}

Version read_version_of(TransactionState& transaction, Cluster& locked) {
  const std::lock_guard lock(transaction.mutex);
  if (!transaction.commit.read_version) transaction.commit.read_version = locked.newest_version();
  return *transaction.commit.read_version;
}

void add_mutation(FDBTransaction* transaction, fdbnbd::kv::MutationKind kind, std::string key,
                  std::string value);

// Guarded by the cluster's mutex: what waits until the cluster can be reached.
using Parked = std::vector<std::pair<TransactionRef, FutureRef>>;
Parked& parked_read_versions() {
  static Parked* const parked = new Parked;
  return *parked;
}

bool is_at_batch_priority(TransactionState& transaction) {
  const std::lock_guard lock(transaction.mutex);
  return transaction.batch_priority;
}

bool is_cancelled(TransactionState& transaction) {
  const std::lock_guard lock(transaction.mutex);
  return transaction.cancelled;
}

void run_read_version(const TransactionRef& transaction, const FutureRef& future) {
  if (is_cancelled(*transaction)) return;  // and its future is ready
  Reply reply;
  {
    Cluster& source = cluster();
    const std::lock_guard lock(source.mutex);
    if (source.unreachable || (source.batch_starved && is_at_batch_priority(*transaction))) {
      parked_read_versions().emplace_back(transaction, future);
      return;
    }
    if (const auto fault = source.take_fault(kFakeReadVersion)) {
      reply.error = fault->error;
    } else {
      ++source.counts[kFakeReadVersions];
      reply.number = read_version_of(*transaction, source);
      if (is_at_batch_priority(*transaction)) ++source.counts[kFakeBatchReadVersions];
    }
  }
  future->complete(std::move(reply));
}

void run_get(const TransactionRef& transaction, const FutureRef& future, const std::string& key) {
  Reply reply;
  {
    Cluster& source = cluster();
    const std::lock_guard lock(source.mutex);
    ++source.counts[kFakeGets];
    const Version version = read_version_of(*transaction, source);
    if (const auto fault = source.take_fault(kFakeGet)) {
      reply.error = fault->error;
    } else {
      reply.error = source.check_readable(version);
      if (reply.error == 0) reply.value = source.get(key, version);
    }
  }
  future->complete(std::move(reply));
}

struct RangeRequest {
  std::string begin;
  std::string end;
  int limit;
  bool snapshot;
  bool reverse;
};

void run_get_range(const TransactionRef& transaction, const FutureRef& future, const RangeRequest& request) {
  Reply reply;
  {
    Cluster& source = cluster();
    const std::lock_guard lock(source.mutex);
    ++source.counts[kFakeRangeReplies];
    const Version version = read_version_of(*transaction, source);
    if (const auto fault = source.take_fault(kFakeRange)) {
      reply.error = fault->error;
    } else {
      reply.error = source.check_readable(version);
    }
    if (reply.error == 0) {
      const size_t limit = request.limit > 0 ? static_cast<size_t>(request.limit) : SIZE_MAX;
      reply.more = source.get_range(request.begin, request.end, limit, kReplyBytes, request.reverse, version,
                                    reply.rows);
      int64_t reply_bytes = 0;
      for (const Row& row : reply.rows)
        reply_bytes += static_cast<int64_t>(row.key.size() + row.value->size());
      int64_t& largest = source.counts[kFakeLargestReplyBytes];
      largest = std::max(largest, reply_bytes);
      if (!request.snapshot) {
        std::string begin = request.begin;
        std::string end = request.end;
        if (reply.more) (request.reverse ? begin : end) = reply.rows.back().key;
        if (reply.more && !request.reverse) end.push_back('\0');
        const std::lock_guard transaction_lock(transaction->mutex);
        transaction->commit.read_conflicts.emplace_back(std::move(begin), std::move(end));
      }
    }
  }
  future->complete(std::move(reply));
}

}  // namespace

struct FDB_transaction {
  FDB_transaction() { count(kFakeLiveTransactions); }
  ~FDB_transaction() { count(kFakeLiveTransactions, -1); }
  TransactionRef state = std::make_shared<TransactionState>();
};
struct FDB_database {
  FDB_database() { count(kFakeLiveDatabases); }
  ~FDB_database() { count(kFakeLiveDatabases, -1); }
  int64_t size_limit_bytes = 10'000'000;
};

namespace {

void add_mutation(FDBTransaction* transaction, fdbnbd::kv::MutationKind kind, std::string key,
                  std::string value) {
  TransactionState& state = *transaction->state;
  const std::lock_guard lock(state.mutex);
  state.used = true;
  state.commit.mutations.add(kind, key, value, !state.next_is_blind);
  state.next_is_blind = false;
}

// Sets what keeps read versions back; those that it has kept are asked for again.
void set_and_answer_parked(bool Cluster::* reason, bool value) {
  Parked parked;
  {
    const std::lock_guard lock(cluster().mutex);
    cluster().*reason = value;
    parked.swap(parked_read_versions());
  }
  for (const auto& [transaction, future] : parked) submit([=] { run_read_version(transaction, future); });
}

}  // namespace

extern "C" {

const char* fdb_get_error(fdb_error_t error) {
  switch (error) {
    case 0:
      return "Success";
    case 1007:
      return "Transaction is too old to perform reads or be committed";
    case 1020:
      return "Transaction not committed due to conflict with another transaction";
    case 1021:
      return "Transaction may or may not have committed";
    case kNoSuchFile:
      return "No cluster file found in current directory or default location";
    default:
      return "An error of the fake";
  }
}

// An older library, where the environment asks for one.
int fdb_get_max_api_version() {
  const char* const version = std::getenv("FAKE_FDB_MAX_API_VERSION");
  return version == nullptr ? 740 : std::atoi(version);
}

fdb_error_t fdb_select_api_version_impl(int runtime_version, int header_version) {
  static int selected = 0;
  if (selected != 0) return 2201;
  if (runtime_version != header_version || header_version > fdb_get_max_api_version()) return 2203;
  selected = runtime_version;
  return 0;
}

// Refuses what the real one refuses, and one TLS password. What it takes it notes, as "CODE VALUE", in a file
// where the environment asks for that.
fdb_error_t fdb_network_set_option(int option, const uint8_t* value, int length) {
  if (option == 65 && length != 8) return 2006;
  const std::string text = bytes(value, length);
  if (option == 54 && text == "refused") return 2006;
  if (const char* const path = std::getenv("FAKE_FDB_OPTIONS"); path != nullptr)
    std::ofstream(path, std::ios::app) << option << ' ' << text << '\n';
  return 0;
}

fdb_error_t fdb_setup_network() {
  static bool is_set_up = false;
  return std::exchange(is_set_up, true) ? 2009 : 0;
}

fdb_error_t fdb_run_network() {
  // As the real library's: made when the network runs, destroyed early at exit, and needed to the end.
  static std::atomic<bool> is_destroyed = false;
  struct Late {
    ~Late() { is_destroyed = true; }
  };
  static const Late late;
  Network& source = network();
  while (true) {
    if (is_destroyed) std::abort();
    std::vector<CommitTask> batch;
    std::function<void()> task;
    {
      std::unique_lock lock(source.mutex);
      if (source.stopping) {
        if (is_destroyed) std::abort();
        return 0;
      }
      if (pick_commits_first() || source.tasks.empty()) batch = take_commits(source.commits);
      if (batch.empty()) {
        if (source.tasks.empty()) {
          source.changed.wait(lock);
          continue;
        }
        const size_t index = pick(source.tasks.size());
        task = std::move(source.tasks[index]);
        source.tasks.erase(source.tasks.begin() + static_cast<std::ptrdiff_t>(index));
      }
    }
    if (!batch.empty()) {
      run_commits(std::move(batch));
    } else {
      task();
    }
  }
}

fdb_error_t fdb_stop_network() {
  Network& target = network();
  const std::lock_guard lock(target.mutex);
  target.stopping = true;
  target.changed.notify_all();
  return 0;
}

// A cluster file whose name says that it is missing.
fdb_error_t fdb_create_database(const char* cluster_file, FDBDatabase** database) {
  if (cluster_file != nullptr && std::strstr(cluster_file, "missing") != nullptr) return kNoSuchFile;
  *database = new FDB_database;
  return 0;
}

void fdb_database_destroy(FDBDatabase* database) {
  delete database;
}

fdb_error_t fdb_database_set_option(FDBDatabase* database, int option, const uint8_t* value, int length) {
  if (option != static_cast<int>(DatabaseOption::transaction_size_limit)) {
    count(kFakeForbiddenOptions);
    return 0;
  }
  if (length != 8) return 2006;
  std::memcpy(&database->size_limit_bytes, value, 8);
  return 0;
}

fdb_error_t fdb_database_create_transaction(FDBDatabase* database, FDBTransaction** transaction) {
  *transaction = new FDB_transaction;
  (*transaction)->state->size_limit_bytes = database->size_limit_bytes;
  return 0;
}

void fdb_transaction_destroy(FDBTransaction* transaction) {
  delete transaction;
}

void fdb_transaction_cancel(FDBTransaction* transaction) {
  std::vector<std::weak_ptr<FDB_future>> futures;
  {
    const std::lock_guard lock(transaction->state->mutex);
    transaction->state->cancelled = true;
    futures.swap(transaction->state->futures);
  }
  // A commit among them goes on.
  for (const auto& future : futures)
    if (const FutureRef alive = future.lock())
      alive->complete({.error = kCancelled, .number = 0, .value = {}, .rows = {}, .more = false});
}

fdb_error_t fdb_transaction_set_option(FDBTransaction* transaction, int option, const uint8_t*, int) {
  TransactionState& state = *transaction->state;
  bool forbidden = false;
  {
    const std::lock_guard lock(state.mutex);
    switch (static_cast<TransactionOption>(option)) {
      case TransactionOption::read_your_writes_disable:
        return state.used ? kClientInvalidOperation : 0;
      case TransactionOption::next_write_no_write_conflict_range:
        state.next_is_blind = true;
        return 0;
      case TransactionOption::priority_batch:
        state.batch_priority = true;
        return 0;
      case TransactionOption::read_priority_low:
      case TransactionOption::read_server_side_cache_disable:
      case TransactionOption::size_limit:
        return 0;
      case TransactionOption::causal_write_risky:
      case TransactionOption::timeout:
      case TransactionOption::retry_limit:
        forbidden = true;
        break;
    }
  }
  if (!forbidden) return 2007;
  count(kFakeForbiddenOptions);
  return 0;
}

void fdb_transaction_set_read_version(FDBTransaction* transaction, int64_t version) {
  const std::lock_guard lock(transaction->state->mutex);
  transaction->state->commit.read_version = version;
}

FDBFuture* fdb_transaction_get_read_version(FDBTransaction* transaction) {
  const TransactionRef state = transaction->state;
  return make_future(
      state, [&](const FutureRef& future) { submit([state, future] { run_read_version(state, future); }); });
}

FDBFuture* fdb_transaction_get(FDBTransaction* transaction, const uint8_t* key, int length,
                               fdb_bool_t snapshot) {
  const TransactionRef state = transaction->state;
  const std::string name = bytes(key, length);
  if (snapshot == 0) {
    const std::lock_guard lock(state->mutex);
    state->commit.read_conflicts.emplace_back(name, fdbnbd::kv::key_after(name));
  }
  return make_future(state, [&](const FutureRef& future) {
    submit([state, future, name] { run_get(state, future, name); });
  });
}

FDBFuture* fdb_transaction_get_range(FDBTransaction* transaction, const uint8_t* begin, int begin_length,
                                     fdb_bool_t begin_or_equal, int begin_offset, const uint8_t* end,
                                     int end_length, fdb_bool_t end_or_equal, int end_offset, int limit,
                                     int /*target_bytes*/, int mode, int /*iteration*/, fdb_bool_t snapshot,
                                     fdb_bool_t reverse) {
  // Only first-greater-or-equal selectors and replies of the largest size are used.
  ASSERT(begin_or_equal == 0 && begin_offset == 1 && end_or_equal == 0 && end_offset == 1);
  ASSERT(mode == static_cast<int>(StreamingMode::want_all));
  const TransactionRef state = transaction->state;
  const RangeRequest request{bytes(begin, begin_length), bytes(end, end_length), limit, snapshot != 0,
                             reverse != 0};
  return make_future(state, [&](const FutureRef& future) {
    submit([state, future, request] { run_get_range(state, future, request); });
  });
}

void fdb_transaction_set(FDBTransaction* transaction, const uint8_t* key, int key_length,
                         const uint8_t* value, int value_length) {
  add_mutation(transaction, fdbnbd::kv::MutationKind::set, bytes(key, key_length),
               bytes(value, value_length));
}

void fdb_transaction_clear(FDBTransaction* transaction, const uint8_t* key, int length) {
  add_mutation(transaction, fdbnbd::kv::MutationKind::clear, bytes(key, length), {});
}

void fdb_transaction_clear_range(FDBTransaction* transaction, const uint8_t* begin, int begin_length,
                                 const uint8_t* end, int end_length) {
  add_mutation(transaction, fdbnbd::kv::MutationKind::clear_range, bytes(begin, begin_length),
               bytes(end, end_length));
}

void fdb_transaction_atomic_op(FDBTransaction* transaction, const uint8_t* key, int key_length,
                               const uint8_t* operand, int operand_length, int type) {
  const auto mutation = static_cast<MutationType>(type);
  ASSERT(mutation == MutationType::bit_or || mutation == MutationType::bit_and);
  add_mutation(
      transaction,
      mutation == MutationType::bit_or ? fdbnbd::kv::MutationKind::bit_or : fdbnbd::kv::MutationKind::bit_and,
      bytes(key, key_length), bytes(operand, operand_length));
}

fdb_error_t fdb_transaction_add_conflict_range(FDBTransaction* transaction, const uint8_t* begin,
                                               int begin_length, const uint8_t* end, int end_length,
                                               int type) {
  ASSERT(static_cast<ConflictRangeType>(type) == ConflictRangeType::read);
  const std::lock_guard lock(transaction->state->mutex);
  transaction->state->commit.read_conflicts.emplace_back(bytes(begin, begin_length), bytes(end, end_length));
  return 0;
}

FDBFuture* fdb_transaction_commit(FDBTransaction* transaction) {
  const TransactionRef state = transaction->state;
  return make_future(state, [&](const FutureRef& future) {
    CommitTask task{state, {}, future};
    int64_t size_limit_bytes = 0;
    {
      const std::lock_guard lock(state->mutex);
      state->committing = true;
      task.request = state->commit;
      size_limit_bytes = state->size_limit_bytes;
    }
    if (task.request.mutations.bytes() > static_cast<uint64_t>(size_limit_bytes)) {
      future->complete({.error = 2101, .number = 0, .value = {}, .rows = {}, .more = false});
      return;
    }
    submit_commit(std::move(task));
  });
}

fdb_error_t fdb_transaction_get_committed_version(FDBTransaction* transaction, int64_t* version) {
  const std::lock_guard lock(transaction->state->mutex);
  *version = transaction->state->committed_version;
  return 0;
}

void fdb_future_destroy(FDBFuture* future) {
  count(kFakeLiveFutures, -1);
  const FutureRef last = std::exchange(future->self, nullptr);
}

fdb_error_t fdb_future_set_callback(FDBFuture* future, FDBCallback callback, void* argument) {
  // The future outlives the call even where the callback destroys it.
  const FutureRef alive = future->self;
  {
    const std::lock_guard lock(future->mutex);
    if (!future->ready) {
      future->callback = callback;
      future->argument = argument;
      return 0;
    }
  }
  count(kFakeInlineCallbacks);
  callback(future, argument);
  return 0;
}

fdb_error_t fdb_future_get_error(FDBFuture* future) {
  const std::lock_guard lock(future->mutex);
  return future->ready ? future->reply.error : 2015;
}

fdb_error_t fdb_future_get_int64(FDBFuture* future, int64_t* number) {
  const std::lock_guard lock(future->mutex);
  if (!future->ready) return 2015;
  *number = future->reply.number;
  return future->reply.error;
}

fdb_error_t fdb_future_get_value(FDBFuture* future, fdb_bool_t* present, const uint8_t** value, int* length) {
  const std::lock_guard lock(future->mutex);
  if (!future->ready) return 2015;
  const Value& found = future->reply.value;
  *present = found != nullptr ? 1 : 0;
  if (found != nullptr) {
    *value = reinterpret_cast<const uint8_t*>(found->data());
    *length = static_cast<int>(found->size());
  }
  return future->reply.error;
}

fdb_error_t fdb_future_get_keyvalue_array(FDBFuture* future, const FDBKeyValue** rows, int* rows_count,
                                          fdb_bool_t* more) {
  const std::lock_guard lock(future->mutex);
  if (!future->ready) return 2015;
  *rows = future->view.data();
  *rows_count = static_cast<int>(future->view.size());
  *more = future->reply.more ? 1 : 0;
  return future->reply.error;
}

void fake_fdb_reset(uint64_t seed) {
  const std::lock_guard lock(cluster().mutex);
  cluster().reset(seed);
}

void fake_fdb_script(int operation, int error, int outcome, int count) {
  const std::lock_guard lock(cluster().mutex);
  for (int i = 0; i < count; ++i)
    cluster().faults[static_cast<size_t>(operation)].push_back({error, outcome});
}

void fake_fdb_hold_commits(int hold) {
  {
    const std::lock_guard lock(cluster().mutex);
    cluster().holding = hold != 0;
  }
  if (hold != 0) return;
  std::vector<CommitTask> batch;
  {
    const std::lock_guard lock(network().mutex);
    batch.swap(network().commits);
  }
  if (!batch.empty()) run_commits(std::move(batch));
}

int fake_fdb_held_commits() {
  const std::lock_guard lock(network().mutex);
  return static_cast<int>(network().commits.size());
}

void fake_fdb_release_late_commits() {
  Cluster& target = cluster();
  const std::lock_guard lock(target.mutex);
  for (const Commit& request : std::exchange(target.late_commits, {})) {
    Version version = 0;
    target.begin_batch();
    static_cast<void>(target.commit(request, version));
  }
}

int fake_fdb_late_commits() {
  const std::lock_guard lock(cluster().mutex);
  return static_cast<int>(cluster().late_commits.size());
}

void fake_fdb_advance_versions(int64_t versions) {
  const std::lock_guard lock(cluster().mutex);
  cluster().advance(versions);
}

void fake_fdb_set_window(int64_t versions) {
  const std::lock_guard lock(cluster().mutex);
  cluster().set_window(versions);
}

void fake_fdb_set_unreachable(int unreachable) {
  set_and_answer_parked(&Cluster::unreachable, unreachable != 0);
}

void fake_fdb_set_batch_starved(int starved) {
  set_and_answer_parked(&Cluster::batch_starved, starved != 0);
}

void fake_fdb_set_immediate(int immediate) {
  const std::lock_guard lock(cluster().mutex);
  cluster().immediate = immediate != 0;
}

void fake_fdb_set_batching(int batching) {
  const std::lock_guard lock(cluster().mutex);
  cluster().batching = batching != 0;
}

int64_t fake_fdb_count(int what) {
  const std::lock_guard lock(cluster().mutex);
  return cluster().counts[static_cast<size_t>(what)];
}

}  // extern "C"

// The fake has exactly the functions that the loader looks for.
#define FDBNBD_FAKE_CHECK(name, result, parameters) \
  static_assert(std::is_same_v<decltype(&fdb_##name), result(*) parameters>);
FDBNBD_FDB_REQUIRED_FUNCTIONS(FDBNBD_FAKE_CHECK)
