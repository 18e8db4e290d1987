#pragma once

#include <atomic>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "async/executor.h"
#include "async/scope.h"
#include "async/task.h"
#include "async/timer_queue.h"
#include "base/result.h"
#include "net/fd.h"

// The I/O thread: an Executor over epoll (docs/decisions/0003-own-epoll-loop.md says why not Asio).

namespace fdbnbd::net {

class IoWatch;

// An executor that also waits for file descriptors. The thread that calls run() is its thread until run()
// returns; before the first run() it is the one that made the loop.
class IoLoop final : public Executor {
 public:
  explicit IoLoop(const Clock& clock = system_clock());
  // Nothing runs in it any more; work that is still queued is dropped.
  ~IoLoop() override;
  IoLoop(const IoLoop&) = delete;
  IoLoop& operator=(const IoLoop&) = delete;

  // `executor` as the I/O loop that it is, or null where it is another kind. Any thread.
  static IoLoop* from(Executor& executor) { return dynamic_cast<IoLoop*>(&executor); }

  void post(Work& work) override;
  bool runs_here() const override {
    return thread_.load(std::memory_order_relaxed) == std::this_thread::get_id();
  }
  const Clock& clock() const override { return clock_; }
  void start_timer(TimerWork& timer, Duration delay) override { timers_.start(timer, clock_.now() + delay); }
  void cancel_timer(TimerWork& timer) override { timers_.cancel(timer); }

  // Runs what is posted and what descriptors and timers bring, until stop().
  void run();
  // Ends run() once the work that is queued now has run. Any thread, once per run().
  void stop();

  // Runs `task`, and everything else, until it is done, on the calling thread.
  void run_until_done(Task<void> task);
  template <typename T>
  T run(Task<T> task) {
    std::optional<T> result;
    run_until_done(store_result(std::move(task), result));
    return std::move(*result);
  }
  void run(Task<void> task) { run_until_done(std::move(task)); }

 private:
  friend class IoThread;
  friend class IoWatch;

  struct StopWork final : Work {
    void run() noexcept override { stopped = true; }
    bool stopped = false;
  };

  // Runs a few rounds of what is queued.
  void run_ready();
  void run_due_timers();
  // Waits for descriptors, remote posts and timers; only a look where work is queued.
  void wait();
  void take_remote();

  const Clock& clock_;
  OwnedFd epoll_;
  OwnedFd wake_up_;  // eventfd
  std::atomic<std::thread::id> thread_ = std::this_thread::get_id();

  // The loop's thread.
  TimerQueue timers_;
  WorkList ready_;
  StopWork stop_work_;

  std::mutex mutex_;
  WorkList remote_;                          // guarded by mutex_
  bool asleep_ = false;                      // guarded by mutex_: a post has to wake the loop
  std::atomic<bool> remote_pending_{false};  // set under mutex_, read without
};

enum class Direction : uint8_t { read = 0, write = 1 };

// Readiness of one descriptor in one loop. All calls on the loop's thread. Edge-triggered: the caller tries
// first, notes would_block(), and only then waits.
class IoWatch {
 public:
  IoWatch() = default;
  IoWatch(const IoWatch&) = delete;
  IoWatch& operator=(const IoWatch&) = delete;
  ~IoWatch() { detach(); }

  // Watches `fd`, which stays the caller's and outlives the attachment. A descriptor that epoll refuses (a
  // regular file) counts as always ready.
  Result<void> attach(IoLoop& loop, int fd);
  // Resumes both waiters.
  void detach();
  bool attached() const { return loop_ != nullptr; }

  // Whether an operation is worth a try.
  bool may_be_ready(Direction direction) const { return side(direction).may_be_ready; }
  // The last operation found nothing (more) to do.
  void would_block(Direction direction);
  // Whether the peer has closed its side, so that a short read does not mean that there is nothing more.
  bool peer_closed() const { return peer_closed_; }

  // Posts `waiter` once an operation is worth a try, or at interrupt(); false where it is worth one now. One
  // waiter per direction.
  bool start_wait(Direction direction, Work& waiter);
  void interrupt();

  // `co_await watch.ready(direction)`: start_wait() for a coroutine.
  class Ready;
  Ready ready(Direction direction);

 private:
  friend class IoLoop;

  struct Side {
    bool may_be_ready = true;
    Work* waiter = nullptr;
  };

  Side& side(Direction direction) { return sides_[static_cast<size_t>(direction)]; }
  const Side& side(Direction direction) const { return sides_[static_cast<size_t>(direction)]; }
  void on_events(uint32_t events);
  void wake(Side& side);
  void want_write(bool wanted);

  IoLoop* loop_ = nullptr;
  int fd_ = -1;
  bool pollable_ = false;
  bool peer_closed_ = false;
  bool write_wanted_ = false;
  Side sides_[2];
};

class IoWatch::Ready final : private Work {
 public:
  Ready(IoWatch& watch, Direction direction) : watch_(watch), direction_(direction) {}
  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> waiter) noexcept {
    waiter_ = waiter;
    return watch_.start_wait(direction_, *this);
  }
  void await_resume() const noexcept {}

 private:
  void run() noexcept override { waiter_.resume(); }

  IoWatch& watch_;
  Direction direction_;
  std::coroutine_handle<> waiter_;
};

inline IoWatch::Ready IoWatch::ready(Direction direction) {
  return {*this, direction};
}

// A loop on a thread of its own. `name` (at most 15 bytes) shows in the thread lists of the operating system.
class IoThread {
 public:
  explicit IoThread(std::string name);
  // Stops the loop and joins the thread.
  ~IoThread();

  IoLoop& loop() { return loop_; }

 private:
  IoLoop loop_;
  std::thread thread_;
};

}  // namespace fdbnbd::net
