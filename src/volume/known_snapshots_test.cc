#include "volume/known_snapshots.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "base/limits.h"

namespace fdbnbd::volume {
namespace {

constexpr VolumeId kVolume{7};
constexpr LayerId kTop{10};
constexpr LayerId kNext{11};

TEST(KnownSnapshots, ANameIsLackingOnlyWhereAllAreKnown) {
  KnownSnapshots known;
  EXPECT_FALSE(known.lacks(kVolume, kTop, "a"));
  EXPECT_TRUE(known.is_worth_learning(kVolume, kTop));
  known.learn(kVolume, kTop, {"a", "b"});
  EXPECT_FALSE(known.is_worth_learning(kVolume, kTop));
  EXPECT_FALSE(known.lacks(kVolume, kTop, "a"));
  EXPECT_TRUE(known.lacks(kVolume, kTop, "c"));
  EXPECT_FALSE(known.lacks(VolumeId{8}, kTop, "c"));
}

TEST(KnownSnapshots, NothingIsKnownOnceSomebodyElseMayHaveTakenOne) {
  KnownSnapshots known;
  known.learn(kVolume, kTop, {"a"});
  EXPECT_FALSE(known.lacks(kVolume, kNext, "c"));
  EXPECT_TRUE(known.is_worth_learning(kVolume, kNext));
  known.add(kVolume, kNext, LayerId{12}, "c");  // what was taken when that became the top?
  for (const LayerId top : {kTop, kNext, LayerId{12}}) EXPECT_TRUE(known.is_worth_learning(kVolume, top));
}

TEST(KnownSnapshots, WhatIsTakenHereIsKnown) {
  KnownSnapshots known;
  known.add(kVolume, LayerId{9}, kTop, "a");  // there may be others
  EXPECT_TRUE(known.is_worth_learning(kVolume, kTop));
  known.learn(kVolume, kTop, {"a"});
  known.add(kVolume, kTop, kNext, "b");
  EXPECT_FALSE(known.lacks(kVolume, kNext, "a"));
  EXPECT_FALSE(known.lacks(kVolume, kNext, "b"));
  EXPECT_TRUE(known.lacks(kVolume, kNext, "c"));
}

TEST(KnownSnapshots, AVolumeWithTooManyIsAskedEachTime) {
  KnownSnapshots known;
  known.learn(kVolume, kTop, {"a"});
  known.give_up(kVolume);
  known.add(kVolume, kTop, kNext, "b");
  for (const LayerId top : {kTop, kNext}) {
    EXPECT_FALSE(known.is_worth_learning(kVolume, top));
    EXPECT_FALSE(known.lacks(kVolume, top, "c"));
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
  const auto is_known = [&](uint64_t volume) { return known.lacks(VolumeId{volume}, kTop, "none"); };
  for (uint64_t volume = 1; volume <= 4; ++volume) known.learn(VolumeId{volume}, kTop, names());
  EXPECT_TRUE(is_known(1));
  // One more has no room.
  known.add(VolumeId{1}, kTop, kNext, "one more");
  EXPECT_FALSE(known.lacks(VolumeId{1}, kNext, "none"));
  // Its place can be taken, and only that; what is learned beyond it takes the place of all others.
  known.learn(VolumeId{5}, kTop, names());
  EXPECT_TRUE(is_known(2));
  known.learn(VolumeId{6}, kTop, names());
  EXPECT_TRUE(is_known(6));
  for (uint64_t volume = 1; volume <= 5; ++volume) EXPECT_FALSE(is_known(volume)) << volume;
}

}  // namespace
}  // namespace fdbnbd::volume
