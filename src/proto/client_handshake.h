#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "proto/constants.h"
#include "proto/handshake.h"

// The client's side of the handshake, as far as a client needs it that asks for one export and no more (NBD
// proto, "Newstyle negotiation", NBD_OPT_GO).

namespace fdbnbd::proto {

struct Greeting {
  bool fixed_newstyle = false;
  bool no_zeroes = false;
};
// nullopt: this is no newstyle NBD server.
std::optional<Greeting> decode_greeting(std::span<const std::byte, kGreetingBytes> bytes);

// The client's flags: as much as the server offers.
std::string encode_client_flags(const Greeting& greeting);

// NBD_OPT_GO or NBD_OPT_INFO, without requests for particular information. The name has at most
// limits::kMaxStringBytes.
std::string encode_info_option(Option option, std::string_view export_name);

// An option without a payload.
std::string encode_option(Option option);

struct OptionReplyHeader {
  Option option{};
  OptionReply type{};
  uint32_t payload_bytes = 0;

  bool is_error() const { return (static_cast<uint32_t>(type) & 0x80000000) != 0; }
};
// nullopt: wrong magic; nothing that follows can be understood.
std::optional<OptionReplyHeader> decode_option_reply_header(
    std::span<const std::byte, kOptionReplyHeaderBytes> bytes);

// What a server says of an export.
struct ExportTerms {
  uint64_t size_bytes = 0;
  uint16_t flags = 0;  // transmission flags

  friend bool operator==(const ExportTerms&, const ExportTerms&) = default;
};
// The payload of one NBD_REP_INFO; nullopt where it is information of another kind.
std::optional<ExportTerms> decode_info_export(ByteView payload);

}  // namespace fdbnbd::proto
