#pragma once

#include <coroutine>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "async/executor.h"
#include "async/task.h"
#include "base/bytes.h"
#include "base/result.h"
#include "net/io_loop.h"

namespace fdbnbd::net {

// How many bytes moved; nothing where the operation would block. Errors: peer_gone (reset, broken pipe),
// cancelled (closed on this side), io.
using Transfer = Result<std::optional<size_t>>;

// A byte stream to a peer: a socket, a pair of descriptors, or a pipe in memory. It belongs to one executor
// at a time; all calls happen on that one's thread.
class Stream {
 public:
  virtual ~Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Takes what is there, at most into.size() (> 0) bytes; 0 at the end of the peer's bytes. Never waits.
  virtual Transfer try_read(MutableByteView into) = 0;

  // Hands over the parts, in order, as far as there is room: one system call for many replies. Never waits.
  // At most kMaxGatherParts of them are looked at.
  virtual Transfer try_write(std::span<const ByteView> parts) = 0;

  // `co_await stream.readable()`: until try_read() is worth a call, after it said that it would block. May
  // end early (interrupt(), close()): check what you wait for again. One waiter per direction.
  class Readiness;
  Readiness readable();
  Readiness writable();

  // Ends the waits in progress early.
  virtual void interrupt() = 0;

  // No more bytes to the peer, which then reads to the end.
  virtual void shutdown_write() = 0;

  // Ends everything, also the waits in progress. Twice is no harm.
  virtual void close() = 0;

  // Moves to another executor: detach() on the old one's thread while nobody waits, attach() on the new
  // one's, and nothing in between. Errors of attach(): invalid where the executor cannot serve this kind of
  // stream.
  virtual void detach() = 0;
  virtual Result<void> attach(Executor& executor) = 0;

  // Who is at the other end, for logs: "tcp 127.0.0.1:4711", "unix pid 17 uid 0".
  virtual const std::string& peer() const = 0;

  // Reads at least one byte, 0 at the end.
  Task<Result<size_t>> read_some(MutableByteView into);
  // Reads exactly into.size() bytes; peer_gone where the end comes before.
  Task<Result<void>> read_exactly(MutableByteView into);
  // Writes everything. The memory of the parts lives until the task is done.
  Task<Result<void>> write_all(std::vector<ByteView> parts);
  Task<Result<void>> write_all(ByteView bytes);

 protected:
  Stream() = default;

  // Posts `waiter` when the direction is worth a try; false where it is now.
  virtual bool start_wait(Direction direction, Work& waiter) = 0;
};

inline constexpr size_t kMaxGatherParts = 256;

class Stream::Readiness final : private Work {
 public:
  Readiness(Stream& stream, Direction direction) : stream_(stream), direction_(direction) {}
  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> waiter) noexcept {
    waiter_ = waiter;
    return stream_.start_wait(direction_, *this);
  }
  void await_resume() const noexcept {}

 private:
  void run() noexcept override { waiter_.resume(); }

  Stream& stream_;
  Direction direction_;
  std::coroutine_handle<> waiter_;
};

inline Stream::Readiness Stream::readable() {
  return {*this, Direction::read};
}
inline Stream::Readiness Stream::writable() {
  return {*this, Direction::write};
}

}  // namespace fdbnbd::net
