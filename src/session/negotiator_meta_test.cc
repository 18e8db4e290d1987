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
