#include "volume/live_view.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "async/scope.h"
#include "async/sim_loop.h"
#include "base/limits.h"
#include "kv/memory/memory_engine.h"
#include "volume/live_exports.h"
#include "volume/store.h"

namespace fdbnbd::volume {
namespace {

constexpr uint64_t kBlock = 4096;

// A server of a store that several share; all of them in one simulated world.
struct Host {
  Host(SimLoop& loop, std::shared_ptr<kv::MemoryDisk> disk, const std::string& holder, uint64_t seed,
       kv::Version read_window_versions)
      : loop(loop) {
    kv::MemoryOptions memory;
    memory.disk = std::move(disk);
    memory.seed = seed;
    memory.read_window_versions = read_window_versions;
    memory.capabilities = {.shared_between_hosts = true, .commits_in_flight = 4, .commits_are_durable = true};
    engine = kv::open_memory_engine(memory).value();
    Store::Options options;
    options.volume_executors = {&loop};
    options.ownership = {.takeover = Takeover::when_free,
                         .lease_duration = std::chrono::seconds(5),
                         .process = {},
                         .holder = holder};
    options.seed = seed;
    store = loop.run(open_store(*engine, loop, options)).value();
    live = std::make_unique<LiveExports>(*engine, loop, *store, options);
  }
  ~Host() { loop.run(store->close()); }

  SimLoop& loop;
  std::unique_ptr<kv::MemoryEngine> engine;
  std::unique_ptr<Store> store;
  std::unique_ptr<LiveExports> live;
};

class LiveViewTest : public testing::Test {
 protected:
  explicit LiveViewTest(uint64_t seed = 1, kv::Version read_window_versions = 1'000'000)
      : loop_(seed),
        memory_(kv::make_memory_disk()),
        writer_(loop_, memory_, "writer", 10 * seed + 1, read_window_versions),
        reader_(loop_, memory_, "reader", 10 * seed + 2, read_window_versions) {
    EXPECT_TRUE(loop_.run(writer_.store->create(
        "disk", {.size_bytes = 64 << 20, .block_bytes = kBlock, .compression = Compression::none})));
    disk_ = loop_.run(writer_.store->open(loop_, "disk")).value();
    view_ = loop_.run(reader_.live->open(loop_, "disk")).value();
  }
  ~LiveViewTest() override {
    view_.reset();
    disk_.reset();
  }

  void write(uint64_t block, uint8_t fill, uint64_t blocks_count = 1) {
    const std::vector<std::byte> bytes(blocks_count * kBlock, std::byte{fill});
    ASSERT_TRUE(loop_.run(disk_->write(block * kBlock, bytes, {})));
  }
  // What each of the blocks is full of; nothing where it cannot be read.
  std::vector<int> contents(uint64_t block, uint64_t blocks_count) {
    std::vector<std::byte> bytes(blocks_count * kBlock, std::byte{0xee});
    const auto segments = loop_.run(view_->read(block * kBlock, bytes));
    if (!segments) return {};
    uint64_t at = 0;
    for (const block::ReadSegment& segment : *segments) {
      if (segment.is_hole)
        std::fill_n(bytes.begin() + static_cast<ptrdiff_t>(at), segment.length_bytes, std::byte{0});
      at += segment.length_bytes;
    }
    EXPECT_EQ(at, bytes.size());
    std::vector<int> found;
    found.reserve(blocks_count);
    for (uint64_t i = 0; i < blocks_count; ++i) found.push_back(static_cast<int>(bytes[i * kBlock]));
    return found;
  }
  size_t layers_count() {
    const auto transaction = reader_.engine->begin(loop_);
    return loop_.run(transaction->get_range({"L", "M"}, {}, kv::Isolation::snapshot)).value().rows.size();
  }
  Result<void> snap(const std::string& name) { return loop_.run(writer_.store->snapshot({name}, {})); }

