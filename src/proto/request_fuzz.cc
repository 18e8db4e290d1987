#include <array>
#include <cstring>
#include <string_view>
#include <vector>

#include "base/assert.h"
#include "base/endian.h"
#include "base/limits.h"
#include "proto/errno_map.h"
#include "proto/reply.h"
#include "proto/request.h"

// Requests as they come, against an export as the input describes it: 13 bytes of facts, then a header and
// one more byte for each request.

namespace fdbnbd::proto {
namespace {

constexpr size_t kFactsBytes = 8 + 4 + 1;
constexpr size_t kStepBytes = kRequestBytes + 1;

TransmissionFacts decode_facts(const uint8_t* from) {
  return {.size_bytes = load_be<uint64_t>(from),
          .max_payload_bytes = load_be<uint32_t>(from + 8),
          .read_only = (from[12] & 1) != 0,
          .structured_replies = (from[12] & 2) != 0,
          .has_contexts = (from[12] & 4) != 0};
}

void check_verdict(const Request& request, const TransmissionFacts& facts) {
  const NbdError verdict = validate_request(request, facts);
  const bool is_change = request.command == Command::write || request.command == Command::trim ||
                         request.command == Command::write_zeroes;
  ASSERT((verdict == NbdError::ok) == std::string_view(rejection_text(request, facts)).empty());
  switch (verdict) {
    case NbdError::ok:
      break;
    case NbdError::eperm:
      ASSERT(facts.read_only && is_change);
      break;
    case NbdError::enospc:
      ASSERT(request.command == Command::write || request.command == Command::write_zeroes);
      break;
    case NbdError::einval:
      break;
    default:
      ASSERT(false);
  }
  const PayloadAction action = payload_action(request, verdict);
  const uint32_t payload_bytes = request_payload_bytes(request);
  ASSERT((action == PayloadAction::none) == (payload_bytes == 0));
  ASSERT((action == PayloadAction::close) ==
         (verdict != NbdError::ok && payload_bytes > limits::kMaxSkippedPayloadBytes));
  if (verdict != NbdError::ok || request.command == Command::disc) return;

  ASSERT(request.command <= Command::block_status);
  ASSERT(!(facts.read_only && is_change));
  ASSERT((request.flags & ~0x1fu) == 0);
  if (request.command == Command::flush) {
    ASSERT(request.offset_bytes == 0 && request.length_bytes == 0);
    return;
  }
  ASSERT(__uint128_t{request.offset_bytes} + request.length_bytes <= facts.size_bytes);
  if (request.command == Command::read || request.command == Command::write)
    ASSERT(request.length_bytes <= facts.max_payload_bytes);
  if (request.has(kCmdFlagDf)) ASSERT(request.command == Command::read && facts.structured_replies);
  if (request.command == Command::block_status) ASSERT(facts.has_contexts && request.length_bytes > 0);
}

void check_error_replies(const Request& request, Errc code, std::string_view text) {
  const NbdError error = error_for(code, request);
  ASSERT(error != NbdError::ok && error != NbdError::eshutdown);
  std::array<std::byte, kMaxErrorChunkBytes> chunk;
  const size_t chunk_bytes = encode_error_chunk(chunk, request.cookie, error, text);
  ASSERT(chunk_bytes <= chunk.size());
  ASSERT(load_be<uint64_t>(&chunk[8]) == request.cookie);
  const auto payload_bytes = load_be<uint32_t>(&chunk[16]);
  const auto text_bytes = load_be<uint16_t>(&chunk[kChunkHeaderBytes + 4]);
  ASSERT(chunk_bytes == kChunkHeaderBytes + payload_bytes && payload_bytes == 6u + text_bytes);
  ASSERT(text_bytes <= text.size());
  ASSERT(std::memcmp(&chunk[kChunkHeaderBytes + 6], text.data(), text_bytes) == 0);
}

void check_status_length(uint64_t offset_bytes, uint64_t length_bytes) {
  if (length_bytes == 0) return;
  const uint32_t told = status_descriptor_length(offset_bytes, length_bytes);
  ASSERT(told > 0 && told <= length_bytes);
}

}  // namespace
}  // namespace fdbnbd::proto

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  using namespace fdbnbd;
  using namespace fdbnbd::proto;
  if (bytes < kFactsBytes) return 0;
  const TransmissionFacts facts = decode_facts(data);
  const std::string_view text(reinterpret_cast<const char*>(data), bytes);
  for (size_t at = kFactsBytes; bytes - at >= kStepBytes; at += kStepBytes) {
    const std::span<const std::byte, kRequestBytes> header(reinterpret_cast<const std::byte*>(data) + at,
                                                           kRequestBytes);
    const auto request = decode_request(header);
    ASSERT(request.has_value() == (load_be<uint32_t>(header.data()) == kRequestMagic));
    if (!request) break;
    std::array<std::byte, kRequestBytes> again;
    encode_request(again, *request);
    ASSERT(std::memcmp(again.data(), header.data(), kRequestBytes) == 0);
    check_verdict(*request, facts);
    constexpr int kErrcCount = static_cast<int>(Errc::newer_format) + 1;
    check_error_replies(*request, Errc{data[at + kRequestBytes] % kErrcCount}, text.substr(at));
    check_status_length(request->offset_bytes, request->cookie);
  }
  return 0;
}
