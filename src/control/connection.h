#pragma once

#include <memory>
#include <optional>
#include <string>

#include "async/event.h"
#include "async/executor.h"
#include "async/scope.h"
#include "async/task.h"
#include "base/limits.h"
#include "control/line_buffer.h"
#include "control/service.h"
#include "net/stream.h"

namespace fdbnbd::control {

// One control connection: reads requests, answers them in order. It goes on reading while a request is
// carried out, to notice a client that goes away. All calls on one executor's thread.
class Connection final : private volume::Progress {
 public:
  // `stream` is attached to `executor`.
  Connection(Executor& executor, Service& service, std::unique_ptr<net::Stream> stream);
  ~Connection();

  // Until the client is gone or stop(). The stream, which nobody reads, where the client asked for NBD; else
  // null.
  Task<std::unique_ptr<net::Stream>> run();

  // Ends run() soon, behind the answer to the request in progress.
  void stop();

  // The same at once: what is not sent yet is lost.
  void cut_off();

 private:
  Task<void> read_lines();
  Task<void> carry_out(Request request);
  // The next line; nothing at the end.
  Task<std::optional<Result<std::string>>> next_line();
  Task<void> answer(Request request);
  Task<void> send(std::string line);
  Task<bool> prepare_nbd();

  void on_progress(uint64_t done_bytes, uint64_t total_bytes) override;
  bool cancelled() const override { return client_gone_ || stopping_; }

  Executor& executor_;
  Service& service_;
  std::unique_ptr<net::Stream> stream_;
  LineBuffer lines_{limits::kMaxControlMessageBytes};
  TaskScope tasks_;
  Event changed_;  // anything below
  bool client_gone_ = false;
  bool stopping_ = false;
  bool stop_reading_ = false;
  std::optional<Result<std::string>> result_;
  std::optional<ProgressReport> progress_;  // to be sent
  std::optional<MonotonicTime> last_progress_;
};

}  // namespace fdbnbd::control
