#include "volume/volume.h"

#include <gtest/gtest.h>

#include "async/sim_loop.h"
#include "kv/memory/memory_engine.h"

namespace fdbnbd::volume {
namespace {

// A store in a simulated world.
class VolumeTest : public testing::Test {
 protected:
  VolumeTest() : disk_(kv::make_memory_disk()) { open(); }
  ~VolumeTest() override {
    if (store_) run(store_->close());
  }

  void open(kv::Capabilities capabilities = {
                .shared_between_hosts = false, .commits_in_flight = 4, .commits_are_durable = false}) {
    kv::MemoryOptions options;
    options.disk = disk_;
    options.capabilities = capabilities;
    options.can_lose_power = true;  // counts the commits
    engine_ = kv::open_memory_engine(options).value();
    Store::Options store_options;
    store_options.volume_executors = {&loop_};
    store_ = run(open_store(*engine_, loop_, store_options)).value();
  }
  void close() {
    run(store_->close());
    store_.reset();
    engine_.reset();
  }

  template <typename T>
  T run(Task<T> task) {
    return loop_.run(std::move(task));
  }
  void run(Task<void> task) { loop_.run(std::move(task)); }

  std::shared_ptr<block::Export> make(uint64_t size_bytes, uint32_t block_bytes = 4096) {
    EXPECT_TRUE(run(store_->create(
        "disk", {.size_bytes = size_bytes, .block_bytes = block_bytes, .compression = Compression::none})));
    return run(store_->open(loop_, "disk")).value();
  }

  static std::vector<std::byte> pattern(size_t length, uint8_t seed) {
    std::vector<std::byte> bytes(length);
    for (size_t i = 0; i < length; ++i) bytes[i] = static_cast<std::byte>(seed + i % 250 + 1);
    return bytes;
  }

  std::string block_key(uint64_t block) {
    auto transaction = engine_->begin(loop_);
    const auto rows = run(transaction->get_range({"D", "E"}, {}, kv::Isolation::snapshot)).value();
    for (const auto& row : rows.rows) {
      if (KeySpace::block_of(row.key) == block) return row.key;
    }
    return {};
  }
  void put(const std::string& key, const std::string& value) {
    auto transaction = engine_->begin(loop_);
    transaction->set(key, value);
    EXPECT_TRUE(run(transaction->commit()));
  }
  std::string get(const std::string& key) {
    auto transaction = engine_->begin(loop_);
    return run(transaction->get(key, kv::Isolation::snapshot)).value().value_or("");
  }

  SimLoop loop_{1};
  std::shared_ptr<kv::MemoryDisk> disk_;
  std::unique_ptr<kv::MemoryEngine> engine_;
  std::unique_ptr<Store> store_;
};

TEST_F(VolumeTest, AFlippedByteIsAnErrorOfThatBlockAloneAndCheckNamesIt) {
  const auto disk = make(1 << 20);
  const auto data = pattern(8 * 4096, 3);
  ASSERT_TRUE(run(disk->write(0, data, {})));
  const std::string key = block_key(5);
  const std::string good = get(key);
  for (const size_t at :
       {size_t{0}, size_t{100}, size_t{4095}, good.size() - 9, good.size() - 8, good.size() - 1}) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 1);
    put(key, bad);
    std::vector<std::byte> back(4096);
    for (uint64_t block = 0; block < 8; ++block) {
      const auto read = run(disk->read(block * 4096, back));
      if (block == 5) {
        ASSERT_FALSE(read);
        EXPECT_EQ(read.error().code, Errc::corruption);
      } else {
        ASSERT_TRUE(read);
      }
    }
    std::vector<std::byte> all(data.size());
    const auto whole = run(disk->read(0, all));
    ASSERT_FALSE(whole);
    EXPECT_NE(whole.error().what.find("offset 20480"), std::string::npos) << whole.error().what;
    const auto report = run(store_->check("disk", nullptr)).value();
    ASSERT_EQ(report.findings_count, 1U);
    EXPECT_EQ(report.findings[0].volume, "disk");
    EXPECT_EQ(report.findings[0].offset_bytes, 5U * 4096);
  }
  // Writing the whole block mends it; a part of it cannot be written.
  EXPECT_FALSE(run(disk->write(5 * 4096 + 1, pattern(10, 1), {})));
  EXPECT_TRUE(run(disk->write(5 * 4096, pattern(4096, 1), {})));
  std::vector<std::byte> back(4096);
  EXPECT_TRUE(run(disk->read(5 * 4096, back)));
}

