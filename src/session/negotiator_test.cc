#include "session/negotiator.h"

#include <gtest/gtest.h>

#include "base/limits.h"
#include "base/text.h"
#include "session/haggle_testing.h"

namespace fdbnbd::session {
namespace {

using namespace std::string_literals;
using enum proto::Option;
using proto::Option;
using proto::OptionReply;
using proto::client::info_payload;
using proto::client::option;
using proto::client::ReceivedReply;
using Step = Negotiator::Step;

std::string type_of_info(const ReceivedReply& reply) {
  return reply.payload.substr(0, 2);
}

TEST(Negotiator, GreetingComesFirst) {
  const ScriptedRegistry registry;
  const Driver driver(registry, TlsPolicy::off);
  EXPECT_EQ(driver.transcript().output, kGreeting);
  EXPECT_EQ(driver.transcript().step, Step::input);
}

TEST(Negotiator, ClientFlagThatWasNotOfferedCloses) {
  for (unsigned bit = 2; bit < 32; ++bit) {
    Haggle haggle(3 | uint32_t{1} << bit);
    EXPECT_EQ(haggle.step(), Step::closed);
    EXPECT_EQ(haggle.close_code(), Errc::protocol);
    EXPECT_EQ(haggle.answer(option(list)), "");
  }
}

TEST(Negotiator, ExportNameIsPaddedUnlessBothSidesAgreedOnNoZeroes) {
  const std::string size_and_flags = "\0\0\0\x10\0\0\0\0\x0d\x6d"s;
  for (const uint32_t flags : {0u, 1u}) {
    Haggle haggle(flags);
    EXPECT_EQ(haggle.answer(option(export_name, "disk")), size_and_flags + std::string(124, '\0'));
    EXPECT_EQ(haggle.step(), Step::transmission);
  }
  for (const uint32_t flags : {2u, 3u}) {
    Haggle haggle(flags);
    EXPECT_EQ(haggle.answer(option(export_name, "disk")), size_and_flags);
    EXPECT_EQ(haggle.step(), Step::transmission);
    EXPECT_EQ(haggle.transcript().agreement.export_name, "disk");
  }
}

TEST(Negotiator, ExportNameThatCannotBeOpenedClosesWithoutAByte) {
  const std::vector<std::pair<std::string, Errc>> names = {{"nope", Errc::not_found},
                                                           {"", Errc::not_found},
                                                           {"held", Errc::busy},
                                                           {std::string(4096, 'x'), Errc::not_found},
                                                           {std::string(4097, 'x'), Errc::invalid},
                                                           {"nul\0here"s, Errc::invalid},
                                                           {"\xff\xfe", Errc::invalid}};
  for (const auto& [name, code] : names) {
    Haggle haggle;
    EXPECT_EQ(haggle.answer(option(export_name, name)), "");
    EXPECT_EQ(haggle.step(), Step::closed);
    EXPECT_EQ(haggle.close_code(), code) << name.substr(0, 10);
  }
}

TEST(Negotiator, OptionWithoutFixedNewstyleCloses) {
  for (const Option number : {list, starttls, go, abort, structured_reply}) {
    Haggle haggle(2, TlsPolicy::offered);
    EXPECT_EQ(haggle.answer(option(number)), "");
    EXPECT_EQ(haggle.step(), Step::closed);
  }
}

TEST(Negotiator, WrongOptionMagicCloses) {
  for (const uint64_t magic :
       {uint64_t{0}, proto::kNbdMagic, proto::kOptionReplyMagic, proto::kIHaveOpt ^ 1}) {
    Haggle haggle;
    haggle.expect_in_sync();
    EXPECT_EQ(haggle.answer(option(3, {}, magic)), "");
    EXPECT_EQ(haggle.step(), Step::closed);
    EXPECT_EQ(haggle.close_code(), Errc::protocol);
  }
}

TEST(Negotiator, UnknownOptionIsUnsupportedAndStaysInSync) {
  Haggle haggle;
  for (const uint32_t number : {0u, 4u, 11u, 12u, 77u, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
    for (const size_t bytes : {0, 1, 4, 4095, 65536}) {
      EXPECT_EQ(haggle.reply(number, std::string(bytes, '\1')), OptionReply::err_unsup);
    }
  }
  haggle.expect_in_sync();
}

TEST(Negotiator, AbortIsAcknowledgedWhateverItCarries) {
  for (const size_t bytes : {0, 1, 4096}) {
    Haggle haggle;
    EXPECT_EQ(haggle.reply(abort, std::string(bytes, 'x')), OptionReply::ack);
    EXPECT_EQ(haggle.step(), Step::closed);
    EXPECT_EQ(haggle.close_code(), Errc::peer_gone);
  }
}

TEST(Negotiator, ListNamesEveryExport) {
  Haggle haggle;
  const auto replies = haggle.replies(list);
  ASSERT_EQ(replies.size(), 3u);
  EXPECT_EQ(replies[0].type, OptionReply::server);
  EXPECT_EQ(replies[0].payload, "\0\0\0\4diska disk"s);
  EXPECT_EQ(replies[1].type, OptionReply::server);
  EXPECT_EQ(replies[1].payload, "\0\0\0\5other"s);
  EXPECT_EQ(replies[2].type, OptionReply::ack);
  EXPECT_EQ(replies[2].payload, "");
}

TEST(Negotiator, ListWithoutExportsIsTheAck) {
  Haggle haggle(3, TlsPolicy::off, {});
  EXPECT_EQ(haggle.reply(list), OptionReply::ack);
}

TEST(Negotiator, ListWithDataIsInvalid) {
  Haggle haggle;
  EXPECT_EQ(haggle.reply(list, "x"), OptionReply::err_invalid);
  haggle.expect_in_sync();
  EXPECT_EQ(haggle.transcript().queries.size(), 1u);
}

TEST(Negotiator, ListThatFailsIsAnErrorAndStaysInSync) {
  ScriptedRegistry registry = two_exports();
  registry.failures[""] = {Errc::permission, "no listing here"};
  Haggle haggle(3, TlsPolicy::off, registry);
  EXPECT_EQ(haggle.reply(list), OptionReply::err_policy);
  EXPECT_EQ(haggle.replies(info, info_payload("disk")).back().type, OptionReply::ack);
}

TEST(Negotiator, LongListComesInBoundedPieces) {
  ScriptedRegistry registry;
  for (int index = 0; index < 5000; ++index) {
    block::ExportInfo info = disk();
    info.name = "volume-" + std::to_string(index);
    info.description = index % 100 == 0 ? std::string(5000, 'd') : "";
    registry.exports.push_back(info);
  }
  Haggle haggle(3, TlsPolicy::off, registry);
  const auto replies = haggle.replies(list);
  ASSERT_EQ(replies.size(), 5001u);
  EXPECT_EQ(replies[4999].payload, "\0\0\0\x0b"s + "volume-4999");
  EXPECT_EQ(replies[100].payload.size(), 4 + 10 + limits::kMaxStringBytes);
  EXPECT_LE(haggle.transcript().max_output_piece_bytes, limits::kMaxHandshakeOutputBytes);
  haggle.receive(option(go, info_payload("volume-1")));
  EXPECT_EQ(haggle.step(), Step::transmission);
}

TEST(Negotiator, GoSendsInfoExportUnaskedAndNoPadding) {
  for (const uint32_t flags : {1u, 3u}) {
    Haggle haggle(flags);
    const auto replies = haggle.replies(go, info_payload("disk"));
    ASSERT_EQ(replies.size(), 2u);
    EXPECT_EQ(replies[0].type, OptionReply::info);
    EXPECT_EQ(replies[0].payload, "\0\0\0\0\0\x10\0\0\0\0\x0d\x6d"s);
    EXPECT_EQ(replies[1].type, OptionReply::ack);
    EXPECT_EQ(haggle.step(), Step::transmission);
    EXPECT_EQ(haggle.transcript().agreement,
              (Agreement{.export_name = "disk", .structured_replies = false, .contexts = {}}));
  }
}

TEST(Negotiator, InfosThatAreAskedForComeOnce) {
  Haggle haggle;
  const auto replies = haggle.replies(info, info_payload("disk", {3, 1, 99, 2, 0, 3, 0xffff}));
  ASSERT_EQ(replies.size(), 5u);
  EXPECT_EQ(type_of_info(replies[0]), "\0\0"s);
  EXPECT_EQ(replies[1].payload, "\0\1disk"s);
  EXPECT_EQ(replies[2].payload, "\0\2a disk"s);
  EXPECT_EQ(replies[3].payload, "\0\3\0\0\0\1\0\0\x10\0\2\0\0\0"s);
  EXPECT_EQ(replies[4].type, OptionReply::ack);
}

TEST(Negotiator, NameInfoIsTheCanonicalName) {
  ScriptedRegistry registry{.exports = {disk()}, .failures = {}};
  Haggle haggle(3, TlsPolicy::off, registry);
  EXPECT_EQ(haggle.replies(go, info_payload("", {1})).at(1).payload, "\0\1disk"s);
  EXPECT_EQ(haggle.transcript().agreement.export_name, "");
}

TEST(Negotiator, InfoThenTheSameGoGivesTheSameInfo) {
  for (const auto& types : std::vector<std::vector<uint16_t>>{{}, {0}, {3}, {0, 1, 2, 3}, {3, 99}}) {
    for (const bool structured : {false, true}) {
      Haggle haggle;
      if (structured) {
        EXPECT_EQ(haggle.reply(structured_reply), OptionReply::ack);
      }
      const auto first = haggle.replies(info, info_payload("disk", types));
      const auto second = haggle.replies(go, info_payload("disk", types));
      ASSERT_EQ(first.size(), second.size());
      for (size_t index = 0; index < first.size(); ++index)
        EXPECT_EQ(first[index].payload, second[index].payload);
      EXPECT_EQ(haggle.transcript().queries, (std::vector<std::string>{"describe disk", "open disk"}));
    }
  }
}

TEST(Negotiator, MalformedInfoAndGoAreInvalidAndStayInSync) {
  const std::string whole = info_payload("disk", {3});
  for (const Option number : {info, go}) {
    Haggle haggle;
    for (size_t bytes = 0; bytes < whole.size(); ++bytes)
      EXPECT_EQ(haggle.reply(number, whole.substr(0, bytes)), OptionReply::err_invalid) << bytes;
    EXPECT_EQ(haggle.reply(number, whole + "x"), OptionReply::err_invalid);
    EXPECT_EQ(haggle.reply(number, "\xff\xff\xff\xff" + whole.substr(4)), OptionReply::err_invalid);
    for (const std::string& name : {std::string(4097, 'x'), "di\0sk"s, "\xc3\x28"s, "\xed\xa0\x80"s})
      EXPECT_EQ(haggle.reply(number, info_payload(name)), OptionReply::err_invalid);
    EXPECT_TRUE(haggle.transcript().queries.empty()) << "a lookup of a malformed request";
    haggle.expect_in_sync();
  }
}

TEST(Negotiator, LongestNameIsLookedUp) {
  Haggle haggle;
  for (const Option number : {info, go})
    EXPECT_EQ(haggle.reply(number, info_payload(std::string(4096, 'x'), {0, 1, 2, 3})),
              OptionReply::err_unknown);
  haggle.expect_in_sync();
}

TEST(Negotiator, ExportThatCannotBeOpenedIsRefusedAndTheHandshakeGoesOn) {
  const std::vector<std::pair<const char*, OptionReply>> names = {
      {"nope", OptionReply::err_unknown},   {"", OptionReply::err_unknown},
      {"held", OptionReply::err_unknown},   {"secret", OptionReply::err_policy},
      {"broken", OptionReply::err_unknown}, {"late", OptionReply::err_shutdown}};
  Haggle haggle;
  for (const auto& [name, type] : names)
    for (const Option number : {info, go}) EXPECT_EQ(haggle.reply(number, info_payload(name)), type) << name;
  EXPECT_EQ(haggle.replies(go, info_payload("disk")).back().type, OptionReply::ack);
  EXPECT_EQ(haggle.step(), Step::transmission);
}

TEST(Negotiator, RefusalTextIsForPeopleAndHidesOurFiles) {
  Haggle haggle;
  EXPECT_EQ(haggle.replies(go, info_payload("held")).at(0).payload, "volume \"held\" is open elsewhere");
  EXPECT_EQ(haggle.replies(go, info_payload("broken")).at(0).payload, "the export is not available: io");
}

TEST(Negotiator, RefusalTextIsEscapedAndShort) {
  Haggle haggle;
  EXPECT_EQ(haggle.replies(go, info_payload("a\x1b[2J\n")).at(0).payload, "no volume \"a\\x1b[2J\\x0a\"");
  for (const char byte : {'x', '\n', '\x7f'}) {
    const std::string text = haggle.replies(go, info_payload(std::string(4096, byte))).at(0).payload;
    EXPECT_LT(text.size(), limits::kMaxStringBytes);
    EXPECT_GT(text.size(), 500u);
    EXPECT_TRUE(is_valid_utf8(text));
  }
}

TEST(Negotiator, CloseReasonIsEscaped) {
  Haggle haggle;
  haggle.receive(option(export_name, "a\x1b[2J"));
  EXPECT_EQ(haggle.transcript().close_reason.what, "no volume \"a\\x1b[2J\"");
}

TEST(Negotiator, StructuredRepliesAreAgreedOn) {
  Haggle haggle;
  EXPECT_EQ(haggle.reply(structured_reply), OptionReply::ack);
  EXPECT_EQ(haggle.reply(structured_reply), OptionReply::ack);
  haggle.receive(option(go, info_payload("disk")));
  EXPECT_TRUE(haggle.transcript().agreement.structured_replies);
}

TEST(Negotiator, StructuredReplyWithDataIsInvalidAndNegotiatesNothing) {
  Haggle haggle;
  EXPECT_EQ(haggle.reply(structured_reply, "x"), OptionReply::err_invalid);
  haggle.receive(option(go, info_payload("disk")));
  EXPECT_FALSE(haggle.transcript().agreement.structured_replies);
}

TEST(Negotiator, DontFragmentIsOfferedOnlyAfterStructuredReplies) {
  Haggle haggle;
  EXPECT_EQ(haggle.flags_of_info("disk") & proto::kFlagSendDf, 0);
  EXPECT_EQ(haggle.reply(structured_reply), OptionReply::ack);
  EXPECT_EQ(haggle.flags_of_info("disk") & proto::kFlagSendDf, proto::kFlagSendDf);
}

TEST(Negotiator, ReadOnlyExportSaysSo) {
  Haggle haggle;
  const uint16_t flags = haggle.flags_of_info("other");
  EXPECT_EQ(flags & proto::kFlagReadOnly, proto::kFlagReadOnly);
  EXPECT_EQ(flags & (proto::kFlagSendTrim | proto::kFlagSendWriteZeroes | proto::kFlagSendFastZero), 0);
}

TEST(Negotiator, UnconsumedBytesBehindGoAreTheFirstRequests) {
  Haggle haggle;
  const std::string options = option(structured_reply) + option(go, info_payload("disk"));
  haggle.receive(options + proto::client::request({}));
  EXPECT_EQ(haggle.step(), Step::transmission);
  EXPECT_EQ(haggle.transcript().consumed_bytes, kFlags.size() + options.size());
}

}  // namespace
}  // namespace fdbnbd::session