  SimLoop loop_;
  std::shared_ptr<kv::MemoryDisk> memory_;
  Host writer_;
  Host reader_;
  std::shared_ptr<block::Export> disk_;  // of writer_
  std::shared_ptr<block::Export> view_;  // of reader_
};

using Contents = std::vector<int>;

TEST_F(LiveViewTest, ShowsWhatWasAcknowledgedBeforeAndChangesNothing) {
  const auto locks_before = loop_.run(writer_.store->list_locks()).value();
  EXPECT_TRUE(view_->info().read_only);
  EXPECT_EQ(view_->info().size_bytes, uint64_t{64} << 20);
  EXPECT_EQ(contents(0, 4), (Contents{0, 0, 0, 0}));
  write(1, 7);
  EXPECT_EQ(contents(0, 4), (Contents{0, 7, 0, 0}));
  write(1, 8, 3);
  EXPECT_EQ(contents(0, 4), (Contents{0, 8, 8, 8}));
  ASSERT_TRUE(loop_.run(disk_->trim(2 * kBlock, kBlock, {})));
  EXPECT_EQ(contents(0, 4), (Contents{0, 8, 0, 8}));
  const auto status = loop_.run(view_->block_status(0, 5 * kBlock, 10)).value();
  EXPECT_EQ(status, loop_.run(disk_->block_status(0, 5 * kBlock, 10)).value());
  const auto locks = loop_.run(writer_.store->list_locks()).value();
  ASSERT_EQ(locks.size(), 1U);
  EXPECT_EQ(locks[0].state, LockInfo::State::ours);
  EXPECT_EQ(locks[0].epoch, locks_before[0].epoch);
  EXPECT_TRUE(loop_.run(reader_.live->describe(loop_, "")).value().read_only);
}

TEST_F(LiveViewTest, RefusesToBeWritten) {
  const std::vector<std::byte> bytes(kBlock);
  EXPECT_EQ(loop_.run(view_->write(0, bytes, {})).error().code, Errc::read_only);
  EXPECT_EQ(loop_.run(view_->trim(0, kBlock, {})).error().code, Errc::read_only);
  EXPECT_EQ(loop_.run(view_->write_zeroes(0, kBlock, {})).error().code, Errc::read_only);
  EXPECT_TRUE(loop_.run(view_->flush()));
}

TEST_F(LiveViewTest, ReadsAcrossPiecesAndPartsOfBlocks) {
  const uint64_t piece_blocks = limits::kLiveViewPieceBytes / kBlock;
  write(piece_blocks - 2, 1, 2);
  write(piece_blocks, 2, 3);
  EXPECT_EQ(contents(piece_blocks - 3, 8), (Contents{0, 1, 1, 2, 2, 2, 0, 0}));
  std::vector<std::byte> bytes(kBlock);
  const auto segments =
      loop_.run(view_->read(piece_blocks * kBlock - 100, MutableByteView(bytes).first(200))).value();
  EXPECT_EQ(segments, (std::vector<block::ReadSegment>{{200, false}}));
  EXPECT_EQ(bytes[99], std::byte{1});
  EXPECT_EQ(bytes[100], std::byte{2});
}

TEST_F(LiveViewTest, FollowsSnapshotsAndWhatBecomesOfThem) {
  write(0, 1, 6);
  ASSERT_TRUE(snap("disk@a"));
  EXPECT_EQ(contents(0, 6), (Contents{1, 1, 1, 1, 1, 1}));
  write(1, 2);
  ASSERT_TRUE(snap("disk@b"));
  write(2, 3);
  ASSERT_TRUE(loop_.run(disk_->trim(3 * kBlock, kBlock, {})));
  EXPECT_EQ(contents(0, 6), (Contents{1, 2, 3, 0, 1, 1}));
  const auto status = loop_.run(view_->block_status(0, 8 * kBlock, 10)).value();
  EXPECT_EQ(status, loop_.run(disk_->block_status(0, 8 * kBlock, 10)).value());
  ASSERT_TRUE(loop_.run(writer_.store->remove("disk@a", {})));
  ASSERT_TRUE(loop_.run(writer_.store->remove("disk@b", {})));
  for (size_t layers_count = 0; layers_count != 1;) {
    ASSERT_TRUE(loop_.step());
    EXPECT_EQ(contents(0, 6), (Contents{1, 2, 3, 0, 1, 1}));
    layers_count = this->layers_count();
  }
  EXPECT_EQ(contents(0, 6), (Contents{1, 2, 3, 0, 1, 1}));
}

TEST_F(LiveViewTest, FollowsTheSizeAndTellsAllItsSessions) {
  ASSERT_TRUE(loop_.run(writer_.store->resize("disk", 128 << 20, false)));
  const auto other = loop_.run(reader_.live->open(loop_, "disk")).value();
  EXPECT_EQ(other->size_bytes(), uint64_t{128} << 20);
  EXPECT_EQ(view_->size_bytes(), uint64_t{128} << 20);
  ASSERT_TRUE(loop_.run(writer_.store->resize("disk", 1 << 20, true)));
  std::vector<std::byte> bytes(kBlock);
  EXPECT_EQ(loop_.run(view_->read(2 << 20, bytes)).error().code, Errc::invalid);
  EXPECT_EQ(view_->size_bytes(), uint64_t{1} << 20);
}

TEST_F(LiveViewTest, AVolumeThatWasRemovedCannotBeRead) {
  write(0, 1);
  disk_.reset();
  while (!loop_.run(writer_.store->list_locks()).value().empty()) loop_.step();
  ASSERT_TRUE(loop_.run(writer_.store->remove("disk", {.now = true})));
  std::vector<std::byte> bytes(kBlock);
  EXPECT_EQ(loop_.run(view_->read(0, bytes)).error().code, Errc::not_found);
  EXPECT_EQ(loop_.run(view_->block_status(0, kBlock, 1)).error().code, Errc::not_found);
  EXPECT_EQ(loop_.run(reader_.live->open(loop_, "disk")).error().code, Errc::not_found);
}

TEST_F(LiveViewTest, ServersTakeUpEachOthersJobs) {
  // The process that has removed the snapshot ends before its background work.
  write(0, 1, 6);
  ASSERT_TRUE(snap("disk@a"));
  write(0, 2, 3);
  disk_.reset();
  while (!loop_.run(writer_.store->list_locks()).value().empty()) loop_.step();
  writer_.store->stop_opening();
  ASSERT_TRUE(loop_.run(writer_.store->remove("disk@a", {})));
  const MonotonicTime before = static_cast<const Executor&>(loop_).clock().now();
  while (layers_count() > 1) {
    ASSERT_LT(static_cast<const Executor&>(loop_).clock().now() - before,
              2 * Duration(limits::kJobScanInterval));
    ASSERT_TRUE(loop_.step());
  }
  EXPECT_EQ(contents(0, 6), (Contents{2, 2, 2, 1, 1, 1}));
}

// A writer, snapshots and their removal beside a reader. Each write puts one number into all of the blocks,
// in one transaction.
class LiveViewBesideWrites : public LiveViewTest, public testing::WithParamInterface<uint64_t> {
 protected:
  static constexpr uint64_t kBlocks = 48;
  static constexpr uint8_t kStamps = 60;

