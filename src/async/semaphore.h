#pragma once

#include <coroutine>
#include <cstddef>
#include <deque>

#include "base/assert.h"

namespace fdbnbd {

// A bounded number of slots, given out in order of arrival. On one thread.
class Semaphore {
 public:
  explicit Semaphore(size_t slots_count) : free_(slots_count) {}
  Semaphore(const Semaphore&) = delete;
  Semaphore& operator=(const Semaphore&) = delete;
  ~Semaphore() { ASSERT(waiters_.empty()); }

  // Holds one slot from acquire() until it ends.
  class [[nodiscard]] Slot {
   public:
    explicit Slot(Semaphore& semaphore) : semaphore_(semaphore) {}
    Slot(const Slot&) = delete;
    Slot& operator=(const Slot&) = delete;
    ~Slot() {
      if (held_) semaphore_.release();
    }

    // `co_await slot.acquire()`, once.
    auto acquire() {
      struct Awaiter {
        bool await_ready() const {
          if (slot.semaphore_.free_ == 0) return false;
          --slot.semaphore_.free_;
          return true;
        }
        void await_suspend(std::coroutine_handle<> waiter) const {
          slot.semaphore_.waiters_.push_back(waiter);
        }
        void await_resume() const noexcept { slot.held_ = true; }
        Slot& slot;
      };
      return Awaiter{*this};
    }

   private:
    Semaphore& semaphore_;
    bool held_ = false;
  };

 private:
  void release() {
    ++free_;
    // Only the outermost release resumes, so that a long queue does not nest on the stack.
    if (resuming_) return;
    resuming_ = true;
    while (free_ > 0 && !waiters_.empty()) {
      --free_;
      const auto waiter = waiters_.front();
      waiters_.pop_front();
      waiter.resume();
    }
    resuming_ = false;
  }

  size_t free_;
  std::deque<std::coroutine_handle<>> waiters_;
  bool resuming_ = false;
};

}  // namespace fdbnbd
