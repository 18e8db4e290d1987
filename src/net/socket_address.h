#pragma once

#include <netdb.h>
#include <sys/socket.h>

#include <string>

// Socket addresses as people read them; for the .cc files of this module.

namespace fdbnbd::net {

// "127.0.0.1:80", "[::1]:80"; empty where it is not an internet address.
std::string format_address(const sockaddr* address, socklen_t length);

// Whether only processes of this host can reach the address.
bool is_loopback(const sockaddr* address);

// AF_INET, AF_INET6, AF_UNIX, ...; AF_UNSPEC where it is no socket.
int socket_family(int fd);

// "tcp 127.0.0.1:4711", "unix pid 17 uid 0".
std::string describe_peer(int fd);

}  // namespace fdbnbd::net
