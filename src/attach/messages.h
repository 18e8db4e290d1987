#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

struct nl_msg;
struct nlmsghdr;

// The messages of the kernel's NBD client: generic netlink, family "nbd" (linux/nbd-netlink.h). Pure: values
// to messages and back. `family` is the number that the kernel gave to "nbd".

namespace fdbnbd::attach {

struct MessageDeleter {
  void operator()(nl_msg* message) const;
};
using Message = std::unique_ptr<nl_msg, MessageDeleter>;

// How long the kernel waits.
struct DeviceTimeouts {
  // For a reply; then it gives the connection up and sends the request again on another one. Also how long
  // after the end of a connection it sends again what was in flight there. Not 0, which would mean for ever,
  // and 30 s.
  uint32_t request_seconds = 0;
  // For a new connection where all have ended; then requests fail.
  uint32_t dead_seconds = 0;
};

struct ConnectRequest {
  std::optional<uint32_t> index;  // any free device where it is not set
  uint64_t size_bytes = 0;
  uint32_t block_bytes = 512;
  uint16_t flags = 0;  // transmission flags
  DeviceTimeouts timeouts;
  std::string backend;       // a name that a RECONFIGURE must repeat
  std::vector<int> sockets;  // past the handshake; more than one needs kFlagCanMultiConn
};

struct ReconfigureRequest {
  uint32_t index = 0;
  std::optional<uint64_t> size_bytes;  // unchanged where it is not set
  DeviceTimeouts timeouts;             // as before: what is not repeated could be reset
  std::string backend;
  std::vector<int> sockets;  // for connections that the kernel knows to be dead; it drops the others
};

Message connect_message(int family, const ConnectRequest& request);
Message reconfigure_message(int family, const ReconfigureRequest& request);
Message disconnect_message(int family, uint32_t index);

// The device's number of an answer to CONNECT; nullopt where it is none.
std::optional<uint32_t> read_connected(nlmsghdr* header);
// The device that has lost a connection; nullopt where the message says something else.
std::optional<uint32_t> read_link_dead(nlmsghdr* header);

}  // namespace fdbnbd::attach
