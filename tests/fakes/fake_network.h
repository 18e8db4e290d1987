#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "fake_cluster.h"
#include "kv/fdb/abi.h"
#include "kv/fdb/fake_fdb_testing.h"

// What answers the calls of the fake library: futures, transactions, and the network thread with what waits
// for it. Any thread.

namespace fdbnbd::fake {

constexpr int kCancelled = 1025;

// The one cluster there is.
Cluster& cluster();

void count(kv::fdb::FakeCount what, int64_t change = 1);

struct Reply {
  int error = 0;
  int64_t number = 0;
  Value value;
  std::vector<Row> rows;
  bool more = false;
};

}  // namespace fdbnbd::fake

// Kept by the caller until destroyed, and by what will make it ready.
struct FDB_future {
  void complete(fdbnbd::fake::Reply with);

  std::mutex mutex;
  // Guarded by mutex.
  bool ready = false;
  fdbnbd::fake::Reply reply;
  std::vector<FDBKeyValue> view;
  FDBCallback callback = nullptr;
  void* argument = nullptr;
  // The caller's own reference, until it destroys the future.
  std::shared_ptr<FDB_future> self;
};

namespace fdbnbd::fake {

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

// A future of the transaction that `start` sees to; one that has failed where the transaction cannot be used
// any more.
FDBFuture* make_future(const TransactionRef& transaction, const std::function<void(FutureRef)>& start);

// To be run by the network thread, or at once where the test wants that.
void submit(std::function<void()> task);
void submit_commit(CommitTask task);

// What is submitted.
void run_read_version(const TransactionRef& transaction, const FutureRef& future);
void run_get(const TransactionRef& transaction, const FutureRef& future, const std::string& key);

struct RangeRequest {
  std::string begin;
  std::string end;
  int limit;
  bool snapshot;
  bool reverse;
};

void run_get_range(const TransactionRef& transaction, const FutureRef& future, const RangeRequest& request);

// Until stop_network().
void run_network();
void stop_network();

// Commits that wait because the cluster holds them: they run as one batch.
void run_held_commits();
int held_commits_count();

// Sets what keeps read versions back; those that it has kept are asked for again.
void set_and_answer_parked(bool Cluster::* reason, bool value);

}  // namespace fdbnbd::fake
