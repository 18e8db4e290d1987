#include "config/address.h"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <sys/un.h>

#include <charconv>

#include "base/units.h"

namespace fdbnbd::config {

namespace {

constexpr std::string_view kTcp = "tcp://";
constexpr std::string_view kUnix = "unix:";

tl::unexpected<Error> not_an_address(std::string_view text) {
  return fail(Errc::invalid,
              fmt::format("\"{}\" is not a listen address: use tcp://HOST:PORT or unix:PATH", text));
}

}  // namespace

Result<ListenAddress> parse_listen_address(std::string_view text) {
  if (text.find('\0') != std::string_view::npos) return not_an_address(text);
  if (text.starts_with(kUnix)) {
    const std::string_view path = text.substr(kUnix.size());
    if (path.empty()) return not_an_address(text);
    if (path.size() >= sizeof(sockaddr_un::sun_path)) {
      return fail(Errc::invalid,
                  fmt::format("the socket path {} is longer than the {} bytes a Unix socket allows", path,
                              sizeof(sockaddr_un::sun_path) - 1));
    }
    return ListenAddress{
        .kind = ListenAddress::Kind::unix_socket, .host = {}, .port = 0, .path = std::string(path)};
  }
  if (!text.starts_with(kTcp)) return not_an_address(text);
  const std::string_view rest = text.substr(kTcp.size());
  const auto colon = rest.rfind(':');
  if (colon == std::string_view::npos) return not_an_address(text);
  std::string_view host = rest.substr(0, colon);
  const std::string_view port_text = rest.substr(colon + 1);
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return fail(Errc::invalid,
                fmt::format("\"{}\": an IPv6 address stands in brackets, as tcp://[::1]:10809", text));
  }
  uint16_t port = 0;
  const auto [end, error] = std::from_chars(port_text.data(), port_text.data() + port_text.size(), port);
  if (host.empty() || error != std::errc{} || end != port_text.data() + port_text.size()) {
    return not_an_address(text);
  }
  return ListenAddress{.kind = ListenAddress::Kind::tcp, .host = std::string(host), .port = port, .path = {}};
}

std::string to_string(const ListenAddress& address) {
  if (address.kind == ListenAddress::Kind::unix_socket) return fmt::format("unix:{}", address.path);
  const bool is_ipv6 = address.host.find(':') != std::string::npos;
  return fmt::format(fmt::runtime(is_ipv6 ? "tcp://[{}]:{}" : "tcp://{}:{}"), address.host, address.port);
}

bool is_local(const ListenAddress& address) {
  if (address.kind == ListenAddress::Kind::unix_socket || address.host == "localhost") return true;
  in_addr v4{};
  if (inet_pton(AF_INET, address.host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, address.host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

Result<VolumeSpec> parse_volume_spec(std::string_view text) {
  const auto equals = text.rfind('=');
  if (equals == std::string_view::npos || equals == 0) {
    return fail(Errc::invalid, fmt::format("\"{}\" is not NAME=SIZE, as example=1G", text));
  }
  ASSIGN_OR_RETURN(const uint64_t size_bytes, parse_size(text.substr(equals + 1)));
  return VolumeSpec{.name = std::string(text.substr(0, equals)), .size_bytes = size_bytes};
}

}  // namespace fdbnbd::config
