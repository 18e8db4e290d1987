#pragma once

#include <condition_variable>
#include <coroutine>
#include <cstdint>
#include <deque>
#include <list>
#include <mutex>

#include "async/executor.h"
#include "async/task.h"
#include "base/clock.h"
#include "kv/fdb/abi.h"
#include "kv/fdb/api.h"
#include "kv/fdb/handles.h"
#include "kv/fdb/latency_window.h"
#include "kv/fdb/write_rate.h"

namespace fdbnbd::kv::fdb {

// Holds the commits of one engine to what the cluster can take (docs/decisions/0006-pacing.md).
//
// FoundationDB slows its clients down by keeping them waiting for read versions. A commit at a version that
// was known before asks for none, so the cluster would neither count it nor slow it. Therefore each one pays:
// beside it a read version is asked for that it does not wait for. Only so many payments may be outstanding;
// then the next commit waits before it starts. How many is steered by how long they take, and how many
// commits may be under way by how long those take. That alone lets a cluster with slow disks be filled up
// first, so the bytes a second are steered by the queues of the storage servers, which the cluster tells.
//
// Any thread. No commit may be between admit() and its end when it goes.
class Pacer {
 public:
  Pacer(const Api& api, FDBDatabase* database, const Clock& clock);
  ~Pacer();
  Pacer(const Pacer&) = delete;
  Pacer& operator=(const Pacer&) = delete;

  // Waits until one more commit, with `bytes` of mutations, may start, in the order of the calls, and begins
  // to pay for it. on_commit_ended or give_back follows.
  Task<void> admit(Executor& executor, uint64_t bytes);

  // How long the disks' part of admit() would take.
  Duration commit_wait() const;

  // `is_refused`: the cluster is at a limit.
  void on_commit_ended(MonotonicTime started_at, bool is_refused);
  // One that was admitted has not been made.
  void give_back();

 private:
  // Something that was asked of the cluster, and what to do with the answer.
  struct Question {
    Pacer& pacer;
    void (Pacer::*on_answer)(const Question&);
    TransactionHandle transaction;
    FutureHandle future;
    MonotonicTime started_at;
    std::list<Question>::iterator self{};
  };

  class Turn final : private Work {
   public:
    Turn(Pacer& pacer, Executor& executor) : pacer_(pacer), executor_(executor) {}
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> waiter);
    void await_resume() const noexcept {}

    void grant() { executor_.post(*this); }

   private:
    void run() noexcept override { waiter_.resume(); }

    Pacer& pacer_;
    Executor& executor_;
    std::coroutine_handle<> waiter_;
  };

  // Sends a question; `ask` makes its future.
  template <typename Ask>
  void start(void (Pacer::*on_answer)(const Question&), Ask ask);
  static void on_ready(FDBFuture*, void* question) noexcept;
  // With mutex_ held.
  void on_paid(const Question& payment);
  void on_health(const Question& question);

  // How long nothing is started, after a refusal.
  Duration pause_left() const;
  // How long a commit of `bytes` has to wait for its part of the bytes a second; and whether it is time to
  // look at the queues.
  Duration take_bytes(uint64_t bytes, bool& look);
  // With mutex_ held.
  void note_refusal(LatencyWindow& window, MonotonicTime started_at, MonotonicTime now);
  bool has_room() const;
  void take_room();
  void wake_waiters();

  const Api& api_;
  FDBDatabase* const database_;
  const Clock& clock_;

  mutable std::mutex mutex_;
  std::condition_variable all_answered_;
  // Guarded by mutex_.
  LatencyWindow payments_;
  LatencyWindow commits_;
  WriteRate rate_;
  MonotonicTime looked_at_{};  // at the queues
  bool is_looking_ = false;
  uint32_t payments_count_ = 0;  // outstanding; of admitted commits, so it may be ahead of outstanding_
  uint32_t commits_count_ = 0;   // under way
  MonotonicTime paused_until_{};
  std::deque<Turn*> waiters_;
  std::list<Question> outstanding_;
  std::list<Question> answered_;  // to be freed by the next one, outside the library's thread
};

}  // namespace fdbnbd::kv::fdb
