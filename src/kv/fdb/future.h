#pragma once

#include <coroutine>
#include <utility>

#include "async/executor.h"
#include "base/assert.h"
#include "kv/fdb/api.h"

namespace fdbnbd::kv::fdb {

// Owns a future of FoundationDB, and with it the memory of its result. `co_await future.ready(executor)`
// waits for the result and gives its error, 0 for success; awaited once, to the end, before the Future goes.
//
// The callback, which runs on FoundationDB's network thread or inside the call that sets it, only posts to
// the executor: the coroutine continues there and nowhere else.
class Future {
 public:
  Future(const Api& api, FDBFuture* future) : api_(&api), future_(future) {}
  Future(Future&& other) noexcept : api_(other.api_), future_(std::exchange(other.future_, nullptr)) {}
  Future& operator=(Future&&) = delete;
  ~Future() {
    if (future_ != nullptr) api_->future_destroy(future_);
  }

  FDBFuture* get() const { return future_; }

  class Ready final : private Work {
   public:
    Ready(Executor& executor, const Api& api, FDBFuture* future)
        : executor_(executor), api_(api), future_(future) {}
    bool await_ready() const noexcept { return false; }
    // On the executor's thread, so what the callback posts runs after this.
    void await_suspend(std::coroutine_handle<> waiter) noexcept {
      waiter_ = waiter;
      const fdb_error_t error = api_.future_set_callback(future_, &on_ready, this);
      ASSERT(error == 0);
    }
    fdb_error_t await_resume() const noexcept { return api_.future_get_error(future_); }

   private:
    static void on_ready(FDBFuture*, void* self) noexcept {
      Ready& ready = *static_cast<Ready*>(self);
      ready.executor_.post(ready);
    }
    void run() noexcept override { waiter_.resume(); }

    Executor& executor_;
    const Api& api_;
    FDBFuture* const future_;
    std::coroutine_handle<> waiter_;
  };

  Ready ready(Executor& executor) const { return Ready(executor, *api_, future_); }

 private:
  const Api* api_;
  FDBFuture* future_;
};

}  // namespace fdbnbd::kv::fdb
