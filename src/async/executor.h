#pragma once

#include <coroutine>

#include "base/clock.h"
#include "base/function.h"

namespace fdbnbd {

// Something to run on an executor. The owner keeps it alive until run() is called, and does not post it twice
// before that.
class Work {
 public:
  virtual void run() noexcept = 0;

 protected:
  ~Work() = default;

 private:
  friend class WorkList;
  Work* next_ = nullptr;
};

// An intrusive queue of Work, first in first out. Not synchronised.
class WorkList {
 public:
  bool empty() const { return head_ == nullptr; }
  void push(Work& work) {
    work.next_ = nullptr;
    (head_ == nullptr ? head_ : tail_->next_) = &work;
    tail_ = &work;
  }
  // The oldest; only where not empty.
  Work& pop() {
    Work& work = *head_;
    head_ = work.next_;
    return work;
  }
  WorkList take() {
    WorkList all = *this;
    head_ = nullptr;
    return all;
  }

 private:
  Work* head_ = nullptr;
  Work* tail_ = nullptr;
};

// Work that waits for a time. The owner keeps it alive until it ran or was cancelled.
class TimerWork : public Work {
 protected:
  ~TimerWork() = default;

 private:
  friend class TimerQueue;
  MonotonicTime due_{};
  uint64_t sequence_ = 0;  // 0 while not started
};

// One thread that runs Work in order: an I/O loop in production, a simulated loop in tests.
class Executor {
 public:
  virtual ~Executor() = default;

  // Runs `work` later, never inside the call. Any thread.
  virtual void post(Work& work) = 0;

  // Whether the calling thread is the one that runs the work.
  virtual bool runs_here() const = 0;

  virtual const Clock& clock() const = 0;

  // Starts or cancels a timer; a cancelled one does not run. Only on the executor's thread. Cancelling one
  // that ran or never started does nothing.
  virtual void start_timer(TimerWork& timer, Duration delay) = 0;
  virtual void cancel_timer(TimerWork& timer) = 0;
};

// Runs `function` later on `executor`. Any thread.
void post(Executor& executor, UniqueFunction<void()> function);

// `co_await reschedule(executor)`: continue on the executor's thread, behind what is queued there.
class Reschedule final : private Work {
 public:
  explicit Reschedule(Executor& executor) : executor_(executor) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiter) noexcept {
    waiter_ = waiter;
    executor_.post(*this);
  }
  void await_resume() const noexcept {}

 private:
  void run() noexcept override { waiter_.resume(); }

  Executor& executor_;
  std::coroutine_handle<> waiter_;
};
inline Reschedule reschedule(Executor& executor) {
  return Reschedule(executor);
}

// `co_await sleep_for(executor, delay)` on the executor's thread. Cannot be cancelled: for short delays
// (back-off).
class SleepFor final : private TimerWork {
 public:
  SleepFor(Executor& executor, Duration delay) : executor_(executor), delay_(delay) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiter) noexcept {
    waiter_ = waiter;
    executor_.start_timer(*this, delay_);
  }
  void await_resume() const noexcept {}

 private:
  void run() noexcept override { waiter_.resume(); }

  Executor& executor_;
  Duration delay_;
  std::coroutine_handle<> waiter_;
};
inline SleepFor sleep_for(Executor& executor, Duration delay) {
  return SleepFor(executor, delay);
}

}  // namespace fdbnbd
