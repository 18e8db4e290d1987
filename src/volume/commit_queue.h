#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "async/executor.h"
#include "async/scope.h"
#include "async/task.h"
#include "base/random.h"
#include "base/result.h"
#include "kv/engine.h"
#include "volume/fence.h"
#include "volume/keys.h"

namespace fdbnbd::volume {

// Group commit: what queued while earlier commits were in flight goes together, in the order of arrival, up
// to limits::kCommitTargetBytes a transaction and as many transactions at once as the engine asks for; beyond
// limits::kMaxPartialCommits only full ones, since many small transactions cost the store more than few large
// ones.
//
// The callers' range locks see to it that no two intents in the queue touch one block. On the executor's
// thread.
class CommitQueue {
  class Group;

 public:
  // Changes that go into one transaction. Kept by the caller until the group is done.
  class Intent {
   public:
    // Adds the changes. May be called several times (a commit that is tried again) and must add the same each
    // time.
    virtual void apply(kv::Transaction& transaction) = 0;

    // Whether the commit took effect; known once the group is done.
    bool is_committed() const { return is_committed_; }

    uint64_t estimated_bytes = 0;
    uint32_t mutations_count = 0;
    LayerId layer;  // the top layer that the changes are made for

   protected:
    ~Intent() = default;

   private:
    friend class CommitQueue;
    Group* group_ = nullptr;
    bool is_committed_ = false;
    bool is_in_doubt_ = false;  // an attempt's result was lost, of this layer or one before it
  };

  CommitQueue(kv::Engine& engine, Executor& executor, Fence& fence);
  // Idle.
  ~CommitQueue();

  // Commits all of `intents`, in one or several transactions; done when all are resolved. The first failure,
  // if any; then some of the others may have taken effect. fenced, no_space, io, corruption; conflict where
  // the volume has another top layer now, so that the intent has to be made for that one.
  Task<Result<void>> commit(std::vector<Intent*> intents);
  Task<Result<void>> commit(Intent& intent);

  // Waits until nothing is queued or in flight, nor left to do behind the last reply: only then it may end.
  auto idle() { return scope_.join(); }

 private:
  // The intents of one caller: counts them down and resumes it.
  class Group {
   public:
    explicit Group(size_t intents_count) : remaining_(intents_count) {}

    bool await_ready() const noexcept { return remaining_ == 0; }
    void await_suspend(std::coroutine_handle<> waiter) noexcept { waiter_ = waiter; }
    Result<void> await_resume() { return std::move(result_); }

    void finish_one(const Result<void>& result) {
      if (!result && result_) result_ = result;
      if (--remaining_ == 0 && waiter_) waiter_.resume();
    }

    size_t remaining_;
    Result<void> result_;
    std::coroutine_handle<> waiter_;
  };

  class Pump final : public Work {
   public:
    explicit Pump(CommitQueue& queue) : queue_(queue) {}
    void run() noexcept override { queue_.start_batches(); }

   private:
    CommitQueue& queue_;
  };

  // Of two queues: requests of one intent, and larger ones. A batch takes from both, so that a small request
  // does not wait behind all that large ones have queued.
  using Queue = std::deque<Intent*>;
  void enqueue(Queue& queue, Intent& intent, Group& group);
  bool is_queue_empty() const { return small_.empty() && large_.empty(); }
  bool may_start() const;
  std::unique_ptr<kv::Transaction> begin();
  // Moves the first intent of `queue` to the batch, and more while it stays within the bounds.
  struct Batch;
  void fill(Batch& batch, Queue& queue, uint64_t bytes_limit);
  void schedule_pump();
  void start_batches();
  Task<void> run_batch(std::vector<Intent*> batch);
  // Leaves the last `transaction` that it needed to the caller.
  Task<Result<void>> commit_batch(std::vector<Intent*>& batch, std::unique_ptr<kv::Transaction>& transaction);
  // After an attempt that failed with `error`: success where another one may follow.
  Task<Result<void>> recover(const Error& error, uint32_t attempt);
  static void finish(const std::vector<Intent*>& intents, const Result<void>& result);
  // Whether it is made for a layer that is not the top any more.
  bool is_outdated(const Intent& intent) const { return intent.layer != fence_.record().top_layer; }
  // Takes those out of `batch`, and ends them, that are.
  void turn_back_outdated(std::vector<Intent*>& batch);

  kv::Engine& engine_;
  Executor& executor_;
  Fence& fence_;
  const uint32_t batches_limit_;
  const bool begins_ahead_;
  Random random_{1};  // for back-off
  Queue small_;
  Queue large_;
  uint64_t queued_bytes_ = 0;   // of both queues
  uint32_t batches_count_ = 0;  // in flight
  // The next transaction, begun before there is anything for it.
  std::unique_ptr<kv::Transaction> begun_;
  bool pump_posted_ = false;
  Pump pump_{*this};
  TaskScope scope_;
};

}  // namespace fdbnbd::volume
