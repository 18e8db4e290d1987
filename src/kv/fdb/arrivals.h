#pragma once

#include <atomic>
#include <coroutine>

#include "async/executor.h"
#include "base/assert.h"
#include "kv/fdb/handles.h"

namespace fdbnbd::kv::fdb {

// Several futures of FoundationDB that one coroutine waits for, in the order in which they become ready, with
// one wake-up for all that are.
//
// The callbacks, which run on FoundationDB's network thread or inside expect(), only add to a list and post.
class Arrivals final : private Work {
 public:
  // One future, and with it the memory of its result. It stays where it is from expect() until it was taken.
  class Item {
   public:
    explicit Item(const Api& api) : future(nullptr, {&api}) {}

    FutureHandle future;
    Item* next = nullptr;  // free for its owner's lists outside that time

   private:
    friend class Arrivals;
    Arrivals* arrivals_ = nullptr;
  };

  explicit Arrivals(Executor& executor) : executor_(executor) {}
  Arrivals(const Arrivals&) = delete;
  Arrivals& operator=(const Arrivals&) = delete;

  void expect(const Api& api, Item& item, FDBFuture* future) {
    item.future.reset(future);
    item.arrivals_ = this;
    const fdb_error_t error = api.future_set_callback(future, &on_ready, &item);
    ASSERT(error == 0);
  }

  // `co_await arrivals.take()`: all that are ready, at least one, in any order; the others later. Only while
  // something is expected, and by one coroutine on the executor's thread.
  auto take() {
    struct Awaiter {
      bool await_ready() const noexcept { return arrivals.ready_.load(std::memory_order_acquire) != nullptr; }
      bool await_suspend(std::coroutine_handle<> waiter) const noexcept {
        arrivals.waiter_ = waiter;
        Item* none = nullptr;
        return arrivals.ready_.compare_exchange_strong(none, arrivals.awaited(), std::memory_order_acq_rel);
      }
      Item* await_resume() const noexcept {
        return arrivals.ready_.exchange(nullptr, std::memory_order_acq_rel);
      }
      Arrivals& arrivals;
    };
    return Awaiter{*this};
  }

 private:
  // Stands in ready_ while the coroutine is suspended; never looked into.
  Item* awaited() noexcept { return reinterpret_cast<Item*>(this); }

  static void on_ready(FDBFuture*, void* self) noexcept {
    Item& item = *static_cast<Item*>(self);
    Arrivals& arrivals = *item.arrivals_;
    Item* const awaited = arrivals.awaited();
    Item* head = arrivals.ready_.load(std::memory_order_relaxed);
    do {
      item.next = head == awaited ? nullptr : head;
    } while (!arrivals.ready_.compare_exchange_weak(head, &item, std::memory_order_acq_rel,
                                                    std::memory_order_relaxed));
    // Unless the coroutine is suspended, it may have taken the item and gone by now.
    if (head == awaited) arrivals.executor_.post(arrivals);
  }

  void run() noexcept override { waiter_.resume(); }

  Executor& executor_;
  std::coroutine_handle<> waiter_;
  std::atomic<Item*> ready_ = nullptr;
};

}  // namespace fdbnbd::kv::fdb
