#include "kv/mutations.h"

#include <gtest/gtest.h>

namespace fdbnbd::kv {
namespace {

using namespace std::string_literals;

TEST(ApplyBits, TakesTheOperandsLengthAndCountsMissingBytesAsZero) {
  EXPECT_EQ(apply_bits(MutationKind::bit_or, "\x01\x02"s, "\x10\x20\x30"s), "\x11\x22\x30"s);
  EXPECT_EQ(apply_bits(MutationKind::bit_or, "\x01\x02\x03"s, "\x10"s), "\x11"s);
  EXPECT_EQ(apply_bits(MutationKind::bit_and, "\x0f\xff"s, "\x3c\x0f\xff"s), "\x0c\x0f\x00"s);
  EXPECT_EQ(apply_bits(MutationKind::bit_and, "\xff\xff\xff"s, "\x0f"s), "\x0f"s);
}

TEST(ApplyBits, StoresTheOperandOfAMissingKey) {
  EXPECT_EQ(apply_bits(MutationKind::bit_or, std::nullopt, "\x05"s), "\x05"s);
  EXPECT_EQ(apply_bits(MutationKind::bit_and, std::nullopt, "\x05"s), "\x05"s);
}

TEST(MutationList, KeepsOrderBytesAndFlags) {
  MutationList list;
  list.add(MutationKind::set, "key", "value", true);
  list.add(MutationKind::clear, "other", {}, false);
  list.add(MutationKind::clear_range, "a", "b", true);
  ASSERT_EQ(list.size(), 3u);
  EXPECT_EQ(list.bytes(), 15u);
  EXPECT_EQ(list[0].key, "key");
  EXPECT_EQ(list[0].value, "value");
  EXPECT_TRUE(list[0].conflicts);
  EXPECT_EQ(list[1].kind, MutationKind::clear);
  EXPECT_EQ(list[1].key, "other");
  EXPECT_FALSE(list[1].conflicts);
  EXPECT_EQ(list[2].key, "a");
  EXPECT_EQ(list[2].value, "b");
}

}  // namespace
}  // namespace fdbnbd::kv
