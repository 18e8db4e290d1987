#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/checked_math.h"
#include "base/endian.h"
#include "base/function.h"
#include "base/random.h"
#include "base/units.h"

namespace fdbnbd {
namespace {

TEST(Units, SizesWithPowersOfTwoAndTen) {
  EXPECT_EQ(parse_size("0").value(), 0u);
  EXPECT_EQ(parse_size("512").value(), 512u);
  EXPECT_EQ(parse_size("1K").value(), 1024u);
  EXPECT_EQ(parse_size("1k").value(), 1024u);
  EXPECT_EQ(parse_size("1KB").value(), 1000u);
  EXPECT_EQ(parse_size("1GiB").value(), uint64_t{1} << 30);
  EXPECT_EQ(parse_size("1.5T").value(), 3 * (uint64_t{1} << 39));
  EXPECT_EQ(parse_size("8191P").value(), 8191 * (uint64_t{1} << 50));
  EXPECT_EQ(parse_size("9223372036854775807").value(), static_cast<uint64_t>(INT64_MAX));
}

TEST(Units, WhatIsNoSizeIsRefused) {
  for (const char* text : {"", "G", "-1", "+1", "1X", "1GG", "1 G", "1.", "1.G", "0x10", "1e3", "8192P",
                           "99999999999999999999", "0.3", "1.0000000001K", "1KBB"}) {
    EXPECT_EQ(parse_size(text).error().code, Errc::invalid) << text;
  }
}

TEST(Units, SizesArePrintedShort) {
  EXPECT_EQ(format_size(0), "0 B");
  EXPECT_EQ(format_size(1023), "1023 B");
  EXPECT_EQ(format_size(1 << 30), "1 GiB");
  EXPECT_EQ(format_size(1536), "1.50 KiB");
}

TEST(CheckedMath, RangesThatWrapDoNotFit) {
  EXPECT_TRUE(range_fits(0, 10, 10));
  EXPECT_TRUE(range_fits(10, 0, 10));
  EXPECT_FALSE(range_fits(10, 1, 10));
  EXPECT_FALSE(range_fits(UINT64_MAX - 511, 1024, 1 << 20));
  EXPECT_FALSE(range_fits(512, UINT64_MAX, 1 << 20));
}

TEST(Endian, RoundTrip) {
  std::string bytes;
  append_be(bytes, uint32_t{0x01020304});
  EXPECT_EQ(bytes, std::string("\x01\x02\x03\x04", 4));
  EXPECT_EQ(load_be<uint32_t>(bytes.data()), 0x01020304u);
}

TEST(Bytes, AllZeroLooksAtEveryByte) {
  std::vector<std::byte> bytes(4097);
  EXPECT_TRUE(is_all_zero({}));
  EXPECT_TRUE(is_all_zero(bytes));
  for (const size_t i : {size_t{0}, size_t{1}, size_t{7}, size_t{2048}, size_t{4096}}) {
    bytes[i] = std::byte{1};
    EXPECT_FALSE(is_all_zero(bytes)) << i;
    bytes[i] = std::byte{0};
  }
}

TEST(RandomNumbers, SameSeedSameNumbersInsideTheBound) {
  Random a(7);
  Random b(7);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t value = a.below(10);
    EXPECT_LT(value, 10u);
    EXPECT_EQ(value, b.below(10));
  }
}

TEST(Functions, RefCallsThroughAndUniqueOwns) {
  int calls = 0;
  auto count = [&](int by) { return calls += by; };
  FunctionRef<int(int)> ref = count;
  EXPECT_EQ(ref(2), 2);
  UniqueFunction<int()> unique = [owned = std::make_unique<int>(5)] { return *owned; };
  ASSERT_TRUE(static_cast<bool>(unique));
  EXPECT_EQ(unique(), 5);
}

}  // namespace
}  // namespace fdbnbd
