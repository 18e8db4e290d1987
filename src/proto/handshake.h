#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/bytes.h"
#include "proto/constants.h"

// The fixed-size messages of the newstyle handshake (NBD proto, "Newstyle negotiation").

namespace fdbnbd::proto {

inline constexpr size_t kGreetingBytes = 18;
inline constexpr size_t kClientFlagsBytes = 4;
inline constexpr size_t kExportNameReplyBytes = 8 + 2;  // without the padding
inline constexpr size_t kExportNamePaddingBytes = 124;  // unless both sides agreed on NO_ZEROES
inline constexpr size_t kOptionReplyHeaderBytes = 8 + 4 + 4 + 4;

// What we offer in the greeting.
inline constexpr uint16_t kOfferedHandshakeFlags = kFlagFixedNewstyle | kFlagNoZeroes;

// The server's first message, with kOfferedHandshakeFlags.
void encode_greeting(std::span<std::byte, kGreetingBytes> out);

struct ClientFlags {
  bool fixed_newstyle = false;
  bool no_zeroes = false;
};

// nullopt: the client set a bit that we did not offer, and the connection must be dropped.
std::optional<ClientFlags> decode_client_flags(std::span<const std::byte, kClientFlagsBytes> bytes);

// The transmission flags of an export, as sent with EXPORT_NAME and NBD_INFO_EXPORT.
struct TransmissionFeatures {
  bool read_only = false;
  bool structured_replies = false;  // negotiated by now
};
uint16_t transmission_flags(const TransmissionFeatures& features);

// The answer to EXPORT_NAME, without the padding of kExportNamePaddingBytes zero bytes.
void encode_export_name_reply(std::span<std::byte, kExportNameReplyBytes> out, uint64_t size_bytes,
                              uint16_t flags);

// The header of one option reply; `payload_bytes` bytes must follow it.
void encode_option_reply_header(std::span<std::byte, kOptionReplyHeaderBytes> out, Option option,
                                OptionReply type, uint32_t payload_bytes);

}  // namespace fdbnbd::proto
