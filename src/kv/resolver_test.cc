#include "kv/resolver.h"

#include <gtest/gtest.h>

#include <array>

#include "base/random.h"

namespace fdbnbd::kv {
namespace {

std::string cell_key(uint64_t cell) {
  return std::string(1, static_cast<char>('a' + cell));
}

TEST(Resolver, KnowsWhatChangedSinceAnyVersionItRemembers) {
  constexpr uint64_t kCells = 20;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    Resolver resolver(seed % 2 == 0 ? 1000 : 12);
    std::array<Version, kCells> changed{};
    for (Version version = 1; version < 200; ++version) {
      const uint64_t begin = random.below(kCells);
      const uint64_t end = begin + random.below(kCells - begin + 1);
      resolver.record({cell_key(begin), cell_key(end)}, version);
      for (uint64_t i = begin; i < end; ++i) changed[i] = version;

      const uint64_t asked_begin = random.below(kCells);
      const uint64_t asked_end = asked_begin + random.below(kCells - asked_begin + 1);
      const Version oldest = resolver.oldest_version();
      ASSERT_LE(oldest, version);
      const Version since =
          oldest + static_cast<Version>(random.below(static_cast<uint64_t>(version - oldest) + 1));
      bool expected = false;
      for (uint64_t i = asked_begin; i < asked_end; ++i) expected |= changed[i] > since;
      ASSERT_EQ(resolver.changed_since({cell_key(asked_begin), cell_key(asked_end)}, since), expected)
          << "at version " << version;
    }
  }
}

TEST(Resolver, ForgetsTheOldestHalfWhenItIsFull) {
  Resolver resolver(1000);
  for (Version version = 1; version <= 100'000; ++version) {
    const std::string key = std::to_string(version % 5000);
    resolver.record({key, key + '\0'}, version);
  }
  EXPECT_GT(resolver.oldest_version(), 100'000 - 1000);
  EXPECT_LT(resolver.oldest_version(), 100'000);
  const std::string newest = std::to_string(100'000 % 5000);
  EXPECT_TRUE(resolver.changed_since({newest, newest + '\0'}, 99'999));
  EXPECT_FALSE(resolver.changed_since({newest, newest + '\0'}, 100'000));
}

}  // namespace
}  // namespace fdbnbd::kv
