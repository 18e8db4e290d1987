#include "session/negotiator.h"

#include <gtest/gtest.h>

#include "base/limits.h"
#include "base/random.h"
#include "session/haggle_testing.h"

namespace fdbnbd::session {
namespace {

using namespace std::string_literals;
using enum proto::Option;
using proto::Option;
using proto::OptionReply;
using proto::client::info_payload;
using proto::client::meta_payload;
using proto::client::option;
using proto::client::option_header;
using Step = Negotiator::Step;

TEST(Limits, LongOptionIsSkippedAndNeverHeld) {
  for (const uint32_t bytes : {uint32_t{1} << 20, limits::kMaxSkippedOptionBytes}) {
    for (const Option number : {info, go, set_meta_context, list, structured_reply, peek_export}) {
      Haggle haggle;
      haggle.receive(option_header(number, bytes));
      const std::string chunk(1 << 16, '\0');
      size_t answered = haggle.transcript().output.size();
      for (uint32_t sent = 0; sent < bytes; sent += 1 << 16) {
        EXPECT_EQ(haggle.transcript().output.size(), answered) << "an answer before the option's end";
        haggle.receive(chunk);
      }
      EXPECT_GT(haggle.transcript().output.size(), answered);
      EXPECT_LE(haggle.transcript().max_buffered_bytes, 1024u);
      haggle.expect_in_sync();
    }
  }
}

TEST(Limits, OptionBeyondTheCapClosesAtItsHeader) {
  for (const uint32_t bytes : {limits::kMaxSkippedOptionBytes + 1, uint32_t{60} << 20, UINT32_MAX}) {
    for (const Option number : {export_name, abort, list, go, set_meta_context, peek_export}) {
      Haggle haggle;
      EXPECT_EQ(haggle.answer(option_header(number, bytes)), "");
      EXPECT_EQ(haggle.step(), Step::closed);
      EXPECT_EQ(haggle.close_code(), Errc::protocol);
    }
  }
}

TEST(Limits, ExportNameBeyondAStringClosesAtItsHeader) {
  Haggle haggle;
  haggle.receive(option_header(export_name, limits::kMaxStringBytes + 1));
  EXPECT_EQ(haggle.step(), Step::closed);
  EXPECT_EQ(haggle.close_code(), Errc::invalid);
}

TEST(Limits, ClaimedLengthReservesNothing) {
  Haggle haggle;
  haggle.receive(option_header(set_meta_context, limits::kMaxOptionBytes));
  haggle.receive("abc");
  EXPECT_LE(haggle.transcript().max_buffered_bytes, 64u);
}

TEST(Limits, OptionFloodCloses) {
  Haggle haggle;
  const std::string one = option(info, info_payload("nope"));
  for (uint32_t count = 0; count < limits::kMaxOptionsPerHandshake; ++count) {
    ASSERT_EQ(haggle.step(), Step::input) << count;
    haggle.receive(one);
  }
  EXPECT_EQ(haggle.step(), Step::input);
  EXPECT_EQ(haggle.answer(one), "");
  EXPECT_EQ(haggle.step(), Step::closed);
}

TEST(Limits, ByteFloodCloses) {
  Haggle haggle;
  const std::string one = option(77, std::string(8 << 20, 'x'));
  uint64_t bytes = 0;
  while (bytes + one.size() <= limits::kMaxHandshakeBytes) {
    EXPECT_NE(haggle.answer(one), "");
    bytes += one.size();
  }
  EXPECT_EQ(haggle.answer(one), "");
  EXPECT_EQ(haggle.step(), Step::closed);
}

TEST(Tls, IsUnsupportedWhereItIsOff) {
  Haggle haggle;
  EXPECT_EQ(haggle.reply(starttls), OptionReply::err_unsup);
  EXPECT_EQ(haggle.reply(starttls, "data"), OptionReply::err_unsup);
  haggle.expect_in_sync();
}

TEST(Tls, StartForgetsAllThatWasNegotiated) {
  Haggle haggle(3, TlsPolicy::offered);
  haggle.receive(option(structured_reply) + set("disk", {kAllocation}));
  EXPECT_EQ(haggle.reply(starttls), OptionReply::ack);
  EXPECT_EQ(haggle.flags_of_info("disk") & proto::kFlagSendDf, 0);
  haggle.receive(option(structured_reply) + option(go, info_payload("disk")));
  EXPECT_TRUE(haggle.transcript().agreement.structured_replies);
  EXPECT_TRUE(haggle.transcript().agreement.contexts.empty());
}

TEST(Tls, StartConsumesNothingBehindIt) {
  Negotiator negotiator(TlsPolicy::offered);
  negotiator.take_output();
  const std::string pipelined = kFlags + option(starttls) + option(structured_reply);
  EXPECT_EQ(negotiator.feed(as_bytes(pipelined)), kFlags.size() + 16);
  EXPECT_EQ(negotiator.step(), Step::start_tls);
  EXPECT_FALSE(negotiator.take_output().empty());
  EXPECT_EQ(negotiator.feed(as_bytes(option(structured_reply))), 0u);
}

TEST(Tls, StartWithDataOrTwiceIsInvalid) {
  Haggle haggle(3, TlsPolicy::offered);
  EXPECT_EQ(haggle.reply(starttls, "x"), OptionReply::err_invalid);
  EXPECT_EQ(haggle.reply(starttls), OptionReply::ack);
  EXPECT_EQ(haggle.reply(starttls), OptionReply::err_invalid);
  haggle.expect_in_sync();
}

TEST(Tls, RequiredRefusesEverythingElseBefore) {
  Haggle haggle(3, TlsPolicy::required);
  for (const Option number : {list, info, go, structured_reply, list_meta_context, set_meta_context,
                              peek_export, Option{0xffffffff}})
    for (const size_t bytes : {0, 100}) {
      EXPECT_EQ(haggle.reply(number, std::string(bytes, 'x')), OptionReply::err_tls_reqd);
    }
  EXPECT_TRUE(haggle.transcript().queries.empty());
  EXPECT_EQ(haggle.reply(starttls), OptionReply::ack);
  haggle.expect_in_sync();
}

TEST(Tls, RequiredClosesOnExportNameAndAcknowledgesAbort) {
  Haggle by_name(3, TlsPolicy::required);
  EXPECT_EQ(by_name.answer(option(export_name, "disk")), "");
  EXPECT_EQ(by_name.step(), Step::closed);
  Haggle aborting(3, TlsPolicy::required);
  EXPECT_EQ(aborting.reply(abort), OptionReply::ack);
}

// A handshake that visits every phase.
std::string long_handshake() {
  return kFlags + option(list) + option(77, "abcd") + option(info, info_payload("disk", {1, 2, 3})) +
         option(go, info_payload("nope")) + option(structured_reply) +
         option(list_meta_context, meta_payload("disk")) + set("disk", {"base:", kAllocation}) +
         option(go, "bad") + option(list, std::string(300, 'x')) + option(go, info_payload("disk", {0, 3})) +
         proto::client::request({});
}

TEST(Segments, AnySegmentationGivesTheSameHandshake) {
  const ScriptedRegistry registry = two_exports();
  const std::string input = long_handshake();
  const Transcript at_once = drive(registry, TlsPolicy::off, input, [&] { return input.size(); });
  EXPECT_EQ(at_once.step, Step::transmission);
  EXPECT_EQ(at_once.consumed_bytes, input.size() - proto::kRequestBytes);
  EXPECT_TRUE(is_same(drive(registry, TlsPolicy::off, input, [] { return size_t{1}; }), at_once));
  for (uint64_t seed = 0; seed < 500; ++seed) {
    Random random(seed);
    const size_t largest = 1 + random.below(200);
    const Transcript cut = drive(registry, TlsPolicy::off, input, [&] { return 1 + random.below(largest); });
    EXPECT_TRUE(is_same(cut, at_once)) << "seed " << seed;
  }
}

// Options with anything in them, mostly plausible.
std::string random_handshake(Random& random) {
  std::string input = proto::client::flags(
      static_cast<uint32_t>(random.one_in(20) ? random.next() : 1 + 2 * random.below(2)));
  const std::string names[] = {"disk", "other", "nope", "held", "", "\xff"};
  for (uint64_t count = random.below(12); count > 0; --count) {
    const std::string& name = names[random.below(std::size(names))];
    std::string payload;
    switch (random.below(4)) {
      case 0:
        break;
      case 1:
        payload = info_payload(name, {static_cast<uint16_t>(random.below(5)), 3});
        break;
      case 2:
        payload = meta_payload(name, {kAllocation, "base:"});
        break;
      case 3:
        payload.assign(random.below(100), static_cast<char>(random.below(4)));
        break;
    }
    const uint64_t magic = random.one_in(50) ? random.next() : proto::kIHaveOpt;
    input += option(static_cast<uint32_t>(random.below(13)), payload, magic);
  }
  return input;
}

TEST(Segments, AnySegmentationOfRandomOptionsGivesTheSame) {
  const ScriptedRegistry registry = two_exports();
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    Random random(seed);
    const auto tls = static_cast<TlsPolicy>(random.below(3));
    const std::string input = random_handshake(random);
    const Transcript at_once = drive(registry, tls, input, [&] { return input.size(); });
    check_bounds(at_once);
    const size_t largest = 1 + random.below(64);
    const Transcript cut = drive(registry, tls, input, [&] { return 1 + random.below(largest); });
    EXPECT_TRUE(is_same(cut, at_once)) << "seed " << seed;
  }
}

TEST(Segments, HandshakeCutAtAnyByteWaitsForMore) {
  const ScriptedRegistry registry = two_exports();
  const std::string input = long_handshake();
  const size_t handshake_bytes = input.size() - proto::kRequestBytes;
  for (size_t bytes = 0; bytes < handshake_bytes; ++bytes) {
    Driver driver(registry, TlsPolicy::off);
    driver.receive(input.substr(0, bytes));
    ASSERT_EQ(driver.transcript().step, Step::input) << bytes;
    ASSERT_EQ(driver.transcript().consumed_bytes, bytes);
    driver.receive(input.substr(bytes));
    ASSERT_EQ(driver.transcript().step, Step::transmission) << bytes;
  }
}

TEST(Segments, NothingIsConsumedWhileAQueryIsOpen) {
  Negotiator negotiator(TlsPolicy::off);
  negotiator.take_output();
  const std::string input = kFlags + option(list) + option(list);
  const size_t consumed = negotiator.feed(as_bytes(input));
  EXPECT_EQ(consumed, kFlags.size() + 16);
  EXPECT_EQ(negotiator.step(), Step::query);
  EXPECT_EQ(negotiator.feed(as_bytes(input).subspan(consumed)), 0u);
  negotiator.on_listed(std::vector<block::ExportListing>{});
  EXPECT_EQ(negotiator.feed(as_bytes(input).subspan(consumed)), 0u) << "output is to be taken first";
  negotiator.take_output();
  EXPECT_EQ(negotiator.feed(as_bytes(input).subspan(consumed)), 16u);
}

}  // namespace
}  // namespace fdbnbd::session
