#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "async/executor.h"
#include "async/task.h"
#include "net/stream.h"
#include "session/reply.h"
#include "session/stall_watch.h"

namespace fdbnbd::session {

// Sends replies in the order in which they become ready: all that are ready go into one system call. It does
// so behind what else is queued on the executor, so that requests that end together are answered together.
// All on the stream's executor.
class ReplyWriter {
 public:
  // `stall` notes that the peer takes nothing.
  ReplyWriter(Executor& executor, net::Stream& stream, StallWatch& stall)
      : executor_(executor), stream_(stream), stall_(stall) {}
  ReplyWriter(const ReplyWriter&) = delete;
  ReplyWriter& operator=(const ReplyWriter&) = delete;

  // `co_await writer.send(reply)`: until the operating system has all of it, or the connection is broken.
  class Send;
  Send send(Reply& reply);

  // Runs until finish() and everything sent, or until the connection breaks; then closes the stream.
  Task<void> run();

  // No more replies come.
  void finish();

  // The connection is broken: replies are thrown away, those waiting and those to come.
  void fail();

  // Whether every reply so far was handed over.
  bool failed() const { return failed_; }

 private:
  class Idle;

  void push(Send& send);
  void gather();
  // Notes what was sent and lets its senders go on.
  void advance(size_t bytes);
  void wake();

  Executor& executor_;
  net::Stream& stream_;
  StallWatch& stall_;
  Send* first_ = nullptr;
  Send* last_ = nullptr;
  Idle* idle_ = nullptr;  // waits for something to do
  bool finishing_ = false;
  bool failed_ = false;
  std::vector<ByteView> parts_;
};

class ReplyWriter::Send {
 public:
  Send(ReplyWriter& writer, Reply& reply) : writer_(writer), reply_(reply) {}
  bool await_ready() const noexcept { return writer_.failed_; }
  void await_suspend(std::coroutine_handle<> waiter) noexcept {
    waiter_ = waiter;
    writer_.push(*this);
  }
  void await_resume() const noexcept {}

 private:
  friend class ReplyWriter;

  ReplyWriter& writer_;
  Reply& reply_;
  std::coroutine_handle<> waiter_;
  Send* next_ = nullptr;
};

inline ReplyWriter::Send ReplyWriter::send(Reply& reply) {
  return {*this, reply};
}

}  // namespace fdbnbd::session
