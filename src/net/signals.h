#pragma once

#include <initializer_list>

#include "async/executor.h"
#include "async/scope.h"
#include "async/task.h"
#include "base/function.h"
#include "net/io_loop.h"

namespace fdbnbd::net {

// Blocks the signals for this thread and those it starts later, so that only a SignalWatch sees them, and
// ignores SIGPIPE: a peer that is gone is an error of the write. First thing in main(). Child processes that
// should have them must unblock them.
void block_signals(std::initializer_list<int> signals);

// Calls back on the loop's thread for each of the signals that arrives; they are blocked already.
class SignalWatch {
 public:
  SignalWatch(IoLoop& loop, std::initializer_list<int> signals, UniqueFunction<void(int)> on_signal);
  // stop() has been awaited.
  ~SignalWatch() = default;
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  // No calls any more, from now on.
  Task<void> stop();

 private:
  Task<void> watch();

  IoLoop& loop_;
  OwnedFd fd_;
  IoWatch watch_;
  bool stopped_ = false;
  UniqueFunction<void(int)> on_signal_;
  TaskScope tasks_;
};

}  // namespace fdbnbd::net
