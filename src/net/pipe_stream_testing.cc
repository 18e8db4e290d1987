#include "net/pipe_stream_testing.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/assert.h"

namespace fdbnbd::net {

namespace {

class PipeStream;

// One direction. The streams at its ends may die in any order.
struct Half {
  std::vector<std::byte> bytes;
  size_t begin = 0;           // of what is unread
  bool write_closed = false;  // no more bytes come
  bool read_closed = false;   // nobody reads
  PipeStream* reader = nullptr;
  PipeStream* writer = nullptr;

  size_t unread() const { return bytes.size() - begin; }
};

class PipeStream final : public Stream {
 public:
  PipeStream(Executor& executor, PipeOptions options, std::shared_ptr<Half> in, std::shared_ptr<Half> out)
      : executor_(&executor), options_(options), in_(std::move(in)), out_(std::move(out)) {
    in_->reader = this;
    out_->writer = this;
  }
  ~PipeStream() override {
    ASSERT(waiters_[0] == nullptr && waiters_[1] == nullptr);
    close();
    in_->reader = nullptr;
    out_->writer = nullptr;
  }

  Transfer try_read(MutableByteView into) override {
    ASSERT(executor_ != nullptr && executor_->runs_here() && !into.empty());
    if (closed_) return fail(Errc::cancelled, "the connection is closed");
    if (in_->unread() == 0) {
      if (reset_) return fail(Errc::peer_gone, "connection reset");
      if (in_->write_closed) return size_t{0};
      return std::nullopt;
    }
    const size_t count = some_of(std::min(into.size(), in_->unread()));
    std::memcpy(into.data(), in_->bytes.data() + in_->begin, count);
    in_->begin += count;
    if (in_->unread() == 0) {
      in_->bytes.clear();
      in_->begin = 0;
    }
    if (in_->writer != nullptr) in_->writer->wake(Direction::write);
    return count;
  }

  Transfer try_write(std::span<const ByteView> parts) override {
    ASSERT(executor_ != nullptr && executor_->runs_here());
    if (closed_) return fail(Errc::cancelled, "the connection is closed");
    if (out_->read_closed || out_->write_closed) return fail(Errc::peer_gone, "broken pipe");
    const size_t room = options_.capacity_bytes - std::min(out_->unread(), options_.capacity_bytes);
    if (room == 0) return std::nullopt;
    size_t left = some_of(room);
    size_t moved = 0;
    for (const ByteView part : parts.first(std::min(parts.size(), kMaxGatherParts))) {
      const size_t count = std::min(left, part.size());
      out_->bytes.insert(out_->bytes.end(), part.begin(), part.begin() + static_cast<ptrdiff_t>(count));
      moved += count;
      left -= count;
    }
    if (out_->reader != nullptr) out_->reader->wake(Direction::read);
    return moved;
  }

  void interrupt() override {
    wake(Direction::read);
    wake(Direction::write);
  }

  void shutdown_write() override {
    if (closed_) return;
    out_->write_closed = true;
    if (out_->reader != nullptr) out_->reader->wake(Direction::read);
  }

  void close() override {
    if (closed_) return;
    shutdown_write();
    closed_ = true;
    in_->read_closed = true;
    if (PipeStream* const peer = in_->writer) {
      peer->reset_ = in_->unread() > 0;
      peer->interrupt();
    }
    interrupt();
  }

  void detach() override {
    ASSERT(waiters_[0] == nullptr && waiters_[1] == nullptr);
    executor_ = nullptr;
  }
  Result<void> attach(Executor& executor) override {
    ASSERT(executor_ == nullptr);
    executor_ = &executor;
    return {};
  }

  const std::string& peer() const override { return peer_; }

 private:
  size_t some_of(size_t count) {
    if (options_.random == nullptr || count == 0) return count;
    return 1 + options_.random->below(count);
  }

  bool ready(Direction direction) const {
    if (closed_) return true;
    if (direction == Direction::read) return in_->unread() > 0 || in_->write_closed || reset_;
    return out_->unread() < options_.capacity_bytes || out_->read_closed;
  }

  bool start_wait(Direction direction, Work& waiter) override {
    Work*& slot = waiters_[static_cast<size_t>(direction)];
    ASSERT(slot == nullptr);
    if (ready(direction)) return false;
    slot = &waiter;
    if (options_.random != nullptr && options_.random->one_in(8)) wake(direction);
    return true;
  }

  void wake(Direction direction) {
    if (Work* const waiter = std::exchange(waiters_[static_cast<size_t>(direction)], nullptr)) {
      executor_->post(*waiter);
    }
  }

  Executor* executor_;
  PipeOptions options_;
  std::shared_ptr<Half> in_;
  std::shared_ptr<Half> out_;
  std::string peer_ = "pipe";
  bool closed_ = false;
  bool reset_ = false;  // the peer closed with bytes of ours unread
  Work* waiters_[2] = {};
};

}  // namespace

std::pair<std::unique_ptr<Stream>, std::unique_ptr<Stream>> make_pipe(Executor& executor,
                                                                      PipeOptions options) {
  const auto up = std::make_shared<Half>();
  const auto down = std::make_shared<Half>();
  return {std::make_unique<PipeStream>(executor, options, up, down),
          std::make_unique<PipeStream>(executor, options, down, up)};
}

std::unique_ptr<Stream> PipeAcceptor::connect() {
  auto [client, server] = make_pipe(executor_, options_);
  if (closed_) {
    server->close();
  } else {
    queue_.emplace_back(std::move(server));
    wake();
  }
  return std::move(client);
}

void PipeAcceptor::fail_next(Error error) {
  queue_.emplace_back(tl::unexpected(std::move(error)));
  wake();
}

Task<Result<std::unique_ptr<Stream>>> PipeAcceptor::accept() {
  co_await Arrival(*this);
  if (closed_) co_return fail(Errc::cancelled, "not listening any more");
  auto next = std::move(queue_.front());
  queue_.pop_front();
  co_return next;
}

void PipeAcceptor::close() {
  closed_ = true;
  queue_.clear();
  wake();
}

void PipeAcceptor::wake() {
  if (waiter_ != nullptr) executor_.post(*std::exchange(waiter_, nullptr));
}

}  // namespace fdbnbd::net
