#include "session/negotiator.h"

#include <gtest/gtest.h>

#include "base/limits.h"
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
using Step = Negotiator::Step;

TEST(MetaContext, ListWithoutAQueryNamesAllWithIdZero) {
  Haggle haggle;
  const auto replies = haggle.replies(list_meta_context, meta_payload("disk"));
  ASSERT_EQ(replies.size(), 2u);
  EXPECT_EQ(replies[0].payload, "\0\0\0\0"s + kAllocation);
  EXPECT_EQ(replies[1].type, OptionReply::ack);
}

TEST(MetaContext, ListAnswersWildcardsAndNames) {
  Haggle haggle;
  const std::vector<std::string> all = {kAllocation};
  EXPECT_EQ(haggle.contexts(list_meta_context, "disk", {"base:"}), all);
  EXPECT_EQ(haggle.contexts(list_meta_context, "disk", {kAllocation, "base:", kAllocation}), all);
  EXPECT_EQ(haggle.contexts(list_meta_context, "disk", {"x-nobody:", kAllocation}), all);
  EXPECT_TRUE(haggle.contexts(list_meta_context, "disk", {"x-nobody:thing", "qemu:", "base:other"}).empty());
}

// An export that answers all topics.
ScriptedRegistry with_snapshots(uint32_t snapshots_count) {
  ScriptedRegistry registry = two_exports();
  registry.exports[0].has_depth = true;
  for (uint32_t i = 1; i <= snapshots_count; ++i)
    registry.exports[0].snapshots.push_back("s" + std::to_string(i));
  return registry;
}

TEST(MetaContext, WhatTheExportAnswersIsOffered) {
  Haggle haggle(3, TlsPolicy::off, with_snapshots(2));
  const std::vector<std::string> ours = {"fdb-nbd:changed-since/s1", "fdb-nbd:changed-since/s2"};
  EXPECT_EQ(haggle.contexts(list_meta_context, "disk", {"fdb-nbd:"}), ours);
  EXPECT_EQ(haggle.contexts(list_meta_context, "disk", {"fdb-nbd:changed-since/"}), ours);
  EXPECT_EQ(haggle.contexts(list_meta_context, "disk", {"qemu:"}),
            std::vector<std::string>{"qemu:allocation-depth"});
  EXPECT_EQ(haggle.contexts(list_meta_context, "disk", {ours[1]}), std::vector<std::string>{ours[1]});
  EXPECT_TRUE(haggle.contexts(list_meta_context, "disk", {"fdb-nbd:changed-since/none"}).empty());
  EXPECT_TRUE(haggle.contexts(list_meta_context, "other", {"fdb-nbd:", "qemu:"}).empty());
}

TEST(MetaContext, ASelectedContextKnowsItsTopic) {
  Haggle haggle(3, TlsPolicy::off, with_snapshots(2));
  haggle.receive(option(structured_reply));
  haggle.receive(set("disk", {"fdb-nbd:changed-since/", "fdb-nbd:changed-since/s2", kAllocation}));
  haggle.receive(option(go, info_payload("disk")));
  const auto contexts = haggle.transcript().agreement.contexts;
  ASSERT_EQ(contexts.size(), 2u);
  EXPECT_EQ(contexts[0].name, kAllocation);
  EXPECT_FALSE(contexts[0].topic);
  ASSERT_TRUE(contexts[1].topic);
  EXPECT_EQ(contexts[1].topic->kind, block::StatusTopic::Kind::changed_since);
  EXPECT_EQ(contexts[1].topic->snapshot, "s2");
  EXPECT_NE(contexts[0].id, contexts[1].id);
}

TEST(MetaContext, AListThatIsTooLongIsCut) {
  Haggle haggle(3, TlsPolicy::off, with_snapshots(5000));
  const auto names = haggle.contexts(list_meta_context, "disk", {"fdb-nbd:"});
  EXPECT_GT(names.size(), 1000u);
  EXPECT_LT(names.size(), 5000u);
  EXPECT_EQ(haggle.contexts(list_meta_context, "disk", {"fdb-nbd:changed-since/s5000"}).size(), 1u);
}

TEST(MetaContext, ListSelectsNothing) {
  Haggle haggle;
  haggle.receive(option(structured_reply));
  haggle.contexts(list_meta_context, "disk", {kAllocation});
  haggle.receive(option(go, info_payload("disk")));
  EXPECT_TRUE(haggle.transcript().agreement.contexts.empty());
}

// What is selected when the options were sent and then `last`.
std::vector<SelectedContext> selected(const std::vector<std::string>& options,
                                      const std::string& last = option(go, info_payload("disk"))) {
  Haggle haggle;
  haggle.receive(option(structured_reply));
  for (const std::string& bytes : options) haggle.receive(bytes);
  haggle.receive(last);
  EXPECT_EQ(haggle.step(), Step::transmission);
  return haggle.transcript().agreement.contexts;
}

