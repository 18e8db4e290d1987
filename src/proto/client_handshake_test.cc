#include "proto/client_handshake.h"

#include <gtest/gtest.h>

#include <array>

#include "base/endian.h"
#include "proto/option.h"

namespace fdbnbd::proto {
namespace {

std::span<const std::byte, kGreetingBytes> greeting_bytes(const std::string& bytes) {
  return std::span<const std::byte, kGreetingBytes>(as_bytes(bytes));
}

TEST(ClientHandshake, TheServersOwnGreetingIsUnderstood) {
  std::array<std::byte, kGreetingBytes> bytes;
  encode_greeting(bytes);
  const auto greeting = decode_greeting(bytes);
  ASSERT_TRUE(greeting);
  EXPECT_TRUE(greeting->fixed_newstyle);
  EXPECT_TRUE(greeting->no_zeroes);
}

TEST(ClientHandshake, OldstyleServersAreRefused) {
  std::string oldstyle = "NBDMAGIC";
  append_be(oldstyle, uint64_t{0x00420281861253});
  append_be(oldstyle, uint16_t{0});
  EXPECT_FALSE(decode_greeting(greeting_bytes(oldstyle)));
  EXPECT_FALSE(decode_greeting(greeting_bytes("HTTP/1.1 400 Bad R")));
}

TEST(ClientHandshake, FlagsAreAcceptedAsFarAsTheyWereOffered) {
  for (const bool fixed : {false, true}) {
    for (const bool no_zeroes : {false, true}) {
      const std::string bytes = encode_client_flags({.fixed_newstyle = fixed, .no_zeroes = no_zeroes});
      const auto flags = decode_client_flags(std::span<const std::byte, kClientFlagsBytes>(as_bytes(bytes)));
      ASSERT_TRUE(flags);
      EXPECT_EQ(flags->fixed_newstyle, fixed);
      EXPECT_EQ(flags->no_zeroes, no_zeroes);
    }
  }
}

TEST(ClientHandshake, TheServerUnderstandsGo) {
  const std::string bytes = encode_info_option(Option::go, "vol@snap");
  const ByteView view = as_bytes(bytes);
  const auto header = decode_option_header(view.first<kOptionHeaderBytes>());
  ASSERT_TRUE(header);
  EXPECT_EQ(header->option, Option::go);
  ASSERT_EQ(header->payload_bytes, bytes.size() - kOptionHeaderBytes);
  const auto request = decode_info_request(view.subspan(kOptionHeaderBytes));
  ASSERT_TRUE(request.has_value()) << request.error().what;
  EXPECT_EQ(request->export_name, "vol@snap");
  EXPECT_TRUE(request->info_types.empty());
}

TEST(ClientHandshake, AnOptionWithoutPayloadIsAHeader) {
  const std::string bytes = encode_option(Option::abort);
  ASSERT_EQ(bytes.size(), kOptionHeaderBytes);
  const auto header = decode_option_header(as_bytes(bytes).first<kOptionHeaderBytes>());
  ASSERT_TRUE(header);
  EXPECT_EQ(header->option, Option::abort);
  EXPECT_EQ(header->payload_bytes, 0U);
}

TEST(ClientHandshake, OptionRepliesAreReadBack) {
  std::array<std::byte, kOptionReplyHeaderBytes> bytes;
  encode_option_reply_header(bytes, Option::go, OptionReply::err_unknown, 17);
  auto header = decode_option_reply_header(bytes);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->option, Option::go);
  EXPECT_EQ(header->type, OptionReply::err_unknown);
  EXPECT_EQ(header->payload_bytes, 17U);
  EXPECT_TRUE(header->is_error());

  encode_option_reply_header(bytes, Option::go, OptionReply::ack, 0);
  EXPECT_FALSE(decode_option_reply_header(bytes)->is_error());
  bytes[0] = std::byte{1};
  EXPECT_FALSE(decode_option_reply_header(bytes));
}

TEST(ClientHandshake, SizeAndFlagsComeFromTheExportInformationOnly) {
  std::array<std::byte, kInfoExportBytes> bytes;
  encode_info_export(bytes, 123'456'789'012, kFlagHasFlags | kFlagReadOnly);
  EXPECT_EQ(decode_info_export(bytes),
            (ExportTerms{.size_bytes = 123'456'789'012, .flags = kFlagHasFlags | kFlagReadOnly}));
  EXPECT_FALSE(decode_info_export(ByteView(bytes).first(11)));
  bytes[1] = std::byte{static_cast<uint8_t>(InfoType::block_size)};
  EXPECT_FALSE(decode_info_export(bytes));
  EXPECT_FALSE(decode_info_export({}));
}

}  // namespace
}  // namespace fdbnbd::proto
