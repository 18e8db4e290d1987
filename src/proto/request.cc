#include "proto/request.h"

#include "base/endian.h"
#include "base/limits.h"

namespace fdbnbd::proto {

namespace {

struct Verdict {
  NbdError error = NbdError::ok;
  const char* text = "";
};

// The flags that a command may carry. FUA goes with every one: clients exist that set it on reads.
constexpr unsigned allowed_flags(Command command, const TransmissionFacts& facts) {
  switch (command) {
    case Command::read:
      return kCmdFlagFua | (facts.structured_replies ? kCmdFlagDf : 0);
    case Command::write_zeroes:
      return kCmdFlagFua | kCmdFlagNoHole | kCmdFlagFastZero;
    case Command::block_status:
      return kCmdFlagFua | kCmdFlagReqOne;
    case Command::write:
    case Command::disc:
    case Command::flush:
    case Command::trim:
    case Command::cache:
    case Command::resize:
      return kCmdFlagFua;
  }
  return kCmdFlagFua;
}

constexpr bool changes_data(Command command) {
  return command == Command::write || command == Command::trim || command == Command::write_zeroes;
}

// Whether the range reaches beyond the end; never wraps.
constexpr bool is_past_end(const Request& request, uint64_t size_bytes) {
  return request.offset_bytes > size_bytes || request.length_bytes > size_bytes - request.offset_bytes;
}

constexpr bool is_known(Command command) {
  return command <= Command::block_status;
}

Verdict judge(const Request& request, const TransmissionFacts& facts) {
  const Command command = request.command;
  if (command == Command::disc) return {};
  if (!is_known(command)) return {NbdError::einval, "unknown command"};
  if ((request.flags & ~allowed_flags(command, facts)) != 0)
    return {NbdError::einval, "a command flag that does not apply"};
  if (facts.read_only && changes_data(command)) return {NbdError::eperm, "the export is read-only"};
  if (command == Command::flush) {
    if (request.offset_bytes != 0 || request.length_bytes != 0)
      return {NbdError::einval, "a flush with an offset or a length"};
    return {};
  }
  if (command == Command::block_status) {
    if (!facts.has_contexts) return {NbdError::einval, "no metadata context was negotiated"};
    // No answer is possible: each descriptor must cover at least one byte of the range.
    if (request.length_bytes == 0) return {NbdError::einval, "a block status of no bytes"};
  }
  const bool has_payload = command == Command::read || command == Command::write;
  if (has_payload && request.length_bytes > facts.max_payload_bytes)
    return {NbdError::einval, "longer than the maximum payload"};
  if (is_past_end(request, facts.size_bytes)) {
    const bool fills_space = command == Command::write || command == Command::write_zeroes;
    return {fills_space ? NbdError::enospc : NbdError::einval, "beyond the end of the export"};
  }
  return {};
}

}  // namespace

std::optional<Request> decode_request(std::span<const std::byte, kRequestBytes> bytes) {
  if (load_be<uint32_t>(&bytes[0]) != kRequestMagic) return std::nullopt;
  return Request{.flags = load_be<uint16_t>(&bytes[4]),
                 .command = Command{load_be<uint16_t>(&bytes[6])},
                 .cookie = load_be<uint64_t>(&bytes[8]),
                 .offset_bytes = load_be<uint64_t>(&bytes[16]),
                 .length_bytes = load_be<uint32_t>(&bytes[24])};
}

void encode_request(std::span<std::byte, kRequestBytes> out, const Request& request) {
  store_be(&out[0], kRequestMagic);
  store_be(&out[4], request.flags);
  store_be(&out[6], static_cast<uint16_t>(request.command));
  store_be(&out[8], request.cookie);
  store_be(&out[16], request.offset_bytes);
  store_be(&out[24], request.length_bytes);
}

NbdError validate_request(const Request& request, const TransmissionFacts& facts) {
  return judge(request, facts).error;
}

const char* rejection_text(const Request& request, const TransmissionFacts& facts) {
  return judge(request, facts).text;
}

uint32_t request_payload_bytes(const Request& request) {
  return request.command == Command::write ? request.length_bytes : 0;
}

PayloadAction payload_action(const Request& request, NbdError verdict) {
  const uint32_t payload_bytes = request_payload_bytes(request);
  if (payload_bytes == 0) return PayloadAction::none;
  if (verdict == NbdError::ok) return PayloadAction::receive;
  return payload_bytes <= limits::kMaxSkippedPayloadBytes ? PayloadAction::skip : PayloadAction::close;
}

}  // namespace fdbnbd::proto
