#include "proto/handshake.h"

#include "base/endian.h"

namespace fdbnbd::proto {

void encode_greeting(std::span<std::byte, kGreetingBytes> out) {
  store_be(&out[0], kNbdMagic);
  store_be(&out[8], kIHaveOpt);
  store_be(&out[16], kOfferedHandshakeFlags);
}

std::optional<ClientFlags> decode_client_flags(std::span<const std::byte, kClientFlagsBytes> bytes) {
  const auto flags = load_be<uint32_t>(bytes.data());
  if ((flags & ~(kFlagCFixedNewstyle | kFlagCNoZeroes)) != 0) return std::nullopt;
  return ClientFlags{.fixed_newstyle = (flags & kFlagCFixedNewstyle) != 0,
                     .no_zeroes = (flags & kFlagCNoZeroes) != 0};
}

uint16_t transmission_flags(const TransmissionFeatures& features) {
  unsigned flags = kFlagHasFlags | kFlagSendFlush | kFlagSendFua | kFlagCanMultiConn | kFlagSendCache;
  if (features.read_only)
    flags |= kFlagReadOnly;
  else
    flags |= kFlagSendTrim | kFlagSendWriteZeroes | kFlagSendFastZero;
  if (features.structured_replies) flags |= kFlagSendDf;
  return static_cast<uint16_t>(flags);
}

void encode_export_name_reply(std::span<std::byte, kExportNameReplyBytes> out, uint64_t size_bytes,
                              uint16_t flags) {
  store_be(&out[0], size_bytes);
  store_be(&out[8], flags);
}

void encode_option_reply_header(std::span<std::byte, kOptionReplyHeaderBytes> out, Option option,
                                OptionReply type, uint32_t payload_bytes) {
  store_be(&out[0], kOptionReplyMagic);
  store_be(&out[8], static_cast<uint32_t>(option));
  store_be(&out[12], static_cast<uint32_t>(type));
  store_be(&out[16], payload_bytes);
}

}  // namespace fdbnbd::proto
