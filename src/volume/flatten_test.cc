#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "async/sim_loop.h"
#include "kv/memory/memory_engine.h"
#include "volume/interposed_engine_testing.h"
#include "volume/store.h"

// Flatten while snapshots are taken.

namespace fdbnbd::volume {
namespace {

constexpr uint32_t kBlock = 4096;
constexpr uint64_t kBlocks = 200;  // some steps

class FlattenTest : public testing::Test {
 protected:
  FlattenTest() {
    Store::Options options;
    options.volume_executors = {&loop_};
    store_ = run(open_store(engine_, loop_, options)).value();
    EXPECT_TRUE(run(store_->create(
        "base", {.size_bytes = 16 << 20, .block_bytes = kBlock, .compression = Compression::none})));
    {
      const auto disk = run(store_->open(loop_, "base")).value();
      EXPECT_TRUE(run(disk->write(0, std::vector<std::byte>(kBlocks * kBlock, std::byte{7}), {})));
    }
    EXPECT_TRUE(run(store_->snapshot({"base@1"}, {})));
    EXPECT_TRUE(run(store_->clone("base@1", "disk")));
  }
  ~FlattenTest() override { run(store_->close()); }

  template <typename T>
  T run(Task<T> task) {
    return loop_.run(std::move(task));
  }
  void run(Task<void> task) { loop_.run(std::move(task)); }

  // While the volume is flattened: at a step of its copying, at its end, and so on.
  static Task<void> take_snapshot(FlattenTest& test) {
    std::vector<std::string> names{"disk@" + std::to_string(test.snapshots_count_++)};
    EXPECT_TRUE((co_await test.store_->snapshot(std::move(names), std::nullopt)).has_value());
    if (test.snapshots_count_ < test.snapshots_limit_) test.plan_snapshot();
  }
  void plan_snapshot() {
    engine_.at_next_commit_of(snapshots_count_ % 2 == 0 ? 'D' : 'L', InterposedEngine::Outcome::as_it_is,
                              [this] { return take_snapshot(*this); });
  }
  bool is_as_written(const std::string& name) {
    const auto disk = run(store_->open(loop_, name)).value();
    std::vector<std::byte> bytes(kBlocks * kBlock);
    const auto segments = run(disk->read(0, bytes)).value();
    return segments.size() == 1 && !segments.front().is_hole &&
           bytes == std::vector<std::byte>(bytes.size(), std::byte{7});
  }

  SimLoop loop_{1};
  std::unique_ptr<kv::MemoryEngine> memory_ = kv::open_memory_engine().value();
  InterposedEngine engine_{*memory_};
  std::unique_ptr<Store> store_;
  uint32_t snapshots_count_ = 0;
  uint32_t snapshots_limit_ = UINT32_MAX;
};

TEST_F(FlattenTest, GoesOnWithTheNewTopWhereSnapshotsAreTakenMeanwhile) {
  snapshots_limit_ = 7;
  plan_snapshot();
  const auto flattened = run(store_->flatten("disk", nullptr));
  ASSERT_TRUE(flattened) << flattened.error().what;
  EXPECT_EQ(flattened->snapshots.size(), 7U);
  EXPECT_TRUE(is_as_written("disk"));
  EXPECT_TRUE(is_as_written("disk@3"));
  // Nothing of its own shows through any more.
  const VolumeUsage usage = run(store_->usage("disk", nullptr)).value();
  EXPECT_EQ(usage.space.shared_bytes, 0U);
  EXPECT_EQ(run(store_->check(std::nullopt, nullptr)).value().findings_count, 0U);
}

TEST_F(FlattenTest, EndsWhereSnapshotsKeepComing) {
  plan_snapshot();
  EXPECT_EQ(run(store_->flatten("disk", nullptr)).error().code, Errc::busy);
  EXPECT_EQ(snapshots_count_, limits::kMaxFlattenRounds);
  EXPECT_TRUE(is_as_written("disk"));
}

}  // namespace
}  // namespace fdbnbd::volume
