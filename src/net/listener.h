#pragma once

#include <sys/socket.h>

#include <memory>
#include <string>
#include <vector>

#include "async/task.h"
#include "base/result.h"
#include "net/endpoint.h"
#include "net/io_loop.h"
#include "net/stream.h"

namespace fdbnbd::net {

// A source of connections. All calls on its executor's thread.
class Acceptor {
 public:
  virtual ~Acceptor() = default;

  // The next connection, attached to the acceptor's executor. Errors: cancelled once closed; too_large where
  // a connection was refused for want of descriptors (go on accepting). One call at a time.
  virtual Task<Result<std::unique_ptr<Stream>>> accept() = 0;

  // No more connections; an accept() in progress ends. A Unix socket's file is removed. Twice is no harm.
  virtual void close() = 0;

  // Where it listens, as `--listen` takes it, with the port in use: "tcp://127.0.0.1:10809".
  virtual const std::string& address() const = 0;
};

using Acceptors = std::vector<std::unique_ptr<Acceptor>>;

struct ListenOptions {
  // Whether addresses that other hosts can reach are allowed.
  bool allow_remote = false;
};

struct SocketAddress {
  sockaddr_storage address{};
  socklen_t length = 0;
};

// The addresses that the host name has, at least one; none of a Unix socket. Blocks for the look-up. Errors:
// not_found (unknown host).
Result<std::vector<SocketAddress>> resolve(const Endpoint& endpoint);

// Listens at `endpoint`, whose addresses resolve() has found: one acceptor for each (port 0: the same port
// for all). The socket file of a dead server is replaced. Errors: busy (in use, with what to do), permission
// (also a remote address that is not allowed), not_found, invalid, exists (the path is a file of another
// kind), io.
Result<Acceptors> listen(IoLoop& loop, const Endpoint& endpoint, std::vector<SocketAddress> addresses,
                         ListenOptions options = {});

// Both in one: blocks for a name look-up.
Result<Acceptors> listen(IoLoop& loop, const Endpoint& endpoint, ListenOptions options = {});

// The listening sockets that a service manager passed to this process (LISTEN_PID, LISTEN_FDS of
// sd_listen_fds(3)); none where there are no such variables, which are taken out of the environment. Errors:
// invalid where a descriptor is no listening stream socket. Before threads start.
Result<Acceptors> adopt_activation_sockets(IoLoop& loop);

}  // namespace fdbnbd::net
