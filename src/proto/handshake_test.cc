#include "proto/handshake.h"

#include <gtest/gtest.h>

#include <array>

#include "base/endian.h"

namespace fdbnbd::proto {
namespace {

template <size_t N>
std::string text_of(const std::array<std::byte, N>& bytes) {
  return std::string(as_text(bytes));
}

std::optional<ClientFlags> decode(uint32_t flags) {
  std::array<std::byte, kClientFlagsBytes> bytes;
  store_be(bytes.data(), flags);
  return decode_client_flags(bytes);
}

TEST(Handshake, GreetingOffersFixedNewstyleAndNoZeroes) {
  std::array<std::byte, kGreetingBytes> bytes;
  encode_greeting(bytes);
  EXPECT_EQ(text_of(bytes), std::string("NBDMAGICIHAVEOPT\0\x03", 18));
}

TEST(Handshake, ClientFlagsThatWereOfferedAreAccepted) {
  for (uint32_t flags = 0; flags <= 3; ++flags) {
    const auto decoded = decode(flags);
    ASSERT_TRUE(decoded);
    EXPECT_EQ(decoded->fixed_newstyle, (flags & 1) != 0);
    EXPECT_EQ(decoded->no_zeroes, (flags & 2) != 0);
  }
}

TEST(Handshake, AnyOtherClientFlagIsRefused) {
  for (unsigned bit = 2; bit < 32; ++bit)
    for (uint32_t known = 0; known <= 3; ++known) EXPECT_FALSE(decode(known | uint32_t{1} << bit)) << bit;
}

TEST(Handshake, TransmissionFlagsOfEveryKindOfExport) {
  const uint16_t always = kFlagHasFlags | kFlagSendFlush | kFlagSendFua | kFlagCanMultiConn | kFlagSendCache;
  const uint16_t writable = kFlagSendTrim | kFlagSendWriteZeroes | kFlagSendFastZero;
  EXPECT_EQ(transmission_flags({.read_only = false, .structured_replies = false}), always | writable);
  EXPECT_EQ(transmission_flags({.read_only = false, .structured_replies = true}),
            always | writable | kFlagSendDf);
  EXPECT_EQ(transmission_flags({.read_only = true, .structured_replies = false}), always | kFlagReadOnly);
  EXPECT_EQ(transmission_flags({.read_only = true, .structured_replies = true}),
            always | kFlagReadOnly | kFlagSendDf);
}

TEST(Handshake, ExportNameReplyIsSizeAndFlags) {
  std::array<std::byte, kExportNameReplyBytes> bytes;
  encode_export_name_reply(bytes, 0x0102030405060708, 0x090a);
  EXPECT_EQ(text_of(bytes), "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a");
}

TEST(Handshake, OptionReplyHeaderEchoesTheOption) {
  std::array<std::byte, kOptionReplyHeaderBytes> bytes;
  encode_option_reply_header(bytes, Option{0x01020304}, OptionReply::err_unknown, 0x05060708);
  EXPECT_EQ(text_of(bytes), std::string("\x00\x03\xe8\x89\x04\x55\x65\xa9"
                                        "\x01\x02\x03\x04\x80\x00\x00\x06\x05\x06\x07\x08",
                                        20));
}

TEST(Constants, NamesAreTheSpecificationsAndUnknownForTheRest) {
  EXPECT_STREQ(option_name(Option::go), "NBD_OPT_GO");
  EXPECT_STREQ(option_name(Option{0}), "unknown");
  EXPECT_STREQ(command_name(Command::write_zeroes), "NBD_CMD_WRITE_ZEROES");
  EXPECT_STREQ(command_name(Command{9}), "unknown");
  EXPECT_STREQ(error_name(NbdError::enospc), "NBD_ENOSPC");
  EXPECT_STREQ(error_name(NbdError{2}), "unknown");
}

}  // namespace
}  // namespace fdbnbd::proto
