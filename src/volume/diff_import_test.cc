#include "volume/diff_import.h"

#include "async/scope.h"
#include "volume/store_fixture_testing.h"

namespace fdbnbd::volume {
namespace {

class DiffImportTest : public StoreFixture {
 protected:
  SnapshotRef ref(const std::string& volume, const std::string& snapshot) {
    const VolumeInfo disk = run(store_->info(volume)).value();
    for (const SnapshotInfo& info : disk.snapshots) {
      if (info.name == snapshot) return {snapshot, info.id};
    }
    ADD_FAILURE() << "no " << snapshot;
    return {};
  }
  DiffImport import_of(std::optional<SnapshotRef> from, std::optional<SnapshotRef> to) {
    return {.volume = "copy",
            .partial = "copy.importing",
            .from = std::move(from),
            .to = std::move(to),
            .options = {.size_bytes = 16 << 20, .block_bytes = kBlock, .compression = Compression::none}};
  }
  // Writes what the import brings.
  void gather(uint64_t block, uint8_t fill) {
    const auto partial = open_disk("copy.importing");
    write(*partial, block, fill);
  }
  Result<VolumeInfo> begin(const DiffImport& import) { return run(store_->begin_import(import)); }
  Result<VolumeInfo> finish(const DiffImport& import) {
    settle();
    return run(store_->finish_import(import));
  }
  std::vector<std::string> names() {
    std::vector<std::string> names;
    const std::vector<VolumeInfo> volumes = run(store_->list_volumes()).value();
    for (const VolumeInfo& volume : volumes) names.push_back(volume.name);
    return names;
  }

  // Whatever comes of them.
  static Task<void> end_import(Store& store, DiffImport import, int& ended_count) {
    static_cast<void>(co_await store.finish_import(std::move(import)));
    ++ended_count;
  }
  static Task<void> end_rollback(Store& store, std::string name, int& ended_count) {
    static_cast<void>(co_await store.rollback_group(std::move(name)));
    ++ended_count;
  }