TEST_F(VolumeTest, AMissingBlockIsCorruptionAndNotZeroes) {
  const auto disk = make(1 << 20);
  ASSERT_TRUE(run(disk->write(0, pattern(6 * 4096, 3), {})));
  auto transaction = engine_->begin(loop_);
  transaction->clear(block_key(2));
  ASSERT_TRUE(run(transaction->commit()));
  std::vector<std::byte> back(6 * 4096);
  const auto read = run(disk->read(0, back));
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, Errc::corruption);
  EXPECT_EQ(run(store_->check("disk", nullptr)).value().findings_count, 1U);
}

TEST_F(VolumeTest, WhatTheStoreCannotReadIsThatBlocksError) {
  const auto disk = make(1 << 20);
  ASSERT_TRUE(run(disk->write(0, pattern(8 * 4096, 3), {})));
  engine_->faults().set_unreadable(block_key(3), true);
  std::vector<std::byte> back(4096);
  EXPECT_EQ(run(disk->read(3 * 4096, back)).error().code, Errc::corruption);
  EXPECT_TRUE(run(disk->read(4 * 4096, back)));
}

TEST_F(VolumeTest, DiscardOf16TiBInLargePiecesTouchesNothing) {
  const uint64_t size = uint64_t{16} << 40;
  const auto disk = make(size);
  const size_t before = engine_->unsynced_commits_count();
  const uint64_t piece = UINT32_MAX;
  for (uint64_t offset = 0; offset < size; offset += piece) {
    ASSERT_TRUE(run(disk->trim(offset, std::min(piece, size - offset), {})));
  }
  EXPECT_EQ(engine_->unsynced_commits_count(), before) << "something was committed";
}

TEST_F(VolumeTest, DiscardTakesStoredBlocksAndTheirBitmapAway) {
  const auto disk = make(uint64_t{1} << 40);
  for (const uint64_t offset : {uint64_t{0}, uint64_t{5} << 30, (uint64_t{1} << 40) - 4096}) {
    ASSERT_TRUE(run(disk->write(offset, pattern(4096, 1), {})));
  }
  EXPECT_EQ(run(store_->info("disk")).value().used_bytes, 3U * 4096);
  ASSERT_TRUE(run(disk->trim(0, uint64_t{1} << 40, {})));
  EXPECT_EQ(run(store_->info("disk")).value().used_bytes, 0U);
  auto transaction = engine_->begin(loop_);
  EXPECT_TRUE(run(transaction->get_range({"B", "C"}, {}, kv::Isolation::snapshot)).value().rows.empty());
  EXPECT_TRUE(run(transaction->get_range({"D", "E"}, {}, kv::Isolation::snapshot)).value().rows.empty());
}

TEST_F(VolumeTest, ZeroesAreNotStored) {
  const auto disk = make(1 << 20);
  ASSERT_TRUE(run(disk->write(0, std::vector<std::byte>(1 << 20), {})));
  EXPECT_EQ(run(store_->info("disk")).value().used_bytes, 0U);
  ASSERT_TRUE(run(disk->write(4096, pattern(4096, 1), {})));
  EXPECT_EQ(run(store_->info("disk")).value().used_bytes, 4096U);
  ASSERT_TRUE(run(disk->write(4096, std::vector<std::byte>(4096), {})));
  EXPECT_EQ(run(store_->info("disk")).value().used_bytes, 0U);
}

TEST_F(VolumeTest, WhatDoesNotFitInsideIsRefused) {
  const auto disk = make(8192);
  std::vector<std::byte> bytes(4096);
  EXPECT_EQ(run(disk->read(8192, bytes)).error().code, Errc::invalid);
  EXPECT_EQ(run(disk->write(4097, bytes, {})).error().code, Errc::past_end);
  EXPECT_EQ(run(disk->trim(UINT64_MAX - 10, 100, {})).error().code, Errc::invalid);
  EXPECT_EQ(run(disk->write_zeroes(UINT64_MAX - 10, 100, {})).error().code, Errc::past_end);
  EXPECT_EQ(run(disk->block_status(1, 8192, 10)).error().code, Errc::invalid);
}

