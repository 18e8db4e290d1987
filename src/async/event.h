#pragma once

#include <coroutine>
#include <utility>
#include <vector>

namespace fdbnbd {

// A condition that coroutines of one thread wait for. Waiters are resumed inside notify_all(), in order of
// arrival; each has to check its condition again.
class Event {
 public:
  auto wait() {
    struct Awaiter {
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> waiter) const { event.waiters_.push_back(waiter); }
      void await_resume() const noexcept {}
      Event& event;
    };
    return Awaiter{*this};
  }

  // The last waiter resumed may destroy the Event.
  void notify_all() {
    const auto waiters = std::exchange(waiters_, {});
    for (const auto waiter : waiters) waiter.resume();
  }

  bool has_waiters() const { return !waiters_.empty(); }

 private:
  std::vector<std::coroutine_handle<>> waiters_;
};

}  // namespace fdbnbd
