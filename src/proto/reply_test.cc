#include "proto/reply.h"

#include <gtest/gtest.h>

#include <array>
#include <string>

#include "base/endian.h"
#include "base/limits.h"
#include "base/text.h"

namespace fdbnbd::proto {
namespace {

using namespace std::string_literals;

constexpr uint64_t kCookie = 0x0102030405060708;
const std::string kCookieText = "\x01\x02\x03\x04\x05\x06\x07\x08";

template <size_t N>
std::string text_of(const std::array<std::byte, N>& bytes, size_t count = N) {
  return std::string(as_text(bytes).substr(0, count));
}

TEST(SimpleReply, IsMagicErrorAndCookie) {
  std::array<std::byte, kSimpleReplyBytes> bytes;
  encode_simple_reply(bytes, kCookie, NbdError::ok);
  EXPECT_EQ(text_of(bytes), "\x67\x44\x66\x98\0\0\0\0"s + kCookieText);
  encode_simple_reply(bytes, kCookie, NbdError::eoverflow);
  EXPECT_EQ(text_of(bytes), "\x67\x44\x66\x98\0\0\0\x4b"s + kCookieText);
}

TEST(SimpleReply, IsDecodedUnlessTheMagicIsWrong) {
  std::array<std::byte, kSimpleReplyBytes> bytes;
  encode_simple_reply(bytes, kCookie, NbdError::eoverflow);
  EXPECT_EQ(decode_simple_reply(bytes), (SimpleReply{.cookie = kCookie, .error = 75}));
  bytes[3] ^= std::byte{1};
  EXPECT_EQ(decode_simple_reply(bytes), std::nullopt);
}

TEST(Chunk, NoneIsEmptyAndLast) {
  std::array<std::byte, kNoneChunkBytes> bytes;
  encode_none_chunk(bytes, kCookie);
  EXPECT_EQ(text_of(bytes), "\x66\x8e\x33\xef\0\x01\0\0"s + kCookieText + "\0\0\0\0"s);
}

TEST(Chunk, OffsetDataCountsTheOffset) {
  std::array<std::byte, kOffsetDataHeaderBytes> bytes;
  encode_offset_data_header(bytes, kCookie, Last::no, 0x1112131415161718, 512);
  EXPECT_EQ(text_of(bytes),
            "\x66\x8e\x33\xef\0\0\0\x01"s + kCookieText + "\0\0\x02\x08\x11\x12\x13\x14\x15\x16\x17\x18"s);
}

TEST(Chunk, OffsetHoleIsTwelveBytes) {
  std::array<std::byte, kOffsetHoleChunkBytes> bytes;
  encode_offset_hole(bytes, kCookie, Last::yes, 0x1112131415161718, 0x21222324);
  EXPECT_EQ(text_of(bytes), "\x66\x8e\x33\xef\0\x01\0\x02"s + kCookieText +
                                "\0\0\0\x0c\x11\x12\x13\x14\x15\x16\x17\x18\x21\x22\x23\x24"s);
}

TEST(Chunk, BlockStatusCountsContextAndDescriptors) {
  std::array<std::byte, kBlockStatusHeaderBytes> bytes;
  encode_block_status_header(bytes, kCookie, Last::yes, 0x31, 3);
  EXPECT_EQ(text_of(bytes), "\x66\x8e\x33\xef\0\x01\0\x05"s + kCookieText + "\0\0\0\x1c\0\0\0\x31"s);
  std::array<std::byte, kStatusDescriptorBytes> descriptor;
  encode_status_descriptor(descriptor, 0x01020304, allocation_flags(true, true));
  EXPECT_EQ(text_of(descriptor), "\x01\x02\x03\x04\0\0\0\x03"s);
}

TEST(Chunk, AllocationFlagsAreHoleAndZero) {
  EXPECT_EQ(allocation_flags(false, false), 0u);
  EXPECT_EQ(allocation_flags(true, false), 1u);
  EXPECT_EQ(allocation_flags(false, true), 2u);
  EXPECT_EQ(allocation_flags(true, true), 3u);
}

TEST(Chunk, ErrorCarriesTheText) {
  std::array<std::byte, kMaxErrorChunkBytes> bytes;
  const size_t count = encode_error_chunk(bytes, kCookie, NbdError::einval, "no");
  EXPECT_EQ(text_of(bytes, count),
            "\x66\x8e\x33\xef\0\x01\x80\x01"s + kCookieText + "\0\0\0\x08\0\0\0\x16\0\x02no"s);
}

TEST(Chunk, ErrorWithoutATextIsSixBytes) {
  std::array<std::byte, kMaxErrorChunkBytes> bytes;
  EXPECT_EQ(encode_error_chunk(bytes, kCookie, NbdError::eio, ""), kChunkHeaderBytes + 6);
}

TEST(Chunk, ErrorOffsetComesAfterTheText) {
  std::array<std::byte, kMaxErrorOffsetChunkBytes> bytes;
  const size_t count =
      encode_error_offset_chunk(bytes, kCookie, Last::no, NbdError::eio, "bad", 0x1112131415161718);
  EXPECT_EQ(text_of(bytes, count), "\x66\x8e\x33\xef\0\0\x80\x02"s + kCookieText +
                                       "\0\0\0\x11\0\0\0\x05\0\x03"s + "bad" +
                                       "\x11\x12\x13\x14\x15\x16\x17\x18");
}

TEST(Chunk, ErrorTextIsCutAtACharacter) {
  std::array<std::byte, kMaxErrorOffsetChunkBytes> bytes;
  std::string text(kMaxChunkTextBytes - 1, 'x');
  text += "\u2603 and more";
  std::array<std::byte, kMaxErrorChunkBytes> plain;
  for (const size_t count : {encode_error_chunk(plain, kCookie, NbdError::eio, text) + 8,
                             encode_error_offset_chunk(bytes, kCookie, Last::yes, NbdError::eio, text, 0)}) {
    EXPECT_EQ(count, kChunkHeaderBytes + 14 + kMaxChunkTextBytes - 1);
  }
  EXPECT_EQ(load_be<uint16_t>(&bytes[kChunkHeaderBytes + 4]), kMaxChunkTextBytes - 1);
}

TEST(StatusDescriptorLength, FitsAndEndsAligned) {
  EXPECT_EQ(status_descriptor_length(0, 1), 1u);
  EXPECT_EQ(status_descriptor_length(7, UINT32_MAX), UINT32_MAX);
  for (const uint64_t offset : {uint64_t{0}, uint64_t{1}, uint64_t{65535}, uint64_t{65536}, uint64_t{5} << 32,
                                UINT64_MAX - (uint64_t{1} << 40)}) {
    for (const uint64_t length : {uint64_t{1} << 32, (uint64_t{1} << 32) + 1, uint64_t{1} << 39}) {
      const uint32_t told = status_descriptor_length(offset, length);
      EXPECT_LE(told, length);
      EXPECT_GT(told, UINT32_MAX - 2 * limits::kStatusExtentAlignment);
      EXPECT_EQ((offset + told) % limits::kStatusExtentAlignment, 0u) << offset;
    }
  }
}

}  // namespace
}  // namespace fdbnbd::proto
