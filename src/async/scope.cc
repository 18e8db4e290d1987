#include "async/scope.h"

#include <utility>

namespace fdbnbd {

void TaskScope::spawn(Task<void> task) {
  ++running_;
  run(std::move(task));
}

detail::Detached TaskScope::run(Task<void> task) {
  {
    Task<void> owned = std::move(task);  // its frame is freed before the joiner goes on
    co_await std::move(owned);
  }
  --running_;
  // The joiner may destroy this scope: it is resumed last, and nothing of the scope is touched after it.
  if (running_ == 0 && joiner_) std::exchange(joiner_, nullptr).resume();
}

}  // namespace fdbnbd