  // The original, with two snapshots, and a copy of the first one.
  void make_first() {
    create("disk");
    ASSERT_TRUE(snap("disk@a"));
    ASSERT_TRUE(snap("disk@b"));
    const DiffImport first = import_of(std::nullopt, ref("disk", "a"));
    ASSERT_TRUE(begin(first));
    gather(1, 1);
    ASSERT_TRUE(finish(first));
  }
};

TEST_F(DiffImportTest, WhatWasGatheredBecomesTheVolumeAndItsSnapshot) {
  make_first();
  EXPECT_EQ(names(), (std::vector<std::string>{"copy", "disk"}));
  EXPECT_EQ(ref("copy", "a"), ref("disk", "a")) << "a copy has the id of the original";
  const DiffImport second = import_of(ref("disk", "a"), ref("disk", "b"));
  ASSERT_TRUE(begin(second));
  gather(2, 2);
  EXPECT_EQ(content(*open_disk("copy"), 2), 0) << "nothing shows before the end";
  const auto info = finish(second);
  ASSERT_TRUE(info) << info.error().what;
  EXPECT_EQ(info->used_bytes, 2 * kBlock);
  EXPECT_EQ(names(), (std::vector<std::string>{"copy", "disk"}));
  EXPECT_EQ(content(*open_disk("copy"), 1), 1);
  EXPECT_EQ(content(*open_disk("copy"), 2), 2);
  EXPECT_EQ(content(*open_disk("copy@a"), 2), 0);
  EXPECT_EQ(content(*open_disk("copy@b"), 2), 2);
  EXPECT_EQ(ref("copy", "b"), ref("disk", "b"));
  run(store_->wait_for_reclaim());
  expect_clean();
  reopen();
  EXPECT_EQ(content(*open_disk("copy@b"), 2), 2);
  expect_clean();
}

TEST_F(DiffImportTest, WithoutASnapshotTheVolumeChangesAndNoMore) {
  make_first();
  const DiffImport second = import_of(ref("disk", "a"), std::nullopt);
  ASSERT_TRUE(begin(second));
  gather(2, 2);
  ASSERT_TRUE(finish(second));
  EXPECT_EQ(content(*open_disk("copy"), 2), 2);
  EXPECT_EQ(run(store_->info("copy")).value().snapshots.size(), 1U);
  run(store_->wait_for_reclaim());
  expect_clean();
}

TEST_F(DiffImportTest, AVolumeThatHasChangedIsRefusedAtBothEnds) {
  make_first();
  const DiffImport second = import_of(ref("disk", "a"), ref("disk", "b"));
  ASSERT_TRUE(begin(second));
  gather(2, 2);
  {
    const auto disk = open_disk("copy");
    write(*disk, 7, 7);
  }
  EXPECT_EQ(finish(second).error().code, Errc::differs);
  EXPECT_EQ(content(*open_disk("copy"), 7), 7);
  EXPECT_EQ(names(), (std::vector<std::string>{"copy", "copy.importing", "disk"}));
  ASSERT_TRUE(remove("copy.importing"));
  EXPECT_EQ(begin(second).error().code, Errc::differs);
  settle();
  ASSERT_TRUE(run(store_->rollback("copy@a", false)));
  EXPECT_TRUE(begin(second));
}

TEST_F(DiffImportTest, AVolumeInUseIsBusyInTheEnd) {
  make_first();
  const DiffImport second = import_of(ref("disk", "a"), ref("disk", "b"));
  ASSERT_TRUE(begin(second));
  const auto disk = open_disk("copy");
  EXPECT_EQ(finish(second).error().code, Errc::busy);
}

TEST_F(DiffImportTest, TheVolumeStaysWithinItsQuota) {
  make_first();
  ASSERT_TRUE(run(store_->set_quota("copy", 3 * kBlock)));
  const DiffImport second = import_of(ref("disk", "a"), ref("disk", "b"));
  ASSERT_TRUE(begin(second));
  gather(2, 2);
  gather(3, 3);
  gather(4, 4);
  EXPECT_EQ(finish(second).error().code, Errc::no_space) << "it would have four blocks";
  EXPECT_EQ(run(store_->info("copy")).value().snapshots.size(), 1U);
  EXPECT_EQ(content(*open_disk("copy"), 2), 0);
  {
    // What comes first in a stream may need room that is given back later in it, but no more than that.
    const auto partial = open_disk("copy.importing");
    const std::vector<std::byte> data(kBlock, std::byte{5});
    EXPECT_EQ(run(partial->write(5 * kBlock, data, {})).error().code, Errc::no_space);
    ASSERT_TRUE(run(partial->trim(1 * kBlock, kBlock, {})));
  }
  const auto finished = finish(second);
  ASSERT_TRUE(finished) << finished.error().what;
  EXPECT_EQ(finished->used_bytes, 3 * kBlock);
  EXPECT_EQ(finished->quota_bytes, 3 * kBlock);
  expect_clean();
}

TEST_F(DiffImportTest, AVolumeAboveItsQuotaTakesWhatNeedsNoMore) {
  make_first();
  ASSERT_TRUE(run(store_->set_quota("copy", 512)));
  const DiffImport second = import_of(ref("disk", "a"), ref("disk", "b"));
  ASSERT_TRUE(begin(second));
  gather(1, 2);
  EXPECT_TRUE(finish(second));
  EXPECT_EQ(content(*open_disk("copy"), 1), 2);
}

TEST_F(DiffImportTest, OnlyWhatTheImportHasBegunWithIsTaken) {
  make_first();
  DiffImport second = import_of(ref("disk", "a"), ref("disk", "b"));
  second.partial_id = begin(second).value().id;
  ASSERT_TRUE(remove("copy.importing"));
  const DiffImport other = import_of(ref("disk", "a"), ref("disk", "b"));
  ASSERT_TRUE(begin(other));
  gather(2, 2);
  EXPECT_EQ(finish(second).error().code, Errc::conflict);
  settle();
  EXPECT_EQ(run(store_->remove("copy.importing", {.now = true, .id = second.partial_id})).error().code,
            Errc::not_found);
  EXPECT_TRUE(finish(other));
}

TEST_F(DiffImportTest, TheEndWaitsForNobodyWhoWaitsForIt) {
  make_first();
  DiffImport second = import_of(ref("disk", "a"), ref("disk", "b"));
  const uint64_t id = run(store_->info("copy")).value().id;
  // Whoever reserves several volumes does so in the order of their ids: here first the volume.
  while (second.partial_id = begin(second).value().id, second.partial_id < id)
    ASSERT_TRUE(remove("copy.importing"));
  ASSERT_TRUE(run(store_->create_group("g", {"copy", "copy.importing"})));
  ASSERT_TRUE(run(store_->snapshot_group("g@1")));
  settle();
  for (int steps_between = 0; steps_between < 100; ++steps_between) {
    int ended_count = 0;
    TaskScope scope;
    scope.spawn(end_import(*store_, second, ended_count));
    for (int i = 0; i < steps_between; ++i) loop_.step();
    scope.spawn(end_rollback(*store_, "g@1", ended_count));
    settle();
    ASSERT_EQ(ended_count, 2);
  }
}

TEST_F(DiffImportTest, OnlyTheSnapshotOfTheStreamIsItsBase) {
  make_first();
  EXPECT_EQ(begin(import_of(SnapshotRef{"a", 12345}, ref("disk", "b"))).error().code, Errc::differs);
  EXPECT_EQ(begin(import_of(SnapshotRef{"x", 12345}, ref("disk", "b"))).error().code, Errc::not_found);
  EXPECT_EQ(begin(import_of(ref("disk", "a"), SnapshotRef{"a", 1})).error().code, Errc::exists);
  EXPECT_EQ(begin(import_of(std::nullopt, ref("disk", "a"))).error().code, Errc::exists);
  DiffImport elsewhere = import_of(ref("disk", "a"), ref("disk", "b"));
  elsewhere.volume = "none";
  EXPECT_EQ(begin(elsewhere).error().code, Errc::not_found);
}

}  // namespace
}  // namespace fdbnbd::volume
