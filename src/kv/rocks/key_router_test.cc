#include "kv/rocks/key_router.h"

#include <gtest/gtest.h>

#include "base/random.h"

namespace fdbnbd::kv {
namespace {

using namespace std::string_literals;

std::string random_key(Random& random) {
  std::string key(random.below(4), '\0');
  for (char& byte : key) byte = "ACDEF\xfe\xff\0"[random.below(8)];
  return key;
}

TEST(KeyRouter, SplitsARangeAsItPlacesItsKeys) {
  const struct {
    std::string prefix;
    std::string tags;
  } layouts[] = {{"", "D"}, {"", "DE"}, {"", "\xff"},     {"", "C\xff\xfe"},
                 {"", ""},  {"D", "D"}, {"\xff", "\xff"}, {"A", "\0\xff"s}};
  for (const auto& layout : layouts) {
    const KeyRouter router(layout.prefix, layout.tags);
    Random random(1);
    for (int round = 0; round < 2000; ++round) {
      const std::string begin = random_key(random);
      const std::string end = random_key(random);
      const auto parts = router.split({begin, end});
      if (begin >= end) {
        EXPECT_TRUE(parts.empty());
        continue;
      }
      ASSERT_FALSE(parts.empty());
      EXPECT_EQ(parts.front().begin, begin);
      EXPECT_EQ(parts.back().end, end);
      for (size_t i = 0; i < parts.size(); ++i) {
        EXPECT_LT(parts[i].begin, parts[i].end);
        if (i > 0) {
          EXPECT_EQ(parts[i - 1].end, parts[i].begin);
          EXPECT_NE(parts[i - 1].family, parts[i].family);
        }
      }
      const std::string key = random_key(random);
      for (const RangePart& part : parts)
        if (part.begin <= key && key < part.end) EXPECT_EQ(router.family_of(key), part.family);
    }
  }
}

TEST(KeyRouter, KnowsBulkKeysByTheByteBehindThePrefix) {
  const KeyRouter router("pre", "D");
  EXPECT_EQ(router.family_of("preD1"), Family::bulk);
  EXPECT_EQ(router.family_of("preD"), Family::bulk);
  EXPECT_EQ(router.family_of("pre"), Family::meta);
  EXPECT_EQ(router.family_of("preE"), Family::meta);
  EXPECT_EQ(router.family_of("D"), Family::meta);
}

}  // namespace
}  // namespace fdbnbd::kv
