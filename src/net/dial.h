#pragma once

#include "base/clock.h"
#include "base/result.h"
#include "net/endpoint.h"
#include "net/fd.h"

// The other end of what listens, for a thread that may block.

namespace fdbnbd::net {

// A connected blocking socket, tuned for NBD, whose calls give up after `patience` (set_patience). Tries
// every address that a host name has; an empty host is this one. Errors: unavailable (nobody listens there),
// not_found (unknown host, no such path), timeout, permission, io.
Result<OwnedFd> dial(const Endpoint& endpoint, Duration patience);

// How long one send or receive on a blocking socket waits before it fails with EAGAIN; zero: for ever.
void set_patience(int socket, Duration patience);

}  // namespace fdbnbd::net
