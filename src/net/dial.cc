#include "net/dial.h"

#include <fmt/format.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cerrno>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <system_error>

#include "net/fd_stream.h"

namespace fdbnbd::net {

namespace {

Error dial_error(const std::string& address, int code) {
  const std::string text =
      fmt::format("cannot connect to {}: {}", address, std::generic_category().message(code));
  switch (code) {
    case ECONNREFUSED:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ECONNRESET:
      return {Errc::unavailable, text};
    case ENOENT:
    case ENOTDIR:
      return {Errc::not_found, text};
    case EACCES:
    case EPERM:
      return {Errc::permission, text};
    case EAGAIN:  // of a Unix socket whose backlog stays full
    case EINPROGRESS:
    case ETIMEDOUT:
      return {Errc::timeout, fmt::format("cannot connect to {}: no answer", address)};
    default:
      return {Errc::io, text};
  }
}

Result<OwnedFd> connect_socket(const std::string& name, const sockaddr* address, socklen_t length,
                               Duration patience) {
  OwnedFd socket(::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return tl::unexpected(dial_error(name, errno));
  set_patience(socket.get(), patience);
  if (::connect(socket.get(), address, length) != 0) return tl::unexpected(dial_error(name, errno));
  tune_socket(socket.get());
  return socket;
}

Result<OwnedFd> dial_unix(const Endpoint& endpoint, Duration patience) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (endpoint.path.size() >= sizeof address.sun_path)
    return fail(Errc::invalid, fmt::format("{}: the path is too long", to_string(endpoint)));
  endpoint.path.copy(address.sun_path, endpoint.path.size());
  return connect_socket(to_string(endpoint), reinterpret_cast<const sockaddr*>(&address), sizeof address,
                        patience);
}

Result<OwnedFd> dial_tcp(const Endpoint& endpoint, Duration patience) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const char* const host = endpoint.host.empty() ? nullptr : endpoint.host.c_str();
  const int code = ::getaddrinfo(host, std::to_string(endpoint.port).c_str(), &hints, &found);
  if (code != 0) {
    return fail(Errc::not_found,
                fmt::format("cannot find the host of {}: {}", to_string(endpoint), ::gai_strerror(code)));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> list(found, &::freeaddrinfo);
  std::optional<Error> first_error;
  for (const addrinfo* one = list.get(); one != nullptr; one = one->ai_next) {
    auto socket = connect_socket(to_string(endpoint), one->ai_addr, one->ai_addrlen, patience);
    if (socket) return socket;
    if (!first_error) first_error = std::move(socket.error());
  }
  return tl::unexpected(
      first_error.value_or(Error{Errc::not_found, to_string(endpoint) + " has no address"}));
}

}  // namespace

void set_patience(int socket, Duration patience) {
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(patience).count();
  const timeval value{.tv_sec = us / 1'000'000, .tv_usec = us % 1'000'000};
  (void)::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &value, sizeof value);
  (void)::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &value, sizeof value);
}

Result<OwnedFd> dial(const Endpoint& endpoint, Duration patience) {
  return endpoint.kind == Endpoint::Kind::unix_socket ? dial_unix(endpoint, patience)
                                                      : dial_tcp(endpoint, patience);
}

}  // namespace fdbnbd::net
