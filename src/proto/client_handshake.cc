#include "proto/client_handshake.h"

#include "base/endian.h"
#include "proto/option.h"

namespace fdbnbd::proto {

std::optional<Greeting> decode_greeting(std::span<const std::byte, kGreetingBytes> bytes) {
  if (load_be<uint64_t>(&bytes[0]) != kNbdMagic || load_be<uint64_t>(&bytes[8]) != kIHaveOpt)
    return std::nullopt;
  const auto flags = load_be<uint16_t>(&bytes[16]);
  return Greeting{.fixed_newstyle = (flags & kFlagFixedNewstyle) != 0,
                  .no_zeroes = (flags & kFlagNoZeroes) != 0};
}

std::string encode_client_flags(const Greeting& greeting) {
  std::string bytes;
  append_be(bytes, (greeting.fixed_newstyle ? kFlagCFixedNewstyle : 0U) |
                       (greeting.no_zeroes ? kFlagCNoZeroes : 0U));
  return bytes;
}

std::string encode_info_option(Option option, std::string_view export_name) {
  const auto name_bytes = static_cast<uint32_t>(export_name.size());
  std::string bytes;
  append_be(bytes, kIHaveOpt);
  append_be(bytes, static_cast<uint32_t>(option));
  append_be(bytes, static_cast<uint32_t>(sizeof name_bytes + name_bytes + sizeof(uint16_t)));
  append_be(bytes, name_bytes);
  bytes += export_name;
  append_be(bytes, uint16_t{0});
  return bytes;
}

std::string encode_option(Option option) {
  std::string bytes;
  append_be(bytes, kIHaveOpt);
  append_be(bytes, static_cast<uint32_t>(option));
  append_be(bytes, uint32_t{0});
  return bytes;
}

std::optional<OptionReplyHeader> decode_option_reply_header(
    std::span<const std::byte, kOptionReplyHeaderBytes> bytes) {
  if (load_be<uint64_t>(&bytes[0]) != kOptionReplyMagic) return std::nullopt;
  return OptionReplyHeader{.option = Option{load_be<uint32_t>(&bytes[8])},
                           .type = OptionReply{load_be<uint32_t>(&bytes[12])},
                           .payload_bytes = load_be<uint32_t>(&bytes[16])};
}

std::optional<ExportTerms> decode_info_export(ByteView payload) {
  if (payload.size() != kInfoExportBytes) return std::nullopt;
  if (load_be<uint16_t>(&payload[0]) != static_cast<uint16_t>(InfoType::export_)) return std::nullopt;
  return ExportTerms{.size_bytes = load_be<uint64_t>(&payload[2]), .flags = load_be<uint16_t>(&payload[10])};
}

}  // namespace fdbnbd::proto
