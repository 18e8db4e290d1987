#include "net/socket_testing.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "net/endpoint.h"

namespace fdbnbd::net {

TemporaryDirectory::TemporaryDirectory() {
  char name[] = "/tmp/fdb-nbd-net-XXXXXX";
  path_ = ::mkdtemp(name);
}

TemporaryDirectory::~TemporaryDirectory() {
  std::filesystem::remove_all(path_);
}

OwnedFd connect_to(const std::string& address) {
  const Endpoint endpoint = parse_endpoint(address).value();
  if (endpoint.kind == Endpoint::Kind::unix_socket) {
    OwnedFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    std::memcpy(to.sun_path, endpoint.path.data(), endpoint.path.size());
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) fd.reset();
    return fd;
  }
  OwnedFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(endpoint.port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) fd.reset();
  return fd;
}

Acceptors listen_at(IoLoop& loop, const std::string& where) {
  auto acceptors = listen(loop, parse_endpoint(where).value());
  if (!acceptors) ADD_FAILURE() << acceptors.error().what;
  return acceptors ? std::move(*acceptors) : Acceptors();
}

std::string read_available(int fd) {
  std::string text(64, '\0');
  const ssize_t n = ::recv(fd, text.data(), text.size(), 0);
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return text;
}

}  // namespace fdbnbd::net
