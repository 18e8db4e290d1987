#include <gtest/gtest.h>

#include "async/scope.h"
#include "volume/hosts_testing.h"
#include "volume/interposed_engine_testing.h"
#include "volume/keys.h"
#include "volume/store_fixture_testing.h"

namespace fdbnbd::volume {
namespace {

class ResizeTest : public StoreFixture {
 protected:
  Result<void> resize(uint64_t size_bytes, bool allow_shrink = true, const std::string& name = "disk") {
    const auto resized = run(store_->resize(name, size_bytes, allow_shrink));
    if (!resized) return tl::unexpected(resized.error());
    return {};
  }
  std::string block_key(uint64_t block) {
    const auto transaction = engine_->begin(loop_);
    const auto rows = run(transaction->get_range({"D", "E"}, {}, kv::Isolation::snapshot)).value().rows;
    for (const auto& row : rows) {
      if (KeySpace::block_of(row.key) == block) return row.key;
    }
    return {};
  }
  static Task<void> resize_task(Store& store, uint64_t size_bytes, bool allow_shrink,
                                std::optional<Result<VolumeInfo>>& result) {
    result = co_await store.resize("disk", size_bytes, allow_shrink);
  }
  static Task<void> at_once() { co_return; }
  // Bytes of the disk.
  std::vector<std::byte> bytes_of(block::Export& disk, uint64_t offset_bytes, uint64_t length_bytes) {
    std::vector<std::byte> bytes(length_bytes);
    const auto segments = run(disk.read(offset_bytes, bytes));
    EXPECT_TRUE(segments);
    size_t at = 0;
    for (const auto& segment : segments.value()) {
      if (segment.is_hole)
        std::fill_n(bytes.begin() + static_cast<ptrdiff_t>(at), segment.length_bytes, std::byte{0});
      at += segment.length_bytes;
    }
    return bytes;
  }
  // 512 bytes of block 2 are left, and everything behind them reads as zeroes.
  void expect_cut_clean(const std::string& name) {
    ASSERT_TRUE(resize(kOldSize, false, name));
    const auto disk = open_disk(name);
    EXPECT_EQ(content(*disk, 1), 1);
    EXPECT_EQ(bytes_of(*disk, kCut - 512, 512), std::vector<std::byte>(512, std::byte{1}));
    EXPECT_EQ(bytes_of(*disk, kCut, kOldSize - kCut), std::vector<std::byte>(kOldSize - kCut));
  }
  // A shrink whose clearing fails at the block that the new end lies in.
  void shrink_without_clearing(block::Export& disk) {
    write(disk, 0, 1, 4);
    write(disk, 1024, 1, 4);
    write(disk, 2047, 1);
    edge_key_ = block_key(2);
    engine_->faults().set_unreadable(edge_key_, true);
    ASSERT_TRUE(resize(kCut)) << "the volume is smaller in any case";
    engine_->faults().set_unreadable(edge_key_, false);
    EXPECT_EQ(stored_blocks_count(), 9U);
  }