  // The engine forgets versions quickly, so that some reads have to begin again.
  LiveViewBesideWrites() : LiveViewTest(GetParam(), GetParam() % 2 == 0 ? 60 : 1'000'000) {}

  Task<void> write_stamps() {
    for (uint8_t stamp = 1; stamp <= kStamps; ++stamp) {
      const std::vector<std::byte> bytes(kBlocks * kBlock, std::byte{stamp});
      EXPECT_TRUE(co_await disk_->write(10 * kBlock, bytes, {}));
      acknowledged_ = stamp;
      co_await sleep_for(loop_, std::chrono::microseconds(1));
      if (stamp % 5 != 0) continue;
      const std::string name = "disk@" + std::to_string(stamp);
      std::vector<std::string> names{name};
      EXPECT_TRUE(co_await writer_.store->snapshot(std::move(names), {}));
      if (stamp % 10 != 0) continue;
      EXPECT_TRUE(co_await writer_.store->remove("disk@" + std::to_string(stamp - 5), {}));
      if (stamp % 20 == 0) EXPECT_TRUE(co_await writer_.store->remove(name, {}));
    }
    done_ = true;
  }

  Task<void> read_stamps() {
    std::vector<std::byte> bytes(kBlocks * kBlock);
    while (!done_) {
      // Simulated time passes when nobody has anything to do.
      if (loop_.random().one_in(8)) co_await sleep_for(loop_, std::chrono::microseconds(1));
      const uint8_t at_least = acknowledged_;
      const auto segments = co_await view_->read(10 * kBlock, bytes);
      EXPECT_TRUE(segments) << (segments ? "" : segments.error().what);
      if (!segments || segments->front().is_hole) continue;
      const auto stamp = static_cast<uint8_t>(bytes[0]);
      EXPECT_GE(stamp, at_least);
      for (uint64_t block = 0; block < kBlocks; ++block)
        EXPECT_EQ(static_cast<uint8_t>(bytes[block * kBlock]), stamp);
      ++reads_count_;
    }
  }

  Task<void> run_both() {
    TaskScope scope;
    scope.spawn(write_stamps());
    scope.spawn(read_stamps());
    scope.spawn(read_stamps());
    co_await scope.join();
  }

  uint8_t acknowledged_ = 0;
  bool done_ = false;
  size_t reads_count_ = 0;
};

TEST_P(LiveViewBesideWrites, EachReadIsOfOneInstantNoOlderThanItself) {
  loop_.run(run_both());
  EXPECT_GT(reads_count_, 20U);
}

INSTANTIATE_TEST_SUITE_P(Seeds, LiveViewBesideWrites, testing::Range<uint64_t>(1, 21));

}  // namespace
}  // namespace fdbnbd::volume
