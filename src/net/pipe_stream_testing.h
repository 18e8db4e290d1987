#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "async/executor.h"
#include "base/random.h"
#include "net/listener.h"
#include "net/stream.h"

// Streams in memory, so that whole sessions run on a simulated loop.

namespace fdbnbd::net {

struct PipeOptions {
  size_t capacity_bytes = 64 * 1024;  // per direction; a full one blocks its writer
  // Where given, every transfer moves a random part of what it could, and waits end early at random.
  Random* random = nullptr;
};

// Two connected ends, both on `executor`. A stream's close() with bytes unread is a reset for its peer, whose
// own unread bytes it still gets.
std::pair<std::unique_ptr<Stream>, std::unique_ptr<Stream>> make_pipe(Executor& executor,
                                                                      PipeOptions options = {});

// An acceptor whose connections are pipes.
class PipeAcceptor final : public Acceptor {
 public:
  explicit PipeAcceptor(Executor& executor, PipeOptions options = {})
      : executor_(executor), options_(options) {}

  // The client's end of a new connection.
  std::unique_ptr<Stream> connect();

  // The next accept() fails with this error.
  void fail_next(Error error);

  Task<Result<std::unique_ptr<Stream>>> accept() override;
  void close() override;
  const std::string& address() const override { return address_; }

 private:
  struct Arrival final : Work {
    explicit Arrival(PipeAcceptor& acceptor) : acceptor(acceptor) {}
    bool await_ready() const noexcept { return acceptor.closed_ || !acceptor.queue_.empty(); }
    void await_suspend(std::coroutine_handle<> waiting) noexcept {
      waiter = waiting;
      acceptor.waiter_ = this;
    }
    void await_resume() const noexcept {}
    void run() noexcept override { waiter.resume(); }

    PipeAcceptor& acceptor;
    std::coroutine_handle<> waiter;
  };

  void wake();

  Executor& executor_;
  PipeOptions options_;
  std::string address_ = "pipe:";
  std::deque<Result<std::unique_ptr<Stream>>> queue_;
  bool closed_ = false;
  Work* waiter_ = nullptr;
};

}  // namespace fdbnbd::net
