#pragma once

#include <memory>
#include <string>
#include <utility>

#include "base/result.h"
#include "net/fd.h"
#include "net/stream.h"

namespace fdbnbd::net {

// Sets what both ends of a connection want of a socket: no delay, keepalive and a user timeout on TCP, a
// large send buffer on Unix sockets.
void tune_socket(int fd);

// A connected stream socket, already or not yet attached to a loop (Stream::attach), which is tuned.
std::unique_ptr<Stream> make_socket_stream(OwnedFd socket);

// Two descriptors that somebody else made, of any kind: a socket, pipes, a terminal, files. `in` and `out`
// may be the same; neither is closed before the stream is. They get non-blocking mode (sockets keep theirs)
// and their old mode back in the end.
std::unique_ptr<Stream> make_fd_stream(int in, int out);

// A connected pair of Unix sockets: a stream for the server's side, and the client's descriptor.
Result<std::pair<std::unique_ptr<Stream>, OwnedFd>> make_socket_pair();

}  // namespace fdbnbd::net
