#include "base/text.h"

#include <gtest/gtest.h>

#include "base/random.h"

namespace fdbnbd {
namespace {

using namespace std::string_view_literals;

TEST(Text, Utf8OfEveryLengthIsValid) {
  for (const auto text :
       {""sv, "disk"sv, "nul\0inside"sv, "\x7f"sv, "\u0080"sv, "\u07ff"sv, "\u0800"sv, "\ud7ff"sv, "\ue000"sv,
        "\uffff"sv, "\U00010000"sv, "\U0010ffff"sv, "snowman \u2603"sv})
    EXPECT_TRUE(is_valid_utf8(text)) << text;
}

TEST(Text, BrokenUtf8IsInvalid) {
  for (const auto text : {"\x80"sv, "\xbf"sv, "\xc0\xaf"sv, "\xc1\xbf"sv, "\xc3\x28"sv, "\xc3"sv,
                          "\xe0\x9f\xbf"sv, "\xed\xa0\x80"sv, "\xed\xbf\xbf"sv, "\xe2\x98"sv,
                          "\xe2\x28\xa1"sv, "\xe2\x98\x28"sv, "\xf0\x8f\xbf\xbf"sv, "\xf4\x90\x80\x80"sv,
                          "\xf5\x80\x80\x80"sv, "\xf0\x9f\x98"sv, "\xff"sv, "good\xfe"sv})
    EXPECT_FALSE(is_valid_utf8(text));
}

TEST(Text, EscapedKeepsWhatCanBeRead) {
  EXPECT_EQ(escaped("disk \u2603 \U0001f4be", 100), "disk \u2603 \U0001f4be");
}

TEST(Text, EscapedHidesControlsAndBrokenBytes) {
  EXPECT_EQ(escaped("\x1b[2J\n\0\x7f\\\xff"sv, 100), "\\x1b[2J\\x0a\\x00\\x7f\\x5c\\xff");
  EXPECT_EQ(escaped("\u009b", 100), "\\xc2\\x9b");
}

TEST(Text, EscapedIsCutWithAnEllipsis) {
  EXPECT_EQ(escaped("abcdef", 6), "abcdef");
  EXPECT_EQ(escaped("abcdefg", 6), "abc...");
  EXPECT_EQ(escaped("ab\u2603\u2603", 7), "ab...");
  EXPECT_EQ(escaped("ab\n\n", 8), "ab...");
  EXPECT_EQ(escaped("abcd", 3), "...");
}

TEST(Text, EscapedIsPrintableUtf8WithinTheLimitForAnyBytes) {
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    Random random(seed);
    std::string text;
    for (uint64_t count = random.below(60); count > 0; --count) text += static_cast<char>(random.next());
    const size_t bytes_limit = 3 + random.below(40);
    const std::string result = escaped(text, bytes_limit);
    EXPECT_LE(result.size(), bytes_limit) << "seed " << seed;
    EXPECT_TRUE(is_valid_utf8(result)) << "seed " << seed;
    for (const char c : result) EXPECT_GE(static_cast<uint8_t>(c), 0x20) << "seed " << seed;
  }
}

TEST(Text, PrefixDoesNotCutACharacter) {
  EXPECT_EQ(utf8_prefix("ab\u2603", 5), "ab\u2603");
  EXPECT_EQ(utf8_prefix("ab\u2603", 4), "ab");
  EXPECT_EQ(utf8_prefix("ab\u2603", 3), "ab");
  EXPECT_EQ(utf8_prefix("ab\u2603", 2), "ab");
  EXPECT_EQ(utf8_prefix("\u2603", 0), "");
}

}  // namespace
}  // namespace fdbnbd
