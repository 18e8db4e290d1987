#pragma once

#include <cstdint>
#include <memory>

#include "attach/messages.h"
#include "base/result.h"

struct nl_sock;

// The line to the kernel's NBD client. One thread.

namespace fdbnbd::attach {

// What happened to the links of one device since the last look.
struct LinkDeaths {
  uint32_t count = 0;
  bool some_missed = false;  // there were more messages than the socket holds
};

class KernelNbd {
 public:
  // not_supported: this kernel has no NBD client, with what to do. io.
  static Result<KernelNbd> open();

  // Makes it a device; its number. busy: the device is attached already. permission, invalid, io.
  Result<uint32_t> connect(const ConnectRequest& request);

  // Done also where the kernel took none of the sockets, because none of its own is dead.
  Result<void> reconfigure(const ReconfigureRequest& request);

  // Gives the device's connections up; what is in flight fails. Done also where there are none. Whoever still
  // has the device open keeps it from being free.
  Result<void> disconnect(uint32_t index);

  // Readable when there is something for take_link_deaths().
  int events_descriptor() const;
  // Never waits.
  LinkDeaths take_link_deaths(uint32_t index);

 private:
  struct SocketDeleter {
    void operator()(nl_sock* socket) const;
  };
  using Socket = std::unique_ptr<nl_sock, SocketDeleter>;

  KernelNbd(Socket requests, Socket events, int family);
  // Sends and waits for the acknowledgement; the device's number where the answer had one.
  Result<std::optional<uint32_t>> exchange(const Message& message, const char* what);

  Socket requests_;
  Socket events_;
  int family_ = 0;
};

// Whether the kernel has taken `socket` for a device whose request timeout is not 0: it then has set the send
// timeout of the socket, which nobody else does.
bool was_taken(int socket);

}  // namespace fdbnbd::attach
