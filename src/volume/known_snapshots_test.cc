#include "volume/known_snapshots.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "base/limits.h"

namespace fdbnbd::volume {
namespace {

constexpr VolumeId kVolume{7};

TEST(KnownSnapshots, ANameIsLackingOnlyWhereAllAreKnown) {
  KnownSnapshots known;
  EXPECT_FALSE(known.lacks(kVolume, 0, "a"));
  known.learn(kVolume, 4, {"a", "b"});
  EXPECT_FALSE(known.is_worth_learning(kVolume, 4));
  EXPECT_FALSE(known.lacks(kVolume, 4, "a"));
  EXPECT_TRUE(known.lacks(kVolume, 4, "c"));
  EXPECT_FALSE(known.lacks(VolumeId{8}, 4, "c"));
}

TEST(KnownSnapshots, NothingIsKnownOnceSomebodyElseMayHaveTakenOne) {
  KnownSnapshots known;
  known.learn(kVolume, 4, {"a"});
  EXPECT_FALSE(known.lacks(kVolume, 5, "c"));
  known.add(kVolume, 6, "c");  // what was taken at 5?
  for (const uint64_t barrier : {4, 5, 6}) EXPECT_TRUE(known.is_worth_learning(kVolume, barrier)) << barrier;
}

TEST(KnownSnapshots, WhatIsTakenHereIsKnown) {
  KnownSnapshots known;
  known.add(kVolume, 1, "a");  // there may be others
  EXPECT_TRUE(known.is_worth_learning(kVolume, 1));
  known.learn(kVolume, 1, {"a"});
  known.add(kVolume, 2, "b");
  EXPECT_FALSE(known.lacks(kVolume, 2, "a"));
  EXPECT_FALSE(known.lacks(kVolume, 2, "b"));
  EXPECT_TRUE(known.lacks(kVolume, 2, "c"));
}

TEST(KnownSnapshots, AVolumeWithTooManyIsAskedEachTime) {
  KnownSnapshots known;
  known.learn(kVolume, 1, {"a"});
  known.give_up(kVolume);
  known.add(kVolume, 2, "b");
  for (const uint64_t barrier : {0, 1, 2}) {
    EXPECT_FALSE(known.is_worth_learning(kVolume, barrier));
    EXPECT_FALSE(known.lacks(kVolume, barrier, "c"));
  }
}

TEST(KnownSnapshots, NoMoreNamesAreKeptThanTheirBound) {
  KnownSnapshots known;
  const uint32_t each = limits::kMaxKnownSnapshots / 4;
  const auto names = [&] {
    NameSet set;
    for (uint32_t i = 0; i < each; ++i) set.insert(fmt::format("{}", i));
    return set;
  };
  for (uint64_t volume = 1; volume <= 4; ++volume) known.learn(VolumeId{volume}, 1, names());
  EXPECT_FALSE(known.is_worth_learning(VolumeId{1}, 1));
  // One more has no room.
  known.add(VolumeId{1}, 2, "one more");
  EXPECT_TRUE(known.is_worth_learning(VolumeId{1}, 2));
  // Its place can be taken, and only that; what is learned beyond it takes the place of all others.
  known.learn(VolumeId{5}, 1, names());
  EXPECT_FALSE(known.is_worth_learning(VolumeId{2}, 1));
  known.learn(VolumeId{6}, 1, names());
  EXPECT_FALSE(known.is_worth_learning(VolumeId{6}, 1));
  for (uint64_t volume = 1; volume <= 5; ++volume)
    EXPECT_TRUE(known.is_worth_learning(VolumeId{volume}, 1)) << volume;
}

}  // namespace
}  // namespace fdbnbd::volume
