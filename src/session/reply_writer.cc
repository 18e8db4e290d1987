#include "session/reply_writer.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"

namespace fdbnbd::session {

class ReplyWriter::Idle final : public Work {
 public:
  explicit Idle(ReplyWriter& writer) : writer_(writer) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiter) noexcept {
    waiter_ = waiter;
    writer_.idle_ = this;
  }
  void await_resume() const noexcept {}
  void run() noexcept override { waiter_.resume(); }

 private:
  ReplyWriter& writer_;
  std::coroutine_handle<> waiter_;
};

void ReplyWriter::push(Send& send) {
  ASSERT(!finishing_);
  (first_ == nullptr ? first_ : last_->next_) = &send;
  last_ = &send;
  wake();
}

void ReplyWriter::wake() {
  if (idle_ != nullptr) executor_.post(*std::exchange(idle_, nullptr));
}

void ReplyWriter::finish() {
  finishing_ = true;
  wake();
}

void ReplyWriter::fail() {
  if (failed_) return;
  failed_ = true;
  stream_.close();
  wake();
}

Task<void> ReplyWriter::run() {
  for (;;) {
    if (failed_) {
      // Those that wait go on; what comes later does not even wait.
      while (first_ != nullptr) {
        Send* const send = std::exchange(first_, first_->next_);
        send->waiter_.resume();
      }
      if (finishing_) co_return;
    } else if (first_ != nullptr) {
      gather();
      const auto sent = stream_.try_write(parts_);
      if (!sent) {
        fail();
      } else if (*sent) {
        advance(**sent);
      } else {
        stall_.begin();
        co_await stream_.writable();
        stall_.end();
      }
      continue;
    } else if (finishing_) {
      co_return;
    }
    co_await Idle(*this);
  }
}

void ReplyWriter::gather() {
  parts_.clear();
  for (const Send* send = first_; send != nullptr && parts_.size() < net::kMaxGatherParts;
       send = send->next_) {
    const auto all_unsent = send->reply_.unsent();
    const auto unsent = all_unsent.first(std::min(all_unsent.size(), net::kMaxGatherParts - parts_.size()));
    parts_.insert(parts_.end(), unsent.begin(), unsent.end());
  }
}

void ReplyWriter::advance(size_t bytes) {
  stall_.progress(bytes);
  Send* done = nullptr;
  Send** done_end = &done;
  for (;;) {
    ASSERT(first_ != nullptr);
    Send* const send = first_;
    bytes = send->reply_.mark_sent(bytes);
    if (!send->reply_.all_sent()) break;
    first_ = send->next_;
    send->next_ = nullptr;
    *done_end = send;
    done_end = &send->next_;
    if (bytes == 0) break;
  }
  // Their coroutines end here, and take their Sends along.
  while (done != nullptr) std::exchange(done, done->next_)->waiter_.resume();
}

}  // namespace fdbnbd::session
