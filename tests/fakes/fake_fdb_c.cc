// A libfdb_c.so over a cluster in memory: FoundationDB's C interface as far as the engine uses it, with a
// network thread of its own. It is as unkind as the real one may be: results come in a random order,
// callbacks run on the network thread or inside the call that sets them, and a commit whose transaction is
// gone may still take effect. See kv/fdb/fake_fdb_testing.h for how a test steers it.

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <type_traits>

#include "base/assert.h"
#include "fake_network.h"

using namespace fdbnbd::fake;
using namespace fdbnbd::kv::fdb;

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

constexpr int kNoSuchFile = 1515;
constexpr int kClientInvalidOperation = 2000;

std::string bytes(const uint8_t* data, int length) {
  return {reinterpret_cast<const char*>(data), static_cast<size_t>(length)};
}

void add_mutation(FDBTransaction* transaction, fdbnbd::kv::MutationKind kind, std::string key,
                  std::string value) {
  TransactionState& state = *transaction->state;
  const std::lock_guard lock(state.mutex);
  state.used = true;
  state.commit.mutations.add(kind, key, value, !state.next_is_blind);
  state.next_is_blind = false;
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
  run_network();
  return 0;
}

fdb_error_t fdb_stop_network() {
  stop_network();
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
  {
    const std::lock_guard lock(cluster().mutex);
    if (cluster().cancel_ignored) return;
  }
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
  if (hold == 0) run_held_commits();
}

int fake_fdb_held_commits() {
  return held_commits_count();
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

void fake_fdb_set_cancel_ignored(int ignored) {
  const std::lock_guard lock(cluster().mutex);
  cluster().cancel_ignored = ignored != 0;
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
