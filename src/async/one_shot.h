#pragma once

#include <coroutine>
#include <optional>
#include <utility>

#include "async/executor.h"

namespace fdbnbd {

// A result that some thread delivers once and one coroutine awaits, on `executor`. It lives in the frame of
// that coroutine, which must not end before it has awaited it.
//
//   OneShot<Result<int>> done(executor);
//   start_something([&done](Result<int> r) { done.complete(std::move(r)); });
//   auto result = co_await done;
template <typename T>
class OneShot final : private Work {
 public:
  explicit OneShot(Executor& executor) : executor_(executor) {}
  OneShot(const OneShot&) = delete;
  OneShot& operator=(const OneShot&) = delete;

  // Any thread, once. The coroutine resumes on the executor, never inside this call.
  void complete(T value) {
    value_.emplace(std::move(value));
    executor_.post(*this);
  }

  bool await_ready() const noexcept { return delivered_; }
  void await_suspend(std::coroutine_handle<> waiter) noexcept { waiter_ = waiter; }
  T await_resume() { return std::move(*value_); }

 private:
  // On the executor's thread, as everything but complete().
  void run() noexcept override {
    delivered_ = true;
    if (waiter_) waiter_.resume();
  }

  Executor& executor_;
  std::optional<T> value_;
  bool delivered_ = false;
  std::coroutine_handle<> waiter_;
};

}  // namespace fdbnbd
