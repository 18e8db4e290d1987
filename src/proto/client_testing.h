#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/endian.h"
#include "proto/constants.h"
#include "proto/request.h"

// What a client sends, and how it reads option replies: for tests and fuzz targets. Lengths and magics can be
// wrong on purpose.

namespace fdbnbd::proto::client {

inline std::string flags(uint32_t bits) {
  std::string bytes;
  append_be(bytes, bits);
  return bytes;
}

inline std::string option(uint32_t number, std::string_view payload = {}, uint64_t magic = kIHaveOpt) {
  std::string bytes;
  append_be(bytes, magic);
  append_be(bytes, number);
  append_be(bytes, static_cast<uint32_t>(payload.size()));
  return bytes.append(payload);
}
inline std::string option(Option option_type, std::string_view payload = {}) {
  return option(static_cast<uint32_t>(option_type), payload);
}

// An option's header that claims `payload_bytes`, and nothing behind it.
inline std::string option_header(Option option_type, uint32_t payload_bytes) {
  std::string bytes = option(option_type);
  store_be(bytes.data() + 12, payload_bytes);
  return bytes;
}

inline std::string counted(std::string_view text) {
  std::string bytes;
  append_be(bytes, static_cast<uint32_t>(text.size()));
  return bytes.append(text);
}

// The payload of INFO and GO.
inline std::string info_payload(std::string_view name, const std::vector<uint16_t>& types = {}) {
  std::string bytes = counted(name);
  append_be(bytes, static_cast<uint16_t>(types.size()));
  for (const uint16_t type : types) append_be(bytes, type);
  return bytes;
}

// The payload of LIST_META_CONTEXT and SET_META_CONTEXT.
inline std::string meta_payload(std::string_view name, const std::vector<std::string>& queries = {}) {
  std::string bytes = counted(name);
  append_be(bytes, static_cast<uint32_t>(queries.size()));
  for (const std::string& query : queries) bytes += counted(query);
  return bytes;
}

inline std::string request(const Request& request) {
  std::string bytes(kRequestBytes, '\0');
  encode_request(
      std::span<std::byte, kRequestBytes>(reinterpret_cast<std::byte*>(bytes.data()), kRequestBytes),
      request);
  return bytes;
}

struct ReceivedReply {
  uint32_t option = 0;
  OptionReply type{};
  std::string payload;

  bool is_error() const { return (static_cast<uint32_t>(type) & 0x80000000) != 0; }
};

// Takes one option reply off `bytes`; nullopt where there is none, or a broken one.
inline std::optional<ReceivedReply> take_reply(std::string_view& bytes) {
  if (bytes.size() < 20 || load_be<uint64_t>(bytes.data()) != kOptionReplyMagic) return std::nullopt;
  const auto payload_bytes = load_be<uint32_t>(bytes.data() + 16);
  if (bytes.size() - 20 < payload_bytes) return std::nullopt;
  ReceivedReply reply{.option = load_be<uint32_t>(bytes.data() + 8),
                      .type = OptionReply{load_be<uint32_t>(bytes.data() + 12)},
                      .payload = std::string(bytes.substr(20, payload_bytes))};
  bytes.remove_prefix(20 + payload_bytes);
  return reply;
}

}  // namespace fdbnbd::proto::client
