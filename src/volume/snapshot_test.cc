#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "async/scope.h"
#include "volume/store_fixture_testing.h"

namespace fdbnbd::volume {
namespace {

class SnapshotTest : public StoreFixture {};

TEST_F(SnapshotTest, ASnapshotStaysAsItWasWhileTheVolumeGoesOn) {
  create("disk");
  const auto disk = open_disk("disk");
  write(*disk, 0, 1, 8);
  ASSERT_TRUE(snap("disk@a"));
  write(*disk, 1, 2);
  write(*disk, 2, 0);
  ASSERT_TRUE(run(disk->trim(3 * kBlock, kBlock, {})));
  ASSERT_TRUE(
      run(disk->write_zeroes(4 * kBlock, kBlock, {.fua = false, .no_hole = true, .fast_only = false})));
  ASSERT_TRUE(run(disk->write(5 * kBlock + 100, std::vector<std::byte>(10, std::byte{9}), {})));
  write(*disk, 100, 7);
  const auto snapshot = open_disk("disk@a");
  EXPECT_TRUE(snapshot->info().read_only);
  for (uint64_t block = 0; block < 8; ++block) EXPECT_EQ(content(*snapshot, block), 1) << block;
  EXPECT_EQ(content(*snapshot, 100), 0);
  EXPECT_EQ(content(*disk, 0), 1);
  EXPECT_EQ(content(*disk, 1), 2);
  EXPECT_EQ(content(*disk, 2), 0);
  EXPECT_EQ(content(*disk, 3), 0);
  EXPECT_EQ(content(*disk, 4), 0);
  EXPECT_EQ(content(*disk, 5), -2) << "the part that was written and the part that was not";
  EXPECT_EQ(content(*disk, 100), 7);
  const auto status = run(disk->block_status(0, 8 * kBlock, 10)).value();
  EXPECT_EQ(status, (std::vector<block::StatusExtent>{{2 * kBlock, false, false},
                                                      {2 * kBlock, true, true},
                                                      {kBlock, false, true},
                                                      {3 * kBlock, false, false}}));
  EXPECT_EQ(run(store_->info("disk")).value().used_bytes, 6U * kBlock);
  EXPECT_EQ(run(store_->info("disk@a")).value().used_bytes, 8U * kBlock);
  EXPECT_EQ(run(snapshot->write(0, std::vector<std::byte>(1), {})).error().code, Errc::read_only);
  EXPECT_EQ(run(snapshot->trim(0, 1, {})).error().code, Errc::read_only);
  expect_clean();
}

TEST_F(SnapshotTest, EachVolumeThatNobodyHasOpenKeepsItsOwnUsage) {
  const std::vector<std::string> names = {"a", "b", "c", "d"};
  std::vector<std::shared_ptr<block::Export>> disks;
  for (uint64_t i = 0; i < names.size(); ++i) {
    create(names[i]);
    disks.push_back(open_disk(names[i]));
    write(*disks[i], 0, 1, i + 1);
  }
  disks[1].reset();
  disks[3].reset();
  settle();
  ASSERT_TRUE(run(store_->snapshot({"a@s", "b@s", "c@s", "d@s"}, {})));
  const auto transaction = engine_->begin(loop_);
  const auto usages = run(transaction->get_range({"U", "V"}, {}, kv::Isolation::snapshot)).value().rows;
  EXPECT_EQ(usages.size(), 4U) << "of b and d, and of their snapshots";
  for (uint64_t i = 0; i < names.size(); ++i) {
    SCOPED_TRACE(names[i]);
    EXPECT_EQ(run(store_->info(names[i])).value().used_bytes, (i + 1) * kBlock);
    EXPECT_EQ(run(store_->info(names[i] + "@s")).value().used_bytes, (i + 1) * kBlock);
  }
  expect_clean();
}

TEST_F(SnapshotTest, VolumesAndSnapshotsTellTheTimeThatTheyWereGiven) {
  const WallTime first = WallTime(std::chrono::seconds(1'500'000'000));
  const WallTime second = WallTime(std::chrono::seconds(1'600'000'000));
  ASSERT_TRUE(run(store_->create("disk", {.size_bytes = 4 * kBlock, .created = first})));
  ASSERT_TRUE(run(store_->snapshot({"disk@a"}, second)));
  reopen();
  const auto info = run(store_->info("disk")).value();
  EXPECT_EQ(info.created, first);
  ASSERT_EQ(info.snapshots.size(), 1U);
  EXPECT_EQ(info.snapshots[0].created, second);
}

TEST_F(SnapshotTest, AVolumeIsRemovedAlsoWhileBackgroundWorkIsAboutToOpenIt) {
  // Its last client leaves that many steps of the loop after the work began.
  for (int steps = 0; steps < 100; ++steps) {
    create("disk");
    auto disk = open_disk("disk");
    write(*disk, 0, 1, 64);
    ASSERT_TRUE(snap("disk@a"));
    write(*disk, 1, 2);
    ASSERT_TRUE(snap("disk@b"));
    ASSERT_TRUE(remove("disk@b"));
    ASSERT_TRUE(remove("disk@a"));
    for (int step = 0; step < steps; ++step) loop_.step();
    disk.reset();
    while (run(store_->info("disk")).value().sessions_count > 0) loop_.step();
    const auto removed = remove("disk");
    ASSERT_TRUE(removed) << steps << ": " << removed.error().what;
  }
}

TEST_F(SnapshotTest, SnapshotsAreListedAndOutliveARestart) {
  create("disk");
  {
    const auto disk = open_disk("disk");
    write(*disk, 0, 1);
    ASSERT_TRUE(snap("disk@z first"));
    write(*disk, 0, 2);
    ASSERT_TRUE(snap("disk@a second"));
    write(*disk, 0, 3);
  }
  settle();
  EXPECT_EQ(snap("disk@a second").error().code, Errc::exists);
  EXPECT_EQ(snap("disk").error().code, Errc::invalid);
  EXPECT_EQ(snap("disk@").error().code, Errc::invalid);
  EXPECT_EQ(snap("none@a").error().code, Errc::not_found);
  EXPECT_EQ(run(store_->snapshot({"disk@b", "disk@c"}, {})).error().code, Errc::invalid);
  reopen();
  const auto info = run(store_->info("disk")).value();
  ASSERT_EQ(info.snapshots.size(), 2U);
  EXPECT_EQ(info.snapshots[0].name, "z first");
  EXPECT_EQ(info.snapshots[1].name, "a second");
  EXPECT_EQ(run(store_->list_volumes()).value()[0].snapshots.size(), 2U);
  std::vector<std::string> names;
  const auto listings = run(store_->list(loop_)).value();
  for (const auto& listing : listings) names.push_back(listing.name);
  EXPECT_EQ(names, (std::vector<std::string>{"disk", "disk@z first", "disk@a second"}));
  EXPECT_TRUE(run(store_->describe(loop_, "disk@z first")).value().read_only);
  EXPECT_EQ(run(store_->open(loop_, "disk@none")).error().code, Errc::not_found);
  EXPECT_EQ(content(*open_disk("disk@z first"), 0), 1);
  EXPECT_EQ(content(*open_disk("disk@a second"), 0), 2);
  EXPECT_EQ(content(*open_disk("disk"), 0), 3);
  settle();
  EXPECT_EQ(run(store_->open(loop_, "")).value()->info().name, "disk") << "the only volume";
  settle();
}

Task<void> count_round_robin(std::vector<std::shared_ptr<block::Export>> disks, uint64_t& acknowledged,
                             const bool& stop) {
  std::vector<std::byte> bytes(kBlock);
  for (uint64_t count = 1; !stop; ++count) {
    std::memcpy(bytes.data(), &count, sizeof count);
    if (!co_await disks[count % disks.size()]->write(0, bytes, {})) break;
    acknowledged = count;
  }
}

// Other writes keep several batches of each volume in flight.
Task<void> write_beside(std::shared_ptr<block::Export> disk, uint64_t first_block, const bool& stop) {
  for (uint64_t i = 0; !stop; ++i) {
    const std::vector<std::byte> bytes(kBlock * (1 + i % 20), std::byte{5});
    if (!co_await disk->write((first_block + i % 50) * kBlock, bytes, {})) break;
  }
}

Task<void> take_snapshots(Store& store, SimLoop& loop, size_t volumes_count, int snapshots_count,
                          const uint64_t& acknowledged, std::vector<std::pair<uint64_t, uint64_t>>& bounds,
                          bool& stop) {
  Random random(7);
  for (int i = 0; i < snapshots_count; ++i) {
    co_await sleep_for(loop, std::chrono::microseconds(random.below(3000)));
    std::vector<std::string> names;
    for (size_t volume = 0; volume < volumes_count; ++volume)
      names.push_back(fmt::format("v{}@s{}", volume, i));
    const uint64_t before = acknowledged;
    EXPECT_TRUE((co_await store.snapshot(names, {})).has_value());
    bounds.emplace_back(before, acknowledged + 1);
  }
  stop = true;
}

TEST_F(SnapshotTest, ASnapshotOfManyVolumesIsAPrefixOfWhatWasWritten) {
  constexpr size_t kVolumes = 8;
  constexpr int kSnapshots = 60;
  engine_->faults().set_latency(std::chrono::microseconds(1), std::chrono::microseconds(500));
  std::vector<std::shared_ptr<block::Export>> disks;
  for (size_t i = 0; i < kVolumes; ++i) {
    create(fmt::format("v{}", i));
    disks.push_back(open_disk(fmt::format("v{}", i)));
  }
  uint64_t acknowledged = 0;
  bool stop = false;
  std::vector<std::pair<uint64_t, uint64_t>> bounds;
  TaskScope scope;
  scope.spawn(count_round_robin(disks, acknowledged, stop));
  for (const auto& disk : disks) {
    scope.spawn(write_beside(disk, 100, stop));
    scope.spawn(write_beside(disk, 1100, stop));
  }
  run(take_snapshots(*store_, loop_, kVolumes, kSnapshots, acknowledged, bounds, stop));
  settle();
  EXPECT_GT(acknowledged, 200U);
  for (int i = 0; i < kSnapshots; ++i) {
    std::vector<uint64_t> counts;
    for (size_t volume = 0; volume < kVolumes; ++volume) {
      const auto snapshot = open_disk(fmt::format("v{}@s{}", volume, i));
      std::vector<std::byte> bytes(kBlock);
      const auto segments = run(snapshot->read(0, bytes)).value();
      uint64_t count = 0;
      if (!segments.front().is_hole) std::memcpy(&count, bytes.data(), sizeof count);
      counts.push_back(count);
    }
    const uint64_t last = *std::ranges::max_element(counts);
    EXPECT_GE(last, bounds[static_cast<size_t>(i)].first) << "something answered before is missing";
    EXPECT_LE(last, bounds[static_cast<size_t>(i)].second);
    for (uint64_t volume = 0; volume < kVolumes; ++volume) {
      // The last count of this volume up to the newest one of all.
      const uint64_t expected = last < volume ? 0 : last - (last + kVolumes - volume) % kVolumes;
      EXPECT_EQ(counts[volume], expected) << "snapshot " << i << ", volume " << volume << ", last " << last;
    }
  }
  expect_clean();
}

TEST_F(SnapshotTest, AClonesWritesAreItsOwnAndItDoesNotNeedTheOriginal) {
  create("disk");
  {
    const auto disk = open_disk("disk");
    write(*disk, 0, 1, 4);
    ASSERT_TRUE(snap("disk@a"));
    write(*disk, 0, 2);
  }
  ASSERT_TRUE(run(store_->clone("disk@a", "copy")));
  EXPECT_EQ(run(store_->clone("disk@a", "copy")).error().code, Errc::exists);
  EXPECT_EQ(run(store_->clone("disk@b", "copy2")).error().code, Errc::not_found);
  EXPECT_EQ(run(store_->info("copy")).value().used_bytes, 4U * kBlock);
  const auto copy = open_disk("copy");
  write(*copy, 1, 3);
  EXPECT_EQ(content(*copy, 0), 1);
  EXPECT_EQ(content(*copy, 1), 3);
  EXPECT_EQ(content(*open_disk("disk@a"), 1), 1);
  settle();
  EXPECT_EQ(remove("disk").error().code, Errc::busy);
  ASSERT_TRUE(remove("disk", true));
  run(store_->wait_for_reclaim());
  EXPECT_EQ(content(*copy, 0), 1);
  EXPECT_EQ(content(*copy, 1), 3);
  EXPECT_EQ(content(*copy, 3), 1);
  EXPECT_EQ(stored_blocks_count(), 4U) << "the layers below have been merged into the clone";
  expect_clean();
}

TEST_F(SnapshotTest, RollbackBringsContentsAndSizeBack) {
  create("disk", 1 << 20);
  {
    const auto disk = open_disk("disk");
    write(*disk, 0, 1, 10);
    ASSERT_TRUE(snap("disk@a"));
    write(*disk, 0, 2);
    ASSERT_TRUE(snap("disk@b"));
    write(*disk, 0, 3);
    EXPECT_EQ(run(store_->rollback("disk@a", false)).error().code, Errc::busy);
  }
  settle();
  ASSERT_TRUE(run(store_->resize("disk", 8 * kBlock, true)));
  const auto rolled = run(store_->rollback("disk@a", false));
  ASSERT_TRUE(rolled);
  EXPECT_EQ(rolled->size_bytes, 1U << 20);
  EXPECT_EQ(rolled->used_bytes, 10U * kBlock);
  const auto disk = open_disk("disk");
  EXPECT_EQ(content(*disk, 0), 1);
  EXPECT_EQ(content(*disk, 9), 1);
  EXPECT_EQ(content(*open_disk("disk@b"), 0), 2) << "newer snapshots stay";
  write(*disk, 0, 4);
  EXPECT_EQ(content(*open_disk("disk@a"), 0), 1);
  run(store_->wait_for_reclaim());
  EXPECT_EQ(stored_blocks_count(), 12U);
  expect_clean();
}

TEST_F(SnapshotTest, TheSpaceOfARemovedSnapshotComesBackToTheBlock) {
  create("disk");
  const auto disk = open_disk("disk");
  for (uint8_t i = 0; i < 6; ++i) {
    write(*disk, 0, static_cast<uint8_t>(10 + i), 2000);  // hides what was
    write(*disk, 2000 + 100 * i, static_cast<uint8_t>(10 + i), 100);
    ASSERT_TRUE(run(disk->trim((3000 + i) * kBlock, kBlock, {})));
    ASSERT_TRUE(snap(fmt::format("disk@s{}", i)));
  }
  EXPECT_EQ(stored_blocks_count(), 6U * 2100);
  const auto newest = open_disk("disk@s5");
  const auto oldest = open_disk("disk@s0");
  const auto above = open_disk("disk@s3");
  EXPECT_EQ(content(*newest, 2150), 11) << "looked up before it moves";
  EXPECT_EQ(content(*above, 2250), 12);
  ASSERT_TRUE(remove("disk@s2"));
  ASSERT_TRUE(remove("disk@s1"));
  EXPECT_EQ(remove("disk@s5").error().code, Errc::busy);
  run(store_->wait_for_reclaim());
  EXPECT_EQ(stored_blocks_count(), 4U * 2000 + 600);
  EXPECT_EQ(content(*newest, 2150), 11);
  EXPECT_EQ(content(*newest, 2250), 12);
  EXPECT_EQ(content(*above, 2250), 12) << "it has moved into this one";
  EXPECT_EQ(content(*newest, 0), 15);
  EXPECT_EQ(content(*oldest, 0), 10);
  EXPECT_EQ(content(*oldest, 2150), 0);
  EXPECT_EQ(content(*open_disk("disk@s3"), 2150), 11);
  EXPECT_EQ(content(*open_disk("disk@s3"), 0), 13);
  expect_clean();
}

TEST_F(SnapshotTest, TheNewestSnapshotIsMergedIntoTheVolumeInUse) {
  create("disk");
  const auto disk = open_disk("disk");
  write(*disk, 0, 1, 1500);
  ASSERT_TRUE(snap("disk@a"));
  write(*disk, 0, 2, 100);
  ASSERT_TRUE(run(disk->trim(200 * kBlock, 10 * kBlock, {})));
  ASSERT_TRUE(remove("disk@a"));
  for (int i = 0; i < 200; ++i) write(*disk, static_cast<uint64_t>(300 + i), 3);
  run(store_->wait_for_reclaim());
  EXPECT_EQ(stored_blocks_count(), 1490U);
  EXPECT_EQ(content(*disk, 99), 2);
  EXPECT_EQ(content(*disk, 100), 1);
  EXPECT_EQ(content(*disk, 200), 0);
  EXPECT_EQ(content(*disk, 300), 3);
  EXPECT_EQ(content(*disk, 1499), 1);
  expect_clean();
  ASSERT_TRUE(run(disk->trim(0, 16 << 20, {})));
  EXPECT_EQ(stored_blocks_count(), 0U);
  expect_clean();
}

TEST_F(SnapshotTest, MergingGoesOnAfterARestart) {
  create("disk");
  {
    const auto disk = open_disk("disk");
    write(*disk, 0, 1, 3000);
    ASSERT_TRUE(snap("disk@a"));
    write(*disk, 0, 2, 10);
    ASSERT_TRUE(snap("disk@b"));
  }
  settle();
  ASSERT_TRUE(remove("disk@a"));
  engine_->crash({});
  reopen();
  run(store_->wait_for_reclaim());
  EXPECT_EQ(stored_blocks_count(), 3000U);
  EXPECT_EQ(content(*open_disk("disk"), 9), 2);
  EXPECT_EQ(content(*open_disk("disk@b"), 2999), 1);
  expect_clean();
}

TEST_F(SnapshotTest, ALayerThatSeveralNeedStaysUntilOneIsLeft) {
  create("disk");
  {
    const auto disk = open_disk("disk");
    write(*disk, 0, 1, 10);
  }
  ASSERT_TRUE(snap("disk@a"));
  ASSERT_TRUE(run(store_->clone("disk@a", "one")));
  ASSERT_TRUE(run(store_->clone("disk@a", "two")));
  ASSERT_TRUE(remove("disk@a"));
  run(store_->wait_for_reclaim());
  EXPECT_EQ(stored_blocks_count(), 10U);
  expect_clean();
  ASSERT_TRUE(remove("one"));
  run(store_->wait_for_reclaim());
  ASSERT_TRUE(remove("disk"));
  run(store_->wait_for_reclaim());
  EXPECT_EQ(stored_blocks_count(), 10U);
  EXPECT_EQ(content(*open_disk("two"), 5), 1);
  settle();
  auto transaction = engine_->begin(loop_);
  EXPECT_EQ(run(transaction->get_range({"L", "M"}, {}, kv::Isolation::snapshot)).value().rows.size(), 1U);
  expect_clean();
  ASSERT_TRUE(remove("two"));
  run(store_->wait_for_reclaim());
  auto rest = engine_->begin(loop_);
  EXPECT_EQ(run(rest->get_range({std::string_view("\0", 1), "\xff"}, {}, kv::Isolation::snapshot))
                .value()
                .rows.size(),
            1U)
      << "nothing but the store's header";
}

TEST_F(SnapshotTest, AFlattenedCloneStandsAlone) {
  create("disk");
  {
    const auto disk = open_disk("disk");
    write(*disk, 0, 1, 1500);
    write(*disk, 2000, 1, 10);
  }
  ASSERT_TRUE(snap("disk@a"));
  ASSERT_TRUE(run(store_->clone("disk@a", "copy")));
  const auto copy = open_disk("copy");
  write(*copy, 5, 2);
  ASSERT_TRUE(run(copy->trim(6 * kBlock, kBlock, {})));
  ASSERT_TRUE(run(store_->flatten("copy", nullptr)));
  settle();
  EXPECT_EQ(stored_blocks_count(), 1510U + 1509U);
  expect_clean();
  // A block that goes now must not come back from the former parent.
  ASSERT_TRUE(run(copy->trim(7 * kBlock, kBlock, {})));
  ASSERT_TRUE(remove("disk", true));
  run(store_->wait_for_reclaim());
  EXPECT_EQ(stored_blocks_count(), 1508U);
  EXPECT_EQ(content(*copy, 4), 1);
  EXPECT_EQ(content(*copy, 5), 2);
  EXPECT_EQ(content(*copy, 6), 0);
  EXPECT_EQ(content(*copy, 7), 0);
  EXPECT_EQ(content(*copy, 2009), 1);
  expect_clean();
}

TEST_F(SnapshotTest, ACopySharesNothingAndLeavesNoSnapshotBehind) {
  create("disk");
  const auto disk = open_disk("disk");
  write(*disk, 0, 1, 20);
  ASSERT_TRUE(run(store_->copy("disk", "copy", nullptr)));
  EXPECT_EQ(run(store_->copy("disk", "copy", nullptr)).error().code, Errc::exists);
  run(store_->wait_for_reclaim());
  EXPECT_TRUE(run(store_->info("disk")).value().snapshots.empty());
  EXPECT_EQ(stored_blocks_count(), 40U);
  write(*disk, 0, 2, 20);
  EXPECT_EQ(content(*open_disk("copy"), 7), 1);
  expect_clean();
}

TEST_F(SnapshotTest, ABlockThatIsMissingInASnapshotIsCorruption) {
  create("disk");
  const auto disk = open_disk("disk");
  write(*disk, 0, 1, 4);
  ASSERT_TRUE(snap("disk@a"));
  auto transaction = engine_->begin(loop_);
  const auto rows = run(transaction->get_range({"D", "E"}, {}, kv::Isolation::snapshot)).value().rows;
  transaction->clear(rows[2].key);
  ASSERT_TRUE(run(transaction->commit()));
  EXPECT_EQ(content(*open_disk("disk@a"), 2), -1);
  EXPECT_EQ(content(*disk, 2), -1);
  EXPECT_EQ(content(*disk, 1), 1);
  const auto report = run(store_->check(std::nullopt, nullptr)).value();
  ASSERT_EQ(report.findings_count, 1U) << report.findings[0].what;
  EXPECT_EQ(report.findings[0].volume, "disk@a");
  EXPECT_EQ(run(store_->check("disk", nullptr)).value().findings_count, 1U);
}

TEST_F(SnapshotTest, RollbackCanEndTheSessionsOfAVolume) {
  create("disk");
  const auto before = open_disk("disk");
  write(*before, 0, 1);
  ASSERT_TRUE(snap("disk@a"));
  write(*before, 0, 2);
  EXPECT_EQ(run(store_->rollback("disk@none", true)).error().code, Errc::not_found);
  EXPECT_EQ(content(*before, 0), 2) << "nobody is disconnected for what is not there";
  ASSERT_TRUE(run(store_->rollback("disk@a", true)));
  std::vector<std::byte> bytes(kBlock);
  EXPECT_EQ(run(before->read(0, bytes)).error().code, Errc::cancelled);
  EXPECT_EQ(run(before->write(0, bytes, {})).error().code, Errc::cancelled);
  EXPECT_EQ(run(before->flush()).error().code, Errc::cancelled);
  EXPECT_EQ(run(before->block_status(0, kBlock, 1)).error().code, Errc::cancelled);
  const auto after = open_disk("disk");
  EXPECT_EQ(content(*after, 0), 1);
  write(*after, 0, 3);
  EXPECT_EQ(content(*after, 0), 3);
  expect_clean();
}

Task<void> roll_back(Store& store, std::optional<Result<VolumeInfo>>& result) {
  result = co_await store.rollback("disk@a", true);
}
Task<void> write_one(block::Export& disk, std::vector<std::byte> data, std::optional<Result<void>>& result) {
  result = co_await disk.write(0, data, {});
}

// What sanitizers see: the volume stays while it is let go.
TEST_F(SnapshotTest, SessionsMayEndWhileTheirVolumeIsTakenFromThem) {
  for (uint64_t steps_count = 0; steps_count < 60; ++steps_count) {
    create("disk");
    auto disk = open_disk("disk");
    write(*disk, 0, 1);
    ASSERT_TRUE(snap("disk@a"));
    std::optional<Result<void>> written;
    std::optional<Result<VolumeInfo>> rolled;
    TaskScope scope;
    scope.spawn(write_one(*disk, std::vector<std::byte>(kBlock, std::byte{2}), written));
    scope.spawn(roll_back(*store_, rolled));
    while (!written) loop_.step();
    engine_->faults().fail_next_commits(kv::CommitFault::unavailable);  // letting it go takes a while
    for (uint64_t i = 0; i < steps_count; ++i) loop_.step();
    disk.reset();
    settle();
    ASSERT_TRUE(rolled && *rolled) << steps_count;
    EXPECT_TRUE(*written);
    EXPECT_EQ(content(*open_disk("disk"), 0), 1);
    settle();
    ASSERT_TRUE(remove("disk", true));
    run(store_->wait_for_reclaim());
  }
}

// Takes a snapshot as soon as some of the work is done, again and again.
class SnapshotsMeanwhile final : public Progress {
 public:
  SnapshotsMeanwhile(Store& store, std::string volume, int snapshots_count)
      : store_(store), volume_(std::move(volume)), left_(snapshots_count) {}
  void on_progress(uint64_t done_bytes, uint64_t /*total_bytes*/) override {
    if (done_bytes == 0 || left_ == 0) return;
    scope_.spawn(take(volume_ + "@meanwhile" + std::to_string(left_--)));
  }
  bool cancelled() const override { return false; }
  Task<void> join() { co_await scope_.join(); }
  int left() const { return left_; }

 private:
  Task<void> take(std::string name) {
    std::vector<std::string> names;
    names.push_back(std::move(name));
    EXPECT_TRUE(co_await store_.snapshot(std::move(names), {}));
  }

  Store& store_;
  const std::string volume_;
  int left_;
  TaskScope scope_;
};

TEST_F(SnapshotTest, FlatteningGoesOnWhenSnapshotsAreTakenMeanwhile) {
  create("disk", 64 << 20);
  {
    const auto disk = open_disk("disk");
    for (uint64_t extent = 0; extent < 12; ++extent) write(*disk, extent * 1024, 1, 2);
  }
  settle();
  ASSERT_TRUE(snap("disk@a"));
  ASSERT_TRUE(run(store_->clone("disk@a", "clone")));
  SnapshotsMeanwhile snapshots(*store_, "clone", 3);
  const auto flattened = run(store_->flatten("clone", &snapshots));
  ASSERT_TRUE(flattened) << flattened.error().what;
  run(snapshots.join());
  EXPECT_EQ(snapshots.left(), 0);
  settle();
  const auto clone = open_disk("clone");
  for (uint64_t extent = 0; extent < 12; ++extent) EXPECT_EQ(content(*clone, extent * 1024 + 1), 1);
  EXPECT_EQ(run(store_->info("clone")).value().snapshots.size(), 3U);
  expect_clean();
}

TEST_F(SnapshotTest, WorkThatTheStoreRefusesGoesOnLater) {
  create("disk");
  {
    const auto disk = open_disk("disk");
    write(*disk, 0, 1, 10);
    ASSERT_TRUE(snap("disk@a"));
    write(*disk, 0, 2, 5);
  }
  settle();
  store_->stop_opening();  // and with it background work
  ASSERT_TRUE(run(store_->remove("disk@a", {})));
  close();
  open_engine();
  // More refusals than one transaction tries.
  engine_->faults().fail_next_commits(kv::CommitFault::unavailable, 3 * limits::kMaxTransactionAttempts);
  start_store();
  EXPECT_EQ(layers_count(), 2U);
  settle();
  EXPECT_EQ(layers_count(), 1U);
  expect_clean();
}

// What a verb has done when it says so outlives a power loss that takes all that was not synced.
class DurableVerbsTest : public SnapshotTest {
 protected:
  DurableVerbsTest() {
    close();
    open_engine(/*can_lose_power=*/true);
    start_store();
  }

  void lose_power() {
    engine_->crash({.power_loss = true, .unsynced_commits_kept = 0});
    close();
    open_engine(/*can_lose_power=*/true);
    start_store();
  }
};

TEST_F(DurableVerbsTest, WhatAVerbHasDoneOutlivesAPowerLoss) {
  create("disk", 1 << 20);
  lose_power();
  ASSERT_TRUE(run(store_->info("disk")));
  ASSERT_TRUE(run(store_->resize("disk", 2 << 20, false)));
  lose_power();
  EXPECT_EQ(run(store_->info("disk")).value().size_bytes, 2U << 20);
  ASSERT_TRUE(run(store_->rename("disk", "other")));
  lose_power();
  ASSERT_TRUE(run(store_->info("other")));
  {
    const auto disk = open_disk("other");
    write(*disk, 0, 1);
    ASSERT_TRUE(run(disk->flush()));
  }
  ASSERT_TRUE(snap("other@a"));
  lose_power();
  ASSERT_TRUE(run(store_->info("other@a")));
  ASSERT_TRUE(run(store_->clone("other@a", "clone")));
  lose_power();
  EXPECT_EQ(content(*open_disk("clone"), 0), 1);
  settle();
  ASSERT_TRUE(run(store_->flatten("clone", nullptr)));
  lose_power();
  ASSERT_TRUE(run(store_->copy("other", "copy", nullptr)));
  lose_power();
  EXPECT_EQ(content(*open_disk("copy"), 0), 1);
  settle();
  ASSERT_TRUE(remove("other@a"));
  lose_power();
  EXPECT_EQ(run(store_->info("other@a")).error().code, Errc::not_found);
  ASSERT_TRUE(remove("other"));
  lose_power();
  EXPECT_EQ(run(store_->info("other")).error().code, Errc::not_found);
  EXPECT_EQ(content(*open_disk("clone"), 0), 1);
  expect_clean();
}

}  // namespace
}  // namespace fdbnbd::volume
