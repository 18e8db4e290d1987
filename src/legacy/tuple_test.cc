#include "legacy/tuple.h"

#include <gtest/gtest.h>

#include <limits>

namespace fdbnbd::legacy {
namespace {

using namespace std::string_literals;

std::string packed_integer(int64_t value) {
  std::string tuple;
  append_integer(tuple, value);
  return tuple;
}

TEST(Tuple, ElementsAreThoseOfTheSpecification) {
  std::string tuple;
  append_bytes(tuple, "foo\0bar"s);
  EXPECT_EQ(tuple, "\x01"s + "foo\0\xff"s + "bar\0"s);
  tuple.clear();
  append_text(tuple, "F\xc3\x94O\0bar"s);
  EXPECT_EQ(tuple, "\x02"s + "F\xc3\x94O\0\xff"s + "bar\0"s);
  EXPECT_EQ(packed_integer(0), "\x14");
  EXPECT_EQ(packed_integer(1), "\x15\x01");
  EXPECT_EQ(packed_integer(255), "\x15\xff");
  EXPECT_EQ(packed_integer(256), "\x16\x01\0"s);
  EXPECT_EQ(packed_integer(-1), "\x13\xfe");
  EXPECT_EQ(packed_integer(-255), "\x13\0"s);
  EXPECT_EQ(packed_integer(-256), "\x12\xfe\xff");
  EXPECT_EQ(packed_integer(-5551212), "\x11\xab\x4b\x93");
}

TEST(Tuple, IntegersAreReadBackAndSortAsTheirValues) {
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  std::string before;
  for (const int64_t value : {kMin, kMin + 1, -(1L << 32), -65536L, -65535L, -256L, -255L, -1L, 0L, 1L, 255L,
                              256L, 65535L, 65536L, 1L << 32, kMax - 1, kMax}) {
    const std::string packed = packed_integer(value);
    EXPECT_LT(before, packed) << value;
    before = packed;
    TupleReader reader(packed);
    EXPECT_EQ(reader.integer(), value);
    EXPECT_TRUE(reader.at_end());
  }
}

TEST(Tuple, WhatIsNoElementIsRefused) {
  EXPECT_EQ(TupleReader("").integer(), std::nullopt);
  EXPECT_EQ(TupleReader("\x16\x01").integer(), std::nullopt);                              // cut off
  EXPECT_EQ(TupleReader("\x1c\xff\xff\xff\xff\xff\xff\xff\xff").integer(), std::nullopt);  // 2^64 - 1
  EXPECT_EQ(TupleReader("\x0c\x00\x00\x00\x00\x00\x00\x00\x00"s).integer(), std::nullopt);
  EXPECT_EQ(TupleReader("\x1d\x09").integer(), std::nullopt);
  EXPECT_EQ(TupleReader("\x02g"s).string(), std::nullopt);
  EXPECT_EQ(TupleReader("\x15\x01").string(), std::nullopt);
  std::string two_strings;
  append_bytes(two_strings, "a\0b"s);
  append_text(two_strings, "c");
  TupleReader reader(two_strings);
  EXPECT_EQ(reader.integer(), std::nullopt);
  EXPECT_EQ(reader.string(), "a\0b"s);
  EXPECT_EQ(reader.string(), "c");
  EXPECT_TRUE(reader.at_end());
}

}  // namespace
}  // namespace fdbnbd::legacy
