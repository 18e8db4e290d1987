#include "control/connection.h"

#include <chrono>
#include <utility>
#include <variant>
#include <vector>

#include "base/bytes.h"

namespace fdbnbd::control {

namespace {

constexpr size_t kReadBytes = 16 * limits::kKiB;
constexpr auto kProgressInterval = std::chrono::milliseconds(100);

}  // namespace

Connection::Connection(Executor& executor, Service& service, std::unique_ptr<net::Stream> stream)
    : executor_(executor), service_(service), stream_(std::move(stream)) {}

Connection::~Connection() = default;

Task<std::unique_ptr<net::Stream>> Connection::run() {
  tasks_.spawn(read_lines());
  bool wants_nbd = false;
  while (!wants_nbd) {
    auto line = co_await next_line();
    if (!line) break;
    Result<Request> request = line->and_then([](const std::string& text) { return decode_request(text); });
    if (!request) {
      co_await send(encode_error(request.error()));
    } else if (std::holds_alternative<NbdRequest>(*request)) {
      wants_nbd = co_await prepare_nbd();
    } else {
      co_await answer(std::move(*request));
    }
  }
  if (!wants_nbd) stream_->close();
  co_await tasks_.join();
  if (!wants_nbd || client_gone_) co_return nullptr;
  co_return std::move(stream_);
}

void Connection::stop() {
  stopping_ = true;
  stream_->interrupt();
  changed_.notify_all();
}

void Connection::cut_off() {
  client_gone_ = true;
  stream_->close();
  changed_.notify_all();
}

Task<void> Connection::read_lines() {
  std::vector<std::byte> bytes(kReadBytes);
  while (!stop_reading_ && !stopping_) {
    // Requests that wait behind a long one are bounded: the rest stays in the socket.
    if (lines_.size() > limits::kMaxControlMessageBytes) {
      co_await changed_.wait();
      continue;
    }
    const net::Transfer transfer = stream_->try_read(bytes);
    if (!transfer || *transfer == size_t{0}) {
      client_gone_ = true;
      break;
    }
    if (!*transfer) {
      co_await stream_->readable();
      continue;
    }
    lines_.append(as_text(ByteView(bytes).first(**transfer)));
    changed_.notify_all();
  }
  changed_.notify_all();
}

Task<std::optional<Result<std::string>>> Connection::next_line() {
  while (!stopping_) {
    if (auto line = lines_.next()) {
      changed_.notify_all();  // there is room to read on
      co_return line;
    }
    if (client_gone_) break;
    co_await changed_.wait();
  }
  co_return std::nullopt;
}

Task<void> Connection::carry_out(Request request) {
  result_ = co_await service_.handle(std::move(request), *this);
  changed_.notify_all();
}

Task<void> Connection::answer(Request request) {
  result_.reset();
  progress_.reset();
  last_progress_.reset();
  tasks_.spawn(carry_out(std::move(request)));
  while (!result_) {
    if (progress_) {
      const ProgressReport progress = *std::exchange(progress_, std::nullopt);
      co_await send(encode_progress(progress.done_bytes, progress.total_bytes));
    } else {
      co_await changed_.wait();
    }
  }
  const Result<std::string> result = *std::exchange(result_, std::nullopt);
  co_await send(result ? encode_result(*result) : encode_error(result.error()));
}

Task<void> Connection::send(std::string line) {
  if (client_gone_) co_return;
  const auto sent = co_await stream_->write_all(as_bytes(line));
  if (!sent) client_gone_ = true;
}

// The answer to NbdRequest, and no more reading here behind it. False where the client did not wait for it.
Task<bool> Connection::prepare_nbd() {
  if (lines_.size() != 0) {
    co_await send(encode_error({Errc::protocol, "nothing may follow \"nbd\" before its answer"}));
    co_return false;
  }
  stop_reading_ = true;
  stream_->interrupt();
  co_await tasks_.join();
  co_await send(encode_result(done_result()));
  co_return true;
}

void Connection::on_progress(uint64_t done_bytes, uint64_t total_bytes) {
  const MonotonicTime now = executor_.clock().now();
  if (last_progress_ && now - *last_progress_ < kProgressInterval) return;
  last_progress_ = now;
  progress_ = ProgressReport{.done_bytes = done_bytes, .total_bytes = total_bytes};
  changed_.notify_all();
}

}  // namespace fdbnbd::control
