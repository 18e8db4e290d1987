#pragma once

#include <coroutine>
#include <cstddef>

#include "async/task.h"

namespace fdbnbd {

// Owns tasks that run on their own: each one spawned is waited for by join(). All on one executor's thread.
class TaskScope {
 public:
  TaskScope() = default;
  TaskScope(const TaskScope&) = delete;
  TaskScope& operator=(const TaskScope&) = delete;
  ~TaskScope() { ASSERT(running_ == 0); }

  // Starts `task` now; it runs inside this call up to its first suspension.
  void spawn(Task<void> task);

  size_t running_count() const { return running_; }

  // `co_await scope.join()`: waits until no task runs. One waiter at a time; tasks may spawn others
  // meanwhile.
  auto join() {
    struct Awaiter {
      bool await_ready() const noexcept { return scope.running_ == 0; }
      void await_suspend(std::coroutine_handle<> waiter) const noexcept { scope.joiner_ = waiter; }
      void await_resume() const noexcept {}
      TaskScope& scope;
    };
    return Awaiter{*this};
  }

 private:
  detail::Detached run(Task<void> task);

  size_t running_ = 0;
  std::coroutine_handle<> joiner_;
};

}  // namespace fdbnbd
