#include "fake_network.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <utility>

#include "base/assert.h"

void FDB_future::complete(fdbnbd::fake::Reply with) {
  FDBCallback to_call = nullptr;
  {
    const std::lock_guard lock(mutex);
    if (ready) return;
    reply = std::move(with);
    for (const fdbnbd::fake::Row& row : reply.rows)
      view.push_back({reinterpret_cast<const uint8_t*>(row.key.data()), static_cast<int>(row.key.size()),
                      reinterpret_cast<const uint8_t*>(row.value->data()),
                      static_cast<int>(row.value->size())});
    ready = true;
    to_call = callback;
  }
  if (to_call != nullptr) to_call(this, argument);
}

namespace fdbnbd::fake {

using namespace kv::fdb;

namespace {

constexpr size_t kReplyBytes = 80'000;
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

bool is_holding() {
  const std::lock_guard lock(cluster().mutex);
  return cluster().holding;
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

Version read_version_of(TransactionState& transaction, Cluster& locked) {
  const std::lock_guard lock(transaction.mutex);
  if (!transaction.commit.read_version) transaction.commit.read_version = locked.newest_version();
  return *transaction.commit.read_version;
}

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

}  // namespace

Cluster& cluster() {
  static Cluster* const the_cluster = [] {
    auto* made = new Cluster;
    made->reset(1);
    if (const char* const path = std::getenv("FAKE_FDB_ROWS"); path != nullptr) load_rows(*made, path);
    return made;
  }();
  return *the_cluster;
}

void count(FakeCount what, int64_t change) {
  const std::lock_guard lock(cluster().mutex);
  cluster().counts[what] += change;
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

void submit(std::function<void()> task) {
  if (is_immediate()) return task();
  Network& target = network();
  const std::lock_guard lock(target.mutex);
  target.tasks.push_back(std::move(task));
  target.changed.notify_one();
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

void run_network() {
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
        return;
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

void stop_network() {
  Network& target = network();
  const std::lock_guard lock(target.mutex);
  target.stopping = true;
  target.changed.notify_all();
}

void run_held_commits() {
  std::vector<CommitTask> batch;
  {
    const std::lock_guard lock(network().mutex);
    batch.swap(network().commits);
  }
  if (!batch.empty()) run_commits(std::move(batch));
}

int held_commits_count() {
  const std::lock_guard lock(network().mutex);
  return static_cast<int>(network().commits.size());
}

void set_and_answer_parked(bool Cluster::* reason, bool value) {
  Parked parked;
  {
    const std::lock_guard lock(cluster().mutex);
    cluster().*reason = value;
    parked.swap(parked_read_versions());
  }
  for (const auto& [transaction, future] : parked) submit([=] { run_read_version(transaction, future); });
}

}  // namespace fdbnbd::fake
