#include "proto/request.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "base/limits.h"
#include "base/random.h"
#include "proto/client_testing.h"

namespace fdbnbd::proto {
namespace {

using namespace std::string_literals;
using enum Command;
using enum NbdError;

constexpr uint64_t kSize = uint64_t{1} << 40;
constexpr uint32_t kMaxPayload = 32 << 20;
constexpr uint32_t kMaxLength = UINT32_MAX;

// An export as most are, with all negotiated.
constexpr TransmissionFacts kFacts{.size_bytes = kSize,
                                   .max_payload_bytes = kMaxPayload,
                                   .read_only = false,
                                   .structured_replies = true,
                                   .has_contexts = true};
constexpr TransmissionFacts kReadOnly{.size_bytes = kSize,
                                      .max_payload_bytes = kMaxPayload,
                                      .read_only = true,
                                      .structured_replies = true,
                                      .has_contexts = true};
constexpr TransmissionFacts kSimple{.size_bytes = kSize,
                                    .max_payload_bytes = kMaxPayload,
                                    .read_only = false,
                                    .structured_replies = false,
                                    .has_contexts = false};

constexpr Command kRangeCommands[] = {read, write, trim, cache, write_zeroes, block_status};

NbdError verdict(Command command, uint64_t offset_bytes, uint32_t length_bytes, unsigned flags = 0,
                 const TransmissionFacts& facts = kFacts) {
  return validate_request({.flags = static_cast<uint16_t>(flags),
                           .command = command,
                           .cookie = 1,
                           .offset_bytes = offset_bytes,
                           .length_bytes = length_bytes},
                          facts);
}

std::optional<Request> decode(const std::string& bytes) {
  return decode_request(std::span<const std::byte, kRequestBytes>(as_bytes(bytes).data(), kRequestBytes));
}

TEST(RequestHeader, IsDecodedAsTheSpecificationLaysItOut) {
  const std::string bytes =
      "\x25\x60\x95\x13\x01\x02\0\x06\x11\x12\x13\x14\x15\x16\x17\x18\x21\x22\x23\x24\x25\x26\x27\x28\x31\x32\x33\x34"s;
  const Request expected{.flags = 0x0102,
                         .command = write_zeroes,
                         .cookie = 0x1112131415161718,
                         .offset_bytes = 0x2122232425262728,
                         .length_bytes = 0x31323334};
  ASSERT_EQ(bytes.size(), kRequestBytes);
  EXPECT_EQ(decode(bytes), expected);
  EXPECT_EQ(client::request(expected), bytes);
}

TEST(RequestHeader, WrongMagicIsRefused) {
  for (const uint32_t magic : {0u, 0x12560953u, 0x25609514u, 0x21e41c71u, 0x67446698u, 0xffffffffu}) {
    std::string bytes = client::request({});
    store_be(bytes.data(), magic);
    EXPECT_FALSE(decode(bytes)) << magic;
  }
}

TEST(RequestHeader, SurvivesARoundTrip) {
  Random random(1);
  for (int round = 0; round < 1000; ++round) {
    const Request request{.flags = static_cast<uint16_t>(random.next()),
                          .command = Command{static_cast<uint16_t>(random.next())},
                          .cookie = random.next(),
                          .offset_bytes = random.next(),
                          .length_bytes = static_cast<uint32_t>(random.next())};
    EXPECT_EQ(decode(client::request(request)), request);
  }
}

TEST(Validate, WholeAndPartialRangesAreAllowed) {
  for (const Command command : kRangeCommands) {
    for (const uint32_t length : {1u, 511u, 512u, 4096u, kMaxPayload}) {
      EXPECT_EQ(verdict(command, 0, length), ok);
      EXPECT_EQ(verdict(command, 7, length), ok);
      EXPECT_EQ(verdict(command, kSize - length, length), ok);
    }
  }
}

TEST(Validate, PastTheEndIsNoSpaceForWritesAndInvalidForTheRest) {
  const std::map<Command, NbdError> expected = {{read, einval},         {write, enospc},
                                                {trim, einval},         {cache, einval},
                                                {write_zeroes, enospc}, {block_status, einval}};
  const std::pair<uint64_t, uint32_t> ranges[] = {{kSize, 1},
                                                  {kSize - 512, 1024},
                                                  {kSize - 1, 2},
                                                  {kSize + 512, 512},
                                                  {uint64_t{1} << 63, 512},
                                                  {UINT64_MAX - 511, 512},
                                                  {UINT64_MAX - 511, 1024},
                                                  {UINT64_MAX, 1},
                                                  {UINT64_MAX, 2},
                                                  {UINT64_MAX, kMaxPayload},
                                                  {kSize - 1, kMaxPayload},
                                                  {UINT64_MAX - kMaxPayload + 1, kMaxPayload}};
  for (const auto& [command, error] : expected)
    for (const auto& [offset, length] : ranges)
      EXPECT_EQ(verdict(command, offset, length), error)
          << command_name(command) << " " << offset << " " << length;
}

TEST(Validate, PastTheEndDoesNotWrapAt32BitLengths) {
  for (const uint64_t offset : {kSize, kSize - 512, UINT64_MAX - 511, uint64_t{0} - kMaxLength}) {
    EXPECT_EQ(verdict(trim, offset, kMaxLength), einval);
    EXPECT_EQ(verdict(write_zeroes, offset, kMaxLength), enospc);
    EXPECT_EQ(verdict(block_status, offset, kMaxLength), einval);
    EXPECT_EQ(verdict(cache, offset, kMaxLength), einval);
  }
}

TEST(Validate, EndOfTheExportIsTheOneOfNow) {
  TransmissionFacts facts = kFacts;
  facts.size_bytes = 1000;  // no multiple of anything
  EXPECT_EQ(verdict(write, 999, 1, 0, facts), ok);
  EXPECT_EQ(verdict(write, 999, 2, 0, facts), enospc);
  facts.size_bytes = 0;
  EXPECT_EQ(verdict(read, 0, 1, 0, facts), einval);
  EXPECT_EQ(verdict(flush, 0, 0, 0, facts), ok);
}

TEST(Validate, PayloadsAreBoundedAndOtherLengthsAreNot) {
  for (const Command command : {read, write}) {
    EXPECT_EQ(verdict(command, 0, kMaxPayload), ok);
    for (const uint32_t length : {kMaxPayload + 1, 64u << 20, kMaxLength})
      EXPECT_EQ(verdict(command, 0, length), einval) << command_name(command);
  }
  for (const Command command : {trim, write_zeroes, cache, block_status})
    EXPECT_EQ(verdict(command, 3, kMaxLength), ok) << command_name(command);
}

TEST(Validate, ReadOnlyRefusesChangesAndNothingElse) {
  for (const Command command : {write, trim, write_zeroes}) {
    EXPECT_EQ(verdict(command, 0, 512, 0, kReadOnly), eperm) << command_name(command);
    EXPECT_EQ(verdict(command, kSize, 512, 0, kReadOnly), eperm) << command_name(command);
    EXPECT_EQ(verdict(command, 0, 512, kCmdFlagFua, kReadOnly), eperm) << command_name(command);
  }
  for (const Command command : {read, cache, block_status})
    EXPECT_EQ(verdict(command, 0, 512, 0, kReadOnly), ok) << command_name(command);
  EXPECT_EQ(verdict(flush, 0, 0, 0, kReadOnly), ok);
}

TEST(Validate, EveryFlagOfEveryCommand) {
  const std::map<Command, unsigned> allowed = {
      {read, kCmdFlagFua | kCmdFlagDf},
      {write, kCmdFlagFua},
      {flush, kCmdFlagFua},
      {trim, kCmdFlagFua},
      {cache, kCmdFlagFua},
      {write_zeroes, kCmdFlagFua | kCmdFlagNoHole | kCmdFlagFastZero},
      {block_status, kCmdFlagFua | kCmdFlagReqOne},
  };
  for (const auto& [command, allowed_flags] : allowed) {
    const uint32_t length = command == flush ? 0 : 512;
    for (unsigned flags = 0; flags <= 0xffff; ++flags) {
      const NbdError expected = (flags & ~allowed_flags) == 0 ? ok : einval;
      ASSERT_EQ(verdict(command, 0, length, flags), expected) << command_name(command) << " flags " << flags;
    }
  }
}

TEST(Validate, DontFragmentNeedsStructuredReplies) {
  EXPECT_EQ(verdict(read, 0, 512, kCmdFlagDf, kFacts), ok);
  EXPECT_EQ(verdict(read, 0, kMaxPayload, kCmdFlagDf, kFacts), ok);
  EXPECT_EQ(verdict(read, 0, 512, kCmdFlagDf, kSimple), einval);
}

TEST(Validate, FlushWithOffsetOrLengthIsInvalid) {
  EXPECT_EQ(verdict(flush, 0, 0), ok);
  EXPECT_EQ(verdict(flush, 0, 0, kCmdFlagFua), ok);
  EXPECT_EQ(verdict(flush, 512, 0), einval);
  EXPECT_EQ(verdict(flush, 0, 512), einval);
  EXPECT_EQ(verdict(flush, UINT64_MAX, kMaxLength), einval);
}

TEST(Validate, ZeroLengthIsAllowedInsideAndRefusedBeyondTheEnd) {
  for (const Command command : {read, write, trim, cache, write_zeroes}) {
    EXPECT_EQ(verdict(command, 0, 0), ok) << command_name(command);
    EXPECT_EQ(verdict(command, kSize, 0), ok) << command_name(command);
    EXPECT_NE(verdict(command, kSize + 1, 0), ok) << command_name(command);
  }
}

TEST(Validate, BlockStatusNeedsAContextAndALength) {
  EXPECT_EQ(verdict(block_status, 0, 512, kCmdFlagReqOne), ok);
  EXPECT_EQ(verdict(block_status, 0, 0), einval);
  TransmissionFacts facts = kFacts;
  facts.has_contexts = false;
  EXPECT_EQ(verdict(block_status, 0, 512, 0, facts), einval);
  EXPECT_EQ(verdict(block_status, 0, 512, 0, kSimple), einval);
}

TEST(Validate, UnknownCommandsAreInvalid) {
  for (unsigned number = 8; number <= 0xffff; ++number)
    ASSERT_EQ(verdict(Command{static_cast<uint16_t>(number)}, 0, 0), einval) << number;
  EXPECT_EQ(verdict(resize, 512, 0), einval);
}

TEST(Validate, DisconnectIsTakenWhateverItsFieldsSay) {
  EXPECT_EQ(verdict(disc, 0, 0), ok);
  EXPECT_EQ(verdict(disc, UINT64_MAX, kMaxLength, 0xffff), ok);
  EXPECT_EQ(verdict(disc, 1, 1, 0x8000, kReadOnly), ok);
}

TEST(Validate, EveryRefusalHasATextAndNoSuccessHas) {
  Random random(2);
  for (int round = 0; round < 20'000; ++round) {
    const TransmissionFacts facts{.size_bytes = random.below(4096),
                                  .max_payload_bytes = 1024,
                                  .read_only = random.one_in(2),
                                  .structured_replies = random.one_in(2),
                                  .has_contexts = random.one_in(2)};
    const Request request{
        .flags = static_cast<uint16_t>(random.one_in(2) ? 0 : 1u << random.below(16)),
        .command = Command{static_cast<uint16_t>(random.below(10))},
        .cookie = 0,
        .offset_bytes = random.one_in(4) ? random.next() : random.below(4096),
        .length_bytes = static_cast<uint32_t>(random.one_in(8) ? random.next() : random.below(2048))};
    const NbdError error = validate_request(request, facts);
    EXPECT_EQ(error == ok, rejection_text(request, facts) == ""s);
    if (error == ok && request.command != disc && request.command != flush) {
      EXPECT_LE(request.offset_bytes, facts.size_bytes);
      EXPECT_LE(request.length_bytes, facts.size_bytes - request.offset_bytes);
    }
  }
}

TEST(Payload, OnlyWriteHasOne) {
  for (unsigned number = 0; number < 300; ++number) {
    const Request request{.command = Command{static_cast<uint16_t>(number)}, .length_bytes = 77};
    EXPECT_EQ(request_payload_bytes(request), request.command == write ? 77u : 0u);
    if (request.command != write) {
      EXPECT_EQ(payload_action(request, einval), PayloadAction::none);
    }
  }
}

TEST(Payload, IsReceivedSkippedOrTooMuch) {
  const auto action = [](uint32_t length_bytes, NbdError error) {
    return payload_action({.command = write, .length_bytes = length_bytes}, error);
  };
  EXPECT_EQ(action(0, ok), PayloadAction::none);
  EXPECT_EQ(action(0, einval), PayloadAction::none);
  EXPECT_EQ(action(1, ok), PayloadAction::receive);
  EXPECT_EQ(action(kMaxPayload, ok), PayloadAction::receive);
  EXPECT_EQ(action(kMaxPayload, eperm), PayloadAction::skip);
  EXPECT_EQ(action(limits::kMaxSkippedPayloadBytes, einval), PayloadAction::skip);
  EXPECT_EQ(action(limits::kMaxSkippedPayloadBytes + 1, einval), PayloadAction::close);
  EXPECT_EQ(action(kMaxLength, einval), PayloadAction::close);
}

}  // namespace
}  // namespace fdbnbd::proto
