#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "net/fd.h"
#include "proto/request.h"

namespace fdbnbd::cli {

// A connection to a volume that only asks, for measuring: it takes little of the machine, so that the figures
// are the server's. Requests that are begun together leave in one system call, replies that are there arrive
// in one, as simple replies, and what is read is thrown away. One thread.
class LoadConnection {
 public:
  // Takes the handshake on `socket`, which is a blocking one, and has `slots_count` requests in flight at
  // most. Errors of the server's refusal (not_found, ...), protocol, peer_gone, io.
  static Result<LoadConnection> open(net::OwnedFd socket, const std::string& volume, uint32_t slots_count);

  LoadConnection(LoadConnection&&) noexcept = default;
  LoadConnection& operator=(LoadConnection&&) = delete;
  // Says good-bye. What is in flight is given up.
  ~LoadConnection();

  uint64_t size_bytes() const { return size_bytes_; }

  // Begins a request in `slot`, which has none in flight; wait() sends it. `data` stays until it has ended.
  void begin_read(uint32_t slot, uint64_t offset_bytes, uint32_t length_bytes);
  void begin_write(uint32_t slot, uint64_t offset_bytes, ByteView data);

  // Sends what was begun and waits until a request ends: the slots of those that did. None after a signal.
  // Fails with the first request that failed. At least one is in flight.
  Result<std::span<const uint32_t>> wait();

  uint32_t in_flight_count() const { return in_flight_count_; }

 private:
  struct Slot {
    proto::Request request;
    std::array<std::byte, proto::kRequestBytes> header{};
    bool in_flight = false;
  };

  LoadConnection(net::OwnedFd socket, std::string volume, uint64_t size_bytes, uint32_t slots_count);
  void begin(uint32_t slot, const proto::Request& request);
  // As much as the system takes now.
  Result<void> send();
  // Until something can be sent or received; false after a signal.
  Result<bool> wait_for_room();
  // Takes what is there, waiting for it where all has been sent; false after a signal.
  Result<bool> receive();
  // Notes what has ended; the beginning of a reply is kept for the next time.
  Result<void> take_replies(ByteView input);
  Error connection_error(int error) const;

  net::OwnedFd socket_;
  std::string volume_;
  uint64_t size_bytes_;
  std::vector<Slot> slots_;
  uint32_t in_flight_count_ = 0;
  std::vector<ByteView> unsent_;
  size_t sent_parts_count_ = 0;  // of unsent_
  std::vector<std::byte> buffer_;
  size_t kept_bytes_ = 0;  // of a reply's header, at the beginning of buffer_
  uint32_t data_slot_ = 0;
  uint32_t data_left_bytes_ = 0;  // of the reply to data_slot_
  std::vector<uint32_t> ended_;
};

}  // namespace fdbnbd::cli
