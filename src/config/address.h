#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

// Where a server listens, as users write it.

namespace fdbnbd::config {

struct ListenAddress {
  enum class Kind { tcp, unix_socket };

  Kind kind = Kind::tcp;
  std::string host;   // tcp: a name or an address, IPv6 without brackets
  uint16_t port = 0;  // tcp: 0 picks a free one
  std::string path;   // unix_socket

  friend bool operator==(const ListenAddress&, const ListenAddress&) = default;
};

// tcp://HOST:PORT (HOST may be [IPv6]), unix:PATH. Errc::invalid otherwise.
Result<ListenAddress> parse_listen_address(std::string_view text);

std::string to_string(const ListenAddress& address);

// Whether only this machine can reach it: a Unix socket, localhost, 127.0.0.0/8, ::1. By the text alone: a
// host name other than localhost counts as reachable from elsewhere.
bool is_local(const ListenAddress& address);

// "NAME=SIZE" of --volume. The name is checked by whoever makes the volume.
struct VolumeSpec {
  std::string name;
  uint64_t size_bytes = 0;

  friend bool operator==(const VolumeSpec&, const VolumeSpec&) = default;
};
Result<VolumeSpec> parse_volume_spec(std::string_view text);

}  // namespace fdbnbd::config
