#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "base/limits.h"
#include "volume/hosts_testing.h"

// A snapshot may go by what a server knows from before, as long as its transaction proves it: what another
// server has changed since is never missed.

namespace fdbnbd::volume {
namespace {

class RecentReads : public HostsFixture {
 protected:
  // Host b has seen the volume and committed something since, so it reads at that version next.
  RecentReads() {
    a_.disk.reset();
    EXPECT_TRUE(b_snap("disk@first"));
  }

  Result<void> b_snap(const std::string& name) {
    return b_.loop.run(b_.store->snapshot({name}, std::nullopt));
  }
  Result<VolumeInfo> info(const std::string& name) { return a_.loop.run(a_.store->info(name)); }
  bool has_snapshot(const std::string& volume, const std::string& snapshot) {
    const Result<VolumeInfo> found = info(volume);
    EXPECT_TRUE(found);
    return found && std::ranges::any_of(found->snapshots,
                                        [&](const SnapshotInfo& one) { return one.name == snapshot; });
  }
};

TEST_F(RecentReads, ASnapshotHasTheSizeOfItsInstant) {
  ASSERT_TRUE(a_.loop.run(a_.store->resize("disk", 2 << 20, false)));
  ASSERT_TRUE(b_snap("disk@second"));
  EXPECT_EQ(info("disk@first")->size_bytes, 1u << 20);
  EXPECT_EQ(info("disk@second")->size_bytes, 2u << 20);
}

TEST_F(RecentReads, ASnapshotIsOfTheVolumeThatHasTheNameByNow) {
  ASSERT_TRUE(a_.loop.run(a_.store->rename("disk", "old")));
  ASSERT_TRUE(a_.loop.run(a_.store->create("disk", {.size_bytes = 4 << 20})));
  // What b commits now is behind the renaming, so no conflict tells it.
  ASSERT_TRUE(b_.loop.run(b_.store->create("another", {.size_bytes = 1 << 20})));
  ASSERT_TRUE(b_snap("disk@second"));
  EXPECT_TRUE(has_snapshot("disk", "second"));
  EXPECT_FALSE(has_snapshot("old", "second"));
  // A guess that is right about one and wrong about the other.
  ASSERT_TRUE(b_snap("old@third"));
  ASSERT_TRUE(a_.loop.run(a_.store->rename("disk", "new")));
  ASSERT_TRUE(a_.loop.run(a_.store->rename("old", "disk")));
  ASSERT_TRUE(a_.loop.run(a_.store->rename("new", "old")));
  ASSERT_TRUE(b_.loop.run(b_.store->snapshot({"disk@fourth", "old@fifth"}, std::nullopt)));
  EXPECT_EQ(info("disk@fourth")->size_bytes, 1u << 20);
  EXPECT_EQ(info("old@fifth")->size_bytes, 4u << 20);
}

TEST_F(RecentReads, ARefusalIsNotOfThePast) {
  EXPECT_EQ(b_snap("disk@first").error().code, Errc::exists);
  ASSERT_TRUE(b_snap("disk@second"));
  ASSERT_TRUE(a_.loop.run(a_.store->remove("disk@second", {})));
  EXPECT_TRUE(b_snap("disk@second"));
  ASSERT_TRUE(a_.loop.run(a_.store->remove("disk", {.with_snapshots = true})));
  EXPECT_EQ(b_snap("disk@third").error().code, Errc::not_found);
}

// So many at once that a server remembers what snapshots they have.
class RecentReadsOfMany : public RecentReads {
 protected:
  static constexpr int kVolumesCount = 30;

  RecentReadsOfMany() {
    for (int i = 0; i < kVolumesCount; ++i)
      EXPECT_TRUE(a_.loop.run(a_.store->create(volume(i), {.size_bytes = 1 << 20})));
    EXPECT_TRUE(snap(b_, "one"));
    EXPECT_TRUE(snap(b_, "two"));
  }

  static std::string volume(int index) { return "v" + std::to_string(index); }
  static Result<void> snap(Host& host, const std::string& snapshot) {
    std::vector<std::string> names;
    for (int i = 0; i < kVolumesCount; ++i) names.push_back(volume(i) + "@" + snapshot);
    return host.loop.run(host.store->snapshot(names, std::nullopt));
  }
  static Result<void> snap_last(Host& host, const std::string& snapshot) {
    return host.loop.run(host.store->snapshot({volume(kVolumesCount - 1) + "@" + snapshot}, std::nullopt));
  }
};

TEST_F(RecentReadsOfMany, ASnapshotThatSomebodyElseTookIsNotTakenAgain) {
  ASSERT_TRUE(snap_last(a_, "theirs"));
  EXPECT_EQ(snap(b_, "theirs").error().code, Errc::exists);
  EXPECT_FALSE(has_snapshot(volume(0), "theirs"));
  EXPECT_EQ(snap(b_, "one").error().code, Errc::exists);
  EXPECT_TRUE(snap(b_, "three"));
  EXPECT_EQ(info(volume(3))->snapshots.size(), 3u);
  EXPECT_EQ(info(volume(kVolumesCount - 1))->snapshots.size(), 4u);
}

TEST_F(RecentReadsOfMany, ANameThatSomebodyElseGaveUpIsFree) {
  for (int i = 0; i < kVolumesCount; ++i)
    ASSERT_TRUE(a_.loop.run(a_.store->remove(volume(i) + "@two", {}))) << i;
  EXPECT_TRUE(snap(b_, "two"));
  EXPECT_EQ(snap(b_, "two").error().code, Errc::exists);
}

TEST_F(RecentReadsOfMany, OneWithMoreSnapshotsThanAreRememberedIsAskedForEach) {
  for (uint32_t i = 0; i <= limits::kMaxSnapshotsToLearn; ++i)
    ASSERT_TRUE(snap_last(a_, "s" + std::to_string(i)));
  ASSERT_TRUE(snap_last(a_, "t"));
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(snap(b_, "s1").error().code, Errc::exists);
    EXPECT_EQ(snap(b_, "t").error().code, Errc::exists);
  }
  EXPECT_TRUE(snap(b_, "four"));
}

TEST_F(RecentReadsOfMany, EachIsOfTheSizeThatItHasByNow) {
  for (int i = 0; i < kVolumesCount; i += 7)
    ASSERT_TRUE(a_.loop.run(a_.store->resize(volume(i), 2 << 20, false)));
  ASSERT_TRUE(snap(b_, "three"));
  for (int i = 0; i < kVolumesCount; ++i)
    EXPECT_EQ(info(volume(i) + "@three")->size_bytes, (i % 7 == 0 ? 2u : 1u) << 20) << i;
}

}  // namespace
}  // namespace fdbnbd::volume
