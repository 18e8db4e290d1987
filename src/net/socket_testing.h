#pragma once

#include <string>

#include "net/fd.h"
#include "net/io_loop.h"
#include "net/listener.h"

// Helpers of this module's tests.

namespace fdbnbd::net {

// Removed with all that is in it.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A client's blocking connection to `address`, as an Acceptor reports it; none where it failed.
OwnedFd connect_to(const std::string& address);

// Fails the test where it cannot listen.
Acceptors listen_at(IoLoop& loop, const std::string& where);

// What one receive gives, as text; empty at the end.
std::string read_available(int fd);

}  // namespace fdbnbd::net