TEST_F(VolumeTest, AFullStoreSaysSoAndGoesOnOnceThereIsRoom) {
  const auto disk = make(1 << 20);
  ASSERT_TRUE(run(disk->write(0, pattern(4096, 1), {})));
  engine_->faults().set_full(true);
  EXPECT_EQ(run(disk->write(4096, pattern(4096, 2), {})).error().code, Errc::no_space);
  std::vector<std::byte> back(4096);
  EXPECT_TRUE(run(disk->read(0, back)));
  EXPECT_EQ(run(disk->block_status(4096, 4096, 1)).value()[0].is_hole, true);
  engine_->faults().set_full(false);
  EXPECT_TRUE(run(disk->write(4096, pattern(4096, 2), {})));
  EXPECT_TRUE(run(disk->read(4096, back)));
  EXPECT_EQ(back, pattern(4096, 2));
}

Task<void> write_and_count(block::Export& disk, uint64_t offset, std::vector<std::byte> data,
                           int& done_count) {
  if (co_await disk.write(offset, data, {})) ++done_count;
}

Task<void> write_many(block::Export& disk, int count, int& done_count) {
  TaskScope scope;
  for (int i = 0; i < count; ++i) {
    scope.spawn(write_and_count(disk, static_cast<uint64_t>(i) * 4096,
                                std::vector<std::byte>(4096, std::byte{7}), done_count));
  }
  co_await scope.join();
}

TEST_F(VolumeTest, WritesThatQueueTogetherAreCommittedTogether) {
  const auto disk = make(1 << 20);
  const size_t before = engine_->unsynced_commits_count();
  int done_count = 0;
  run(write_many(*disk, 32, done_count));
  EXPECT_EQ(done_count, 32);
  EXPECT_EQ(engine_->unsynced_commits_count() - before, 1U) << "one commit for all";
}

Task<void> note_usage_when_written(block::Export& disk, Store& store, uint64_t& used_bytes) {
  if (!co_await disk.write(0, std::vector<std::byte>(4096, std::byte{1}), {})) co_return;
  const auto info = co_await store.info("disk");
  if (info) used_bytes = info->used_bytes;
}

Task<void> write_large_then_small(block::Export& disk, Store& store, uint64_t& used_bytes) {
  TaskScope scope;
  int done_count = 0;
  scope.spawn(write_and_count(disk, 1 << 20, std::vector<std::byte>(32 << 20, std::byte{7}), done_count));
  scope.spawn(note_usage_when_written(disk, store, used_bytes));
  co_await scope.join();
  EXPECT_EQ(done_count, 1);
}

TEST_F(VolumeTest, ASmallWriteDoesNotWaitBehindALargeOne) {
  const auto disk = make(64 << 20);
  uint64_t used_bytes = 0;
  run(write_large_then_small(*disk, *store_, used_bytes));
  EXPECT_GT(used_bytes, 0U);
  EXPECT_LT(used_bytes, 8U << 20) << "committed when the small write was answered";
}

TEST_F(VolumeTest, UnknownResultsAreResolvedByABarrierAndTheWriteSucceeds) {
  const auto disk = make(1 << 20);
  using enum kv::CommitFault;
  for (const auto fault : {unknown_applied, unknown_not_applied, unknown_applied_late}) {
    engine_->faults().fail_next_commits(fault);
    ASSERT_TRUE(run(disk->write(0, pattern(4096, 1), {})));
    ASSERT_TRUE(run(disk->write(0, pattern(4096, 2), {})));
    engine_->faults().release_late_commits();
    std::vector<std::byte> back(4096);
    ASSERT_TRUE(run(disk->read(0, back)));
    EXPECT_EQ(back, pattern(4096, 2)) << "a late commit overwrote a newer write";
  }
}

}  // namespace
}  // namespace fdbnbd::volume
