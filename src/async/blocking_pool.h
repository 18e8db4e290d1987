#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "async/executor.h"
#include "async/one_shot.h"
#include "async/task.h"

namespace fdbnbd {

// Threads for calls that block. Work runs in order of arrival, on any of them.
class BlockingPool {
 public:
  // `name` (at most 15 bytes) shows in the thread lists of the operating system.
  BlockingPool(std::string name, size_t threads_count);
  // Runs what is queued, then joins the threads.
  ~BlockingPool();

  // Any thread.
  void submit(Work& work);

  // `co_await pool.run(executor, function)`: the value of `function()`, called on one of the threads;
  // continues on `executor`, the caller's. What the function refers to must live until the task is done.
  template <typename F>
  auto run(Executor& executor, F function) -> Task<decltype(function())> {
    Call<F> call(executor, std::move(function));
    submit(call);
    co_return co_await call.done;
  }

 private:
  template <typename F>
  struct Call final : Work {
    Call(Executor& executor, F f) : function(std::move(f)), done(executor) {}
    void run() noexcept override { done.complete(function()); }
    F function;
    OneShot<decltype(std::declval<F&>()())> done;
  };

  void work();

  const std::string name_;
  std::mutex mutex_;
  std::condition_variable submitted_;
  WorkList queue_;         // guarded by mutex_
  bool stopping_ = false;  // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace fdbnbd
