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

namespace fdbnbd::kv::fdb {

// Holds the commits of one engine to what the cluster can take (docs/decisions/0006-pacing.md).
//
// FoundationDB slows its clients down by keeping them waiting for read versions. A commit at a version that
// was known before asks for none, so the cluster would neither count it nor slow it. Therefore each one pays:
// beside it a read version is asked for that it does not wait for. Only so many payments may be outstanding;
// then the next commit waits before it starts. How many is steered by how long they take, and how many
// commits may be under way by how long those take.
//
// Any thread. No commit may be between admit() and on_commit_ended() when it goes.
class Pacer {
 public:
  Pacer(const Api& api, FDBDatabase* database, const Clock& clock);
  ~Pacer();
  Pacer(const Pacer&) = delete;
  Pacer& operator=(const Pacer&) = delete;

  // Waits until one more commit may start, in the order of the calls, and begins to pay for it.
  // on_commit_ended follows.
  Task<void> admit(Executor& executor);

  // `is_refused`: the cluster is at a limit.
  void on_commit_ended(MonotonicTime started_at, bool is_refused);

 private:
  struct Payment {
    Pacer& pacer;
    TransactionHandle transaction;
    FutureHandle future;
    MonotonicTime started_at;
    std::list<Payment>::iterator self{};
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

  static void on_payment_ready(FDBFuture*, void* payment) noexcept;
  void start_payment();
  void on_payment_ended(Payment& payment);
  // How long nothing is started, after a refusal.
  Duration pause_left() const;
  // With mutex_ held.
  void note_refusal(LatencyWindow& window, MonotonicTime started_at, MonotonicTime now);
  bool has_room() const;
  void take_room();
  void wake_waiters();

  const Api& api_;
  FDBDatabase* const database_;
  const Clock& clock_;

  mutable std::mutex mutex_;
  std::condition_variable all_paid_;
  // Guarded by mutex_.
  LatencyWindow payments_;
  LatencyWindow commits_;
  uint32_t payments_count_ = 0;  // outstanding; of admitted commits, so it may be ahead of outstanding_
  uint32_t commits_count_ = 0;   // under way
  MonotonicTime paused_until_{};
  std::deque<Turn*> waiters_;
  std::list<Payment> outstanding_;
  std::list<Payment> paid_;  // to be freed by the next one, outside the library's thread
};

}  // namespace fdbnbd::kv::fdb
