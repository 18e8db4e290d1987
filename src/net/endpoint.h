#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fdbnbd::net {

inline constexpr uint16_t kNbdPort = 10809;

// Where to listen, as `--listen` takes it.
struct Endpoint {
  enum class Kind { tcp, unix_socket };

  Kind kind = Kind::tcp;
  std::string host;  // a name or an address without brackets; empty: every address of this host
  uint16_t port = kNbdPort;
  std::string path;  // of a Unix socket

  friend bool operator==(const Endpoint&, const Endpoint&) = default;
};

// "tcp://HOST:PORT" (HOST may be a [v6] address, `*`, or empty; no port: 10809; port 0: any free one) or
// "unix:PATH". Fails with Errc::invalid.
Result<Endpoint> parse_endpoint(std::string_view text);

// The same notation.
std::string to_string(const Endpoint& endpoint);

}  // namespace fdbnbd::net
