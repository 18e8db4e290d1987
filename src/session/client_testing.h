#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "async/task.h"
#include "base/bytes.h"
#include "net/stream.h"
#include "proto/request.h"

// A small NBD client over a Stream, for tests of sessions. It checks the form of every reply.

namespace fdbnbd::session {

struct ClientChunk {
  proto::ChunkType type{};
  uint64_t offset_bytes = 0;
  uint32_t length_bytes = 0;
  friend bool operator==(const ClientChunk&, const ClientChunk&) = default;
};

struct ClientReply {
  uint64_t cookie = 0;
  proto::NbdError error = proto::NbdError::ok;
  std::vector<std::byte> data;                         // of a READ
  std::vector<ClientChunk> chunks;                     // of a structured reply, without errors
  std::vector<std::pair<uint32_t, uint32_t>> extents;  // of a BLOCK_STATUS: length, flags
};

// Requests without a cookie.
inline proto::Request plain_request(proto::Command command, uint64_t offset_bytes, uint32_t length_bytes,
                                    uint16_t flags = 0) {
  return {.flags = flags, .command = command, .offset_bytes = offset_bytes, .length_bytes = length_bytes};
}
inline proto::Request read_request(uint64_t offset_bytes, uint32_t length_bytes, uint16_t flags = 0) {
  return plain_request(proto::Command::read, offset_bytes, length_bytes, flags);
}
inline proto::Request write_request(uint64_t offset_bytes, uint32_t length_bytes, uint16_t flags = 0) {
  return plain_request(proto::Command::write, offset_bytes, length_bytes, flags);
}
inline std::vector<std::byte> filled(size_t count, int value) {
  return std::vector<std::byte>(count, static_cast<std::byte>(value));
}

class TestClient {
 public:
  struct Options {
    std::string export_name = "fake";
    bool structured = true;
    bool contexts = true;  // base:allocation, with `structured`
  };

  explicit TestClient(std::unique_ptr<net::Stream> stream) : stream_(std::move(stream)) {}

  // The handshake, up to the transmission phase. False where the server refused or closed.
  Task<bool> connect(Options options);
  // The bytes that a client sends for it at once.
  static std::string handshake_bytes(const Options& options);

  // The next free cookie is given to requests that have none.
  Task<uint64_t> send(proto::Request request, std::vector<std::byte> payload = {});
  // DISC; nothing but the end comes back. Closes the stream.
  Task<void> disconnect();
  // Receives until nothing is in flight, or the connection has ended.
  Task<void> receive_all();
  // Receives until the connection has ended; every reply is a success. Counts them.
  Task<void> receive_until_end(size_t& replies_count);
  // The next reply that is complete; nothing at the end of the connection. A reply that nobody asked for, or
  // of a wrong form, fails the test.
  Task<std::optional<ClientReply>> receive();
  // One request and its reply; no other may be in flight.
  Task<ClientReply> call(proto::Request request, std::vector<std::byte> payload = {});

  // Makes what send() notes, without sending: for tests that send bytes by themselves.
  std::string encode(proto::Request& request, ByteView payload = {});

  size_t in_flight_count() const { return pending_.size(); }
  uint64_t size_bytes() const { return size_bytes_; }
  uint16_t flags() const { return flags_; }
  net::Stream& stream() { return *stream_; }
  void set_structured(bool structured) { structured_ = structured; }

 private:
  Task<bool> read(MutableByteView into);
  Task<bool> read_chunk(std::optional<ClientReply>& done);
  Task<bool> read_option_reply(std::string& payload, uint32_t& type);

  std::unique_ptr<net::Stream> stream_;
  bool structured_ = false;
  uint64_t size_bytes_ = 0;
  uint16_t flags_ = 0;
  uint64_t next_cookie_ = 1;
  struct Pending {
    proto::Request request;
    ClientReply reply;
    uint64_t data_bytes = 0;  // told by chunks so far
  };
  std::map<uint64_t, Pending> pending_;
};

}  // namespace fdbnbd::session
