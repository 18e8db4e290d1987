#pragma once

#include <cstdint>

#include "base/clock.h"
#include "base/limits.h"

namespace fdbnbd::session {

// What sessions may take. The defaults are the product's; each can be configured, and tests make them small.
struct SessionLimits {
  uint32_t connections_count = limits::kMaxConnections;
  uint32_t handshaking_count = limits::kMaxHandshakingConnections;
  Duration handshake_timeout = limits::kHandshakeTimeout;

  uint32_t requests_per_connection = limits::kMaxRequestsPerConnection;
  uint64_t connection_bytes = limits::kConnectionInFlightBytes;
  uint64_t process_bytes = limits::kProcessInFlightBytes;
  uint64_t reserved_for_small_bytes = limits::kReservedForSmallBytes;
  uint32_t small_request_bytes = limits::kSmallRequestBytes;
  uint32_t receive_buffer_bytes = limits::kReceiveBufferBytes;

  Duration stall_timeout = limits::kSendStallTimeout;
  Duration contended_stall_timeout = limits::kContendedStallTimeout;
  Duration linger_timeout = limits::kLingerTimeout;
};

}  // namespace fdbnbd::session
