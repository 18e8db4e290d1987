#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/bytes.h"
#include "proto/constants.h"

// Requests of the transmission phase (NBD proto, "Request message", "Request types").

namespace fdbnbd::proto {

inline constexpr size_t kRequestBytes = 28;

struct Request {
  uint16_t flags = 0;
  Command command{};
  uint64_t cookie = 0;
  uint64_t offset_bytes = 0;
  uint32_t length_bytes = 0;

  bool has(uint16_t flag) const { return (flags & flag) != 0; }

  friend bool operator==(const Request&, const Request&) = default;
};

// nullopt: wrong magic. The stream is out of step: close the connection and answer nothing.
std::optional<Request> decode_request(std::span<const std::byte, kRequestBytes> bytes);
void encode_request(std::span<std::byte, kRequestBytes> out, const Request& request);

// What a session knows when a request arrives.
struct TransmissionFacts {
  uint64_t size_bytes = 0;  // of the export now
  uint32_t max_payload_bytes = 0;
  bool read_only = false;
  bool structured_replies = false;
  bool has_contexts = false;  // at least one metadata context is selected
};

// The error to answer `request` with, or NbdError::ok when it may go to the export. Total: any request, the
// unknown ones too. NBD_CMD_DISC is always ok (it has no reply).
//
// An ok request lies inside the export. Its length may be 0 for READ, WRITE, TRIM, CACHE and WRITE_ZEROES:
// nothing is to be done then and the answer is success (for a READ with structured replies one NONE chunk).
NbdError validate_request(const Request& request, const TransmissionFacts& facts);

// Why validate_request said no, one line for a person; "" for ok.
const char* rejection_text(const Request& request, const TransmissionFacts& facts);

// Bytes that follow the request's header on the wire: the length of a WRITE, else 0.
uint32_t request_payload_bytes(const Request& request);

// What to do with the payload of a request, which follows whether or not the request is valid.
enum class PayloadAction {
  none,     // no payload follows
  receive,  // read it into memory: the request is valid
  skip,     // read it and throw it away, then answer with the error
  close,    // beyond limits::kMaxSkippedPayloadBytes: close the connection
};
PayloadAction payload_action(const Request& request, NbdError verdict);

}  // namespace fdbnbd::proto
