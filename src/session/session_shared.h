#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "session/buffer_pool.h"
#include "session/byte_budget.h"
#include "session/session_limits.h"

namespace fdbnbd::session {

// Counted by sessions on any thread; read by SessionServer::stats().
struct SessionCounters {
  std::atomic<uint64_t> requests_count{0};  // ever
  std::atomic<uint64_t> requests_in_flight{0};
  std::atomic<uint64_t> evicted_peers{0};    // held memory and did not move
  std::atomic<uint64_t> protocol_errors{0};  // that ended a connection
};

// What the sessions of one server share.
struct SessionShared {
  explicit SessionShared(const SessionLimits& chosen)
      : limits(chosen),
        requests_per_connection(chosen.requests_per_connection),
        connection_bytes(chosen.connection_bytes),
        budget(limits) {}

  const SessionLimits limits;  // as they were when the server began
  // Of these, what may change meanwhile.
  std::atomic<uint32_t> requests_per_connection;
  std::atomic<uint64_t> connection_bytes;
  ByteBudget budget;
  SessionCounters counters;
};

// What the sessions of one loop share, on its thread.
struct LoopResources {
  explicit LoopResources(const SessionLimits& limits)
      : receive_buffer_bytes(limits.receive_buffer_bytes),
        receive_buffer(std::make_unique_for_overwrite<std::byte[]>(receive_buffer_bytes)) {}

  // For what a session receives and takes apart without a pause in between: one buffer, always in the
  // processor's cache, for any number of connections.
  MutableByteView scratch() { return {receive_buffer.get(), receive_buffer_bytes}; }

  const size_t receive_buffer_bytes;
  const std::unique_ptr<std::byte[]> receive_buffer;
  BufferPool buffers;
};

}  // namespace fdbnbd::session