  std::string edge_key_;
  static constexpr uint64_t kOldSize = 8 << 20;
  static constexpr uint64_t kCut = 2 * kBlock + 512;
};

TEST_F(ResizeTest, AShrinkIsWholeOrNotAtAllWhereverTheProcessEnds) {
  constexpr uint64_t kNewSize = 3 * kBlock;
  bool was_shrunk = false;
  bool was_finished = false;
  for (uint64_t steps_count = 0; !was_finished; ++steps_count) {
    create("disk", kOldSize);
    auto disk = open_disk("disk");
    for (uint64_t block = 0; block < 2048; block += 64) write(*disk, block, 1, 4);
    std::optional<Result<VolumeInfo>> resized;
    TaskScope scope;
    scope.spawn(resize_task(*store_, kNewSize, true, resized));
    for (uint64_t i = 0; i < steps_count; ++i) loop_.step();
    was_finished = resized.has_value();
    engine_->crash({});
    disk.reset();
    settle();
    close();
    open();
    disk = open_disk("disk");
    if (disk->size_bytes() == kOldSize) {
      EXPECT_FALSE(was_shrunk);
      for (uint64_t block = 0; block < 2048; block += 64) ASSERT_EQ(content(*disk, block), 1) << steps_count;
    } else {
      was_shrunk = true;
      ASSERT_EQ(disk->size_bytes(), kNewSize);
      EXPECT_EQ(content(*disk, 2), 1);
      // Whether the opener has come to it or not.
      ASSERT_TRUE(resize(kOldSize));
      for (uint64_t block = 3; block < 2048; ++block) ASSERT_EQ(content(*disk, block), 0) << steps_count;
    }
    expect_clean();
    disk.reset();
    settle();
    ASSERT_TRUE(remove("disk"));
    run(store_->wait_for_reclaim());
  }
  EXPECT_TRUE(was_shrunk);
}

TEST_F(ResizeTest, AShrinkThatMayHaveHappenedIsNotTakenForOneThatHasNot) {
  create("disk", kOldSize);
  const std::string record_key = KeySpace("").volume(VolumeId{run(store_->info("disk")).value().id});
  run(store_->close());
  InterposedEngine interposed(*engine_);
  Store::Options options;
  options.volume_executors = {&loop_};
  store_ = run(open_store(interposed, loop_, options)).value();
  auto disk = open_disk("disk");
  write(*disk, 1024, 1);
  // It happens, nobody hears of that, and the store cannot tell any more.
  interposed.at_next_commit_of('I', InterposedEngine::Outcome::unknown_applied, [&]() -> Task<void> {
    engine_->faults().set_unreadable(record_key, true);
    return at_once();
  });
  EXPECT_FALSE(resize(3 * kBlock));
  ASSERT_TRUE(interposed.has_happened());
  engine_->faults().set_unreadable(record_key, false);
  // An answer would be a promise that whoever opens the volume next breaks.
  EXPECT_FALSE(run(disk->write(1025 * kBlock, std::vector<std::byte>(kBlock, std::byte{2}), {})));
  disk.reset();
  settle();
  EXPECT_EQ(open_disk("disk")->size_bytes(), 3 * kBlock);
  ASSERT_TRUE(resize(kOldSize));
  EXPECT_EQ(content(*open_disk("disk"), 1024), 0);
  expect_clean();
  run(store_->close());
  store_.reset();
}

TEST_F(ResizeTest, WhatAShrinkCouldNotClearDoesNotComeBackWithAGrow) {
  create("disk", kOldSize);
  const auto disk = open_disk("disk");
  shrink_without_clearing(*disk);
  EXPECT_EQ(disk->size_bytes(), kCut);
  std::vector<std::byte> bytes(512);
  EXPECT_EQ(run(disk->read(kCut, bytes)).error().code, Errc::invalid);
  EXPECT_EQ(run(disk->write(kCut, bytes, {})).error().code, Errc::past_end);
  expect_clean();
  engine_->faults().set_unreadable(edge_key_, true);
  EXPECT_FALSE(resize(kOldSize)) << "it cannot grow over what is not cleared";
  EXPECT_EQ(disk->size_bytes(), kCut);
  engine_->faults().set_unreadable(edge_key_, false);
  expect_cut_clean("disk");
  expect_clean();
}

TEST_F(ResizeTest, SnapshotsClonesAndRollbackDoNotBringBackWhatAShrinkGaveUp) {
  create("disk", kOldSize);
  {
    const auto disk = open_disk("disk");
    shrink_without_clearing(*disk);
    ASSERT_TRUE(snap("disk@a"));
    expect_cut_clean("disk");
    write(*disk, 100, 3);
  }
  settle();
  EXPECT_EQ(open_disk("disk@a")->size_bytes(), kCut);
  settle();
  ASSERT_TRUE(run(store_->clone("disk@a", "clone")));
  EXPECT_EQ(run(store_->info("clone")).value().size_bytes, kCut);
  expect_cut_clean("clone");
  settle();
  ASSERT_TRUE(run(store_->rollback("disk@a", false)));
  EXPECT_EQ(run(store_->info("disk")).value().size_bytes, kCut);
  expect_cut_clean("disk");
  settle();
  ASSERT_TRUE(run(store_->copy("disk@a", "copy", nullptr)));
  expect_cut_clean("copy");
  settle();
  expect_clean();
}

TEST_F(ResizeTest, TheNextOpenerClearsWhatAShrinkHasLeft) {
  create("disk", kOldSize);
  {
    const auto disk = open_disk("disk");
    shrink_without_clearing(*disk);
  }
  settle();
  reopen();
  const auto disk = open_disk("disk");
  settle();
  EXPECT_EQ(stored_blocks_count(), 3U);
  EXPECT_EQ(run(store_->info("disk")).value().used_bytes, 3U * kBlock);
  expect_clean();
}

TEST_F(ResizeTest, AShrinkAfterAShrinkKeepsInMindHowFarTheVolumeReached) {
  create("disk", kOldSize);
  const auto disk = open_disk("disk");
  shrink_without_clearing(*disk);
  const std::string key = block_key(1);
  engine_->faults().set_unreadable(key, true);
  ASSERT_TRUE(resize(kBlock + 512));
  engine_->faults().set_unreadable(key, false);
  ASSERT_TRUE(resize(kOldSize));
  EXPECT_EQ(bytes_of(*disk, kBlock, 512), std::vector<std::byte>(512, std::byte{1}));
  EXPECT_EQ(bytes_of(*disk, kBlock + 512, kOldSize - kBlock - 512),
            std::vector<std::byte>(kOldSize - kBlock - 512));
  EXPECT_EQ(stored_blocks_count(), 2U);
}

TEST_F(ResizeTest, AResizeIsJudgedByTheSizeThatItFinds) {
  for (int steps_count = 0; steps_count <= 20; ++steps_count) {
    create("disk", kOldSize);
    auto disk = open_disk("disk");
    std::optional<Result<VolumeInfo>> first;
    std::optional<Result<VolumeInfo>> second;
    TaskScope scope;
    scope.spawn(resize_task(*store_, 2 * kOldSize, false, first));
    for (int i = 0; i < steps_count; ++i) loop_.step();
    scope.spawn(resize_task(*store_, kOldSize + kBlock, false, second));
    settle();
    ASSERT_TRUE(first && second);
    EXPECT_TRUE(*first);
    // Unless it came first it would discard data, and nobody has allowed that.
    if (!*second) EXPECT_EQ(second->error().code, Errc::invalid);
    EXPECT_EQ(run(store_->info("disk")).value().size_bytes, 2 * kOldSize) << steps_count;
    disk.reset();
    settle();
    ASSERT_TRUE(remove("disk"));
  }
}

TEST_F(ResizeTest, TheLargestVolumeShrinksAndGrows) {
  create("disk", limits::kMaxVolumeBytes);
  const auto disk = open_disk("disk");
  const std::vector<std::byte> data(1024, std::byte{9});
  ASSERT_TRUE(run(disk->write(limits::kMaxVolumeBytes - 1024, data, {})));
  ASSERT_TRUE(resize(limits::kMaxVolumeBytes - 512));
  ASSERT_TRUE(resize(limits::kMaxVolumeBytes));
  EXPECT_EQ(bytes_of(*disk, limits::kMaxVolumeBytes - 1024, 512), std::vector<std::byte>(512, std::byte{9}));
  EXPECT_EQ(bytes_of(*disk, limits::kMaxVolumeBytes - 512, 512), std::vector<std::byte>(512));
  ASSERT_TRUE(resize(512));
  EXPECT_EQ(stored_blocks_count(), 0U);
  expect_clean();
}

class ResizeOfSharedTest : public HostsFixture {};

TEST_F(ResizeOfSharedTest, AServerThatTakesTheVolumeFinishesTheShrink) {
  for (uint64_t block = 0; block < 8; ++block) ASSERT_TRUE(a_.write(1, block * 4096));
  const auto transaction = a_.engine->begin(a_.loop);
  const auto rows = a_.loop.run(transaction->get_range({"D", "E"}, {}, kv::Isolation::snapshot)).value().rows;
  ASSERT_EQ(rows.size(), 8U);
  a_.engine->faults().set_unreadable(rows[2].key, true);
  ASSERT_TRUE(a_.loop.run(a_.store->resize("disk", 2 * 4096 + 512, true)));
  ASSERT_TRUE(b_.open());  // a_ stands still
  ASSERT_TRUE(b_.loop.run(b_.store->resize("disk", 1 << 20, false)));
  ASSERT_TRUE(b_.write(7, 4 * 4096));
  a_.engine->faults().set_unreadable(rows[2].key, false);
  EXPECT_EQ(a_.loop.run(a_.store->resize("disk", 4096, true)).error().code, Errc::fenced);
  EXPECT_EQ(b_.read(4096).value(), 1);
  EXPECT_EQ(b_.read(3 * 4096).value(), 0);
  EXPECT_EQ(b_.read(4 * 4096).value(), 7);
  EXPECT_EQ(b_.disk->size_bytes(), 1U << 20);
}

}  // namespace
}  // namespace fdbnbd::volume