const std::vector<SelectedContext> kSelected = {{.id = 1, .name = kAllocation}};

TEST(MetaContext, SetSelectsOnceWithAnId) {
  EXPECT_EQ(selected({set("disk", {kAllocation})}), kSelected);
  EXPECT_EQ(selected({set("disk", {"x-nobody:a", kAllocation, kAllocation})}), kSelected);
  Haggle haggle;
  haggle.receive(option(structured_reply));
  EXPECT_EQ(haggle.replies(set_meta_context, meta_payload("disk", {kAllocation})).at(0).payload,
            "\0\0\0\1"s + kAllocation);
}

TEST(MetaContext, SetIgnoresWildcardsAndUnknownNames) {
  for (const auto& queries : std::vector<std::vector<std::string>>{
           {}, {"base:"}, {"x-nobody:"}, {"x-nobody:thing"}, {"base:nothing"}, {"base:allocation2"}})
    EXPECT_TRUE(selected({set("disk", queries)}).empty());
}

TEST(MetaContext, SetReplacesTheSelectionBefore) {
  EXPECT_TRUE(selected({set("disk", {kAllocation}), set("disk", {"x-nobody:a"})}).empty());
  EXPECT_TRUE(selected({set("disk", {kAllocation}), set("disk", {})}).empty());
  EXPECT_EQ(selected({set("disk", {"x-nobody:a"}), set("disk", {kAllocation})}), kSelected);
}

TEST(MetaContext, SetThatFailsClears) {
  const std::string good = set("disk", {kAllocation});
  EXPECT_TRUE(selected({good, set("nope", {kAllocation})}).empty());
  EXPECT_TRUE(selected({good, set("disk", {"no-namespace"})}).empty());
  EXPECT_TRUE(selected({good, option(set_meta_context, "x")}).empty());
  EXPECT_TRUE(selected({good, option(set_meta_context)}).empty());
  EXPECT_TRUE(selected({good, set("disk", std::vector<std::string>(65, kAllocation))}).empty());
  EXPECT_TRUE(
      selected({good, option(set_meta_context, std::string(limits::kMaxOptionBytes + 1, 'x'))}).empty());
}

TEST(MetaContext, SelectionForAnotherExportIsForgotten) {
  const std::string other = set("other", {kAllocation});
  EXPECT_TRUE(selected({other}).empty());
  EXPECT_TRUE(selected({other}, option(export_name, "disk")).empty());
  EXPECT_EQ(selected({other}, option(go, info_payload("other"))), kSelected);
}

TEST(MetaContext, SelectionSurvivesOtherOptions) {
  const std::string good = set("disk", {kAllocation});
  EXPECT_EQ(selected({good}, option(export_name, "disk")), kSelected);
  EXPECT_EQ(
      selected({good, option(info, info_payload("other")), option(list), option(go, info_payload("nope")),
                option(77, "abc"), option(list_meta_context, meta_payload("other"))}),
      kSelected);
}

TEST(MetaContext, SetNeedsStructuredReplies) {
  Haggle haggle;
  EXPECT_EQ(haggle.reply(set_meta_context, meta_payload("disk", {kAllocation})), OptionReply::err_invalid);
  haggle.receive(option(structured_reply) + option(go, info_payload("disk")));
  EXPECT_TRUE(haggle.transcript().agreement.contexts.empty());
}

TEST(MetaContext, UnknownExportIsUnknown) {
  Haggle haggle;
  haggle.receive(option(structured_reply));
  for (const Option number : {list_meta_context, set_meta_context})
    EXPECT_EQ(haggle.reply(number, meta_payload("nope", {kAllocation})), OptionReply::err_unknown);
}

TEST(MetaContext, MalformedIsInvalidAndTooManyIsTooBig) {
  const std::string whole = meta_payload("disk", {kAllocation});
  for (const Option number : {list_meta_context, set_meta_context}) {
    Haggle haggle;
    haggle.receive(option(structured_reply));
    for (size_t bytes = 0; bytes < whole.size(); ++bytes)
      EXPECT_EQ(haggle.reply(number, whole.substr(0, bytes)), OptionReply::err_invalid) << bytes;
    EXPECT_EQ(haggle.reply(number, whole + "x"), OptionReply::err_invalid);
    EXPECT_EQ(haggle.reply(number, meta_payload("disk", {"x:" + std::string(4095, 'y')})),
              OptionReply::err_invalid);
    for (const size_t count : {65, 100, 10'000, 100'000})
      EXPECT_EQ(haggle.reply(number, meta_payload("disk", std::vector<std::string>(count, "x:y"))),
                OptionReply::err_too_big);
    haggle.expect_in_sync();
  }
}

}  // namespace
}  // namespace fdbnbd::session
