#include "net/endpoint.h"

#include <fmt/format.h>
#include <sys/un.h>

#include <charconv>

namespace fdbnbd::net {

namespace {

constexpr std::string_view kTcp = "tcp://";
constexpr std::string_view kUnix = "unix:";
constexpr size_t kMaxSocketPathBytes = sizeof(sockaddr_un::sun_path) - 1;

Result<uint16_t> parse_port(std::string_view text, std::string_view whole) {
  uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size()) {
    return fail(Errc::invalid,
                fmt::format("'{}' has no port number from 0 to 65535 behind the colon", whole));
  }
  return port;
}

Result<Endpoint> parse_tcp(std::string_view rest, std::string_view whole) {
  Endpoint endpoint;
  std::string_view host = rest;
  std::string_view after;
  if (rest.starts_with('[')) {
    const size_t close = rest.find(']');
    if (close == std::string_view::npos) return fail(Errc::invalid, fmt::format("'{}' lacks a ']'", whole));
    host = rest.substr(1, close - 1);
    after = rest.substr(close + 1);
  } else if (const size_t colon = rest.rfind(':'); colon != std::string_view::npos) {
    host = rest.substr(0, colon);
    after = rest.substr(colon);
    if (host.find(':') != std::string_view::npos) {
      return fail(Errc::invalid,
                  fmt::format("'{}': write an IPv6 address in brackets, as tcp://[::1]:10809", whole));
    }
  }
  if (host.find_first_of("/@?#") != std::string_view::npos || (!after.empty() && after.front() != ':')) {
    return fail(Errc::invalid, fmt::format("'{}' is not tcp://HOST:PORT", whole));
  }
  if (!after.empty()) {
    ASSIGN_OR_RETURN(endpoint.port, parse_port(after.substr(1), whole));
  }
  endpoint.host = host == "*" ? "" : host;
  return endpoint;
}

}  // namespace

Result<Endpoint> parse_endpoint(std::string_view text) {
  if (text.find('\0') != std::string_view::npos)
    return fail(Errc::invalid, "an address must not hold a NUL byte");
  if (text.starts_with(kTcp)) return parse_tcp(text.substr(kTcp.size()), text);
  if (!text.starts_with(kUnix)) {
    return fail(Errc::invalid, fmt::format("'{}' is neither tcp://HOST:PORT nor unix:PATH", text));
  }
  Endpoint endpoint;
  endpoint.kind = Endpoint::Kind::unix_socket;
  endpoint.port = 0;
  endpoint.path = text.substr(kUnix.size());
  if (endpoint.path.empty()) return fail(Errc::invalid, fmt::format("'{}' names no path", text));
  if (endpoint.path.size() > kMaxSocketPathBytes) {
    return fail(Errc::invalid, fmt::format("'{}': the path of a Unix socket has at most {} bytes", text,
                                           kMaxSocketPathBytes));
  }
  return endpoint;
}

std::string to_string(const Endpoint& endpoint) {
  if (endpoint.kind == Endpoint::Kind::unix_socket) return fmt::format("unix:{}", endpoint.path);
  if (endpoint.host.find(':') != std::string::npos)
    return fmt::format("tcp://[{}]:{}", endpoint.host, endpoint.port);
  return fmt::format("tcp://{}:{}", endpoint.host.empty() ? "*" : endpoint.host, endpoint.port);
}

}  // namespace fdbnbd::net
