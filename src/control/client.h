#pragma once

#include <string>

#include "base/function.h"
#include "base/result.h"
#include "control/line_buffer.h"
#include "control/messages.h"
#include "net/fd.h"

namespace fdbnbd::control {

// The other end of a control connection, for a thread that may block.
class Client {
 public:
  // A connected socket in blocking mode.
  explicit Client(net::OwnedFd socket);

  // Asks and waits for the answer: the result's JSON, or the server's error. peer_gone where the server went
  // away before it answered: what it did of the request is not known. `on_progress` hears of what was told
  // last a few times a second, and after each signal, also where nothing new has come.
  Result<std::string> call(const Request& request, FunctionRef<void(ProgressReport)> on_progress);
  Result<std::string> call(const Request& request);

  // Makes the connection an NBD connection and hands it over.
  Result<net::OwnedFd> start_nbd() &&;

 private:
  // Sends, and reads `receive_bytes` at a time until the answer.
  Result<std::string> call(const Request& request, FunctionRef<void(ProgressReport)> on_progress,
                           size_t receive_bytes);
  Result<std::string> read_line(size_t receive_bytes, FunctionRef<void()> on_wait);

  net::OwnedFd socket_;
  LineBuffer lines_;
};

// Connects to a control socket. not_found: there is no such file. unavailable: nobody listens there (any
// more). permission, io.
Result<net::OwnedFd> connect_control_socket(const std::string& path);

}  // namespace fdbnbd::control
