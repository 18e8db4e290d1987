#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "async/sim_loop.h"
#include "base/random.h"
#include "kv/memory/memory_engine.h"
#include "volume/space_graph.h"
#include "volume/store.h"

// What `du` promises, against what is stored once something has been removed.

namespace fdbnbd::volume {
namespace {

constexpr uint32_t kBlock = 4096;
constexpr uint64_t kBlocksCount = 3000;  // three extents

class SpaceUsageTest : public testing::Test {
 protected:
  SpaceUsageTest() { open(kv::make_memory_disk()); }
  ~SpaceUsageTest() override { close(); }

  void open(std::shared_ptr<kv::MemoryDisk> disk) {
    kv::MemoryOptions memory;
    memory.disk = std::move(disk);
    engine_ = kv::open_memory_engine(memory).value();
    Store::Options options;
    options.volume_executors = {&loop_};
    options.trash_retention = Duration::zero();
    store_ = run(open_store(*engine_, loop_, options)).value();
  }
  void close() {
    if (!store_) return;
    run(store_->close());
    store_.reset();
    engine_.reset();
  }

  template <typename T>
  T run(Task<T> task) {
    return loop_.run(std::move(task));
  }
  void run(Task<void> task) { loop_.run(std::move(task)); }
  static Task<void> turn(Executor& executor) { co_await sleep_for(executor, Duration(1)); }
  // Sessions end and background work with them.
  void settle() {
    run(turn(loop_));
    run(store_->wait_for_reclaim());
    run(turn(loop_));
  }

  void create(const std::string& name, Compression compression = Compression::none) {
    ASSERT_TRUE(run(store_->create(
        name, {.size_bytes = kBlocksCount * kBlock, .block_bytes = kBlock, .compression = compression})));
  }
  // Random blocks of it become data, and some nothing.
  void change(const std::string& name, uint64_t count) {
    {
      const auto disk = run(store_->open(loop_, name)).value();
      for (uint64_t i = 0; i < count; ++i) {
        const uint64_t block = random_.below(kBlocksCount);
        std::vector<std::byte> bytes(kBlock, std::byte{1});
        const uint64_t noise_bytes = random_.below(kBlock);
        for (uint64_t at = 0; at < noise_bytes; ++at) bytes[at] = static_cast<std::byte>(random_.next());
        if (random_.one_in(5)) {
          ASSERT_TRUE(run(disk->trim(block * kBlock, kBlock, {})));
        } else {
          ASSERT_TRUE(run(disk->write(block * kBlock, bytes, {})));
        }
      }
    }
    run(turn(loop_));
  }
  uint64_t stored_bytes() {
    auto transaction = engine_->begin(loop_);
    const auto rows =
        run(transaction->get_range({"D", "E"}, {.rows_limit = 1'000'000}, kv::Isolation::snapshot)).value();
    return std::accumulate(
        rows.rows.begin(), rows.rows.end(), uint64_t{0},
        [](uint64_t sum, const kv::KeyValue& row) { return sum + row.key.size() + row.value.size(); });
  }
  // Every volume and snapshot with what comes back when it is removed, as du says.
  std::map<std::string, uint64_t> promises() {
    std::map<std::string, uint64_t> unique;
    const auto volumes = run(store_->list_volumes()).value();
    for (const auto& volume : volumes) {
      const VolumeUsage usage = run(store_->usage(volume.name, nullptr)).value();
      EXPECT_EQ(usage.space.used_bytes, volume.used_bytes) << volume.name;
      if (volume.snapshots.empty()) unique[volume.name] = usage.space.unique_bytes;
      for (const auto& snapshot : usage.snapshots) {
        const std::string name = volume.name + '@' + snapshot.name;
        unique[name] = snapshot.space.unique_bytes;
        EXPECT_EQ(snapshot.space.used_bytes, run(store_->info(name)).value().used_bytes) << name;
      }
    }
    return unique;
  }
  Result<void> remove(const std::string& name) {
    const auto removed = run(store_->remove(name, {}));
    if (!removed) return tl::unexpected(removed.error());
    settle();
    return {};
  }

  SimLoop loop_{1};
  Random random_{7};
  std::unique_ptr<kv::MemoryEngine> engine_;
  std::unique_ptr<Store> store_;
};

TEST_F(SpaceUsageTest, WithoutSnapshotsEverythingIsUnique) {
  create("disk", Compression::lz4);
  change("disk", 100);
  const SpaceUsage space = run(store_->usage("disk", nullptr)).value().space;
  EXPECT_EQ(space.unique_bytes, stored_bytes());
  EXPECT_EQ(space.stored_bytes, stored_bytes());
  EXPECT_EQ(space.shared_bytes, 0U);
}

TEST_F(SpaceUsageTest, ASnapshotHasWhatTheVolumeHasReplacedSince) {
  create("disk");
  {
    const auto disk = run(store_->open(loop_, "disk")).value();
    ASSERT_TRUE(run(disk->write(0, std::vector<std::byte>(10 * kBlock, std::byte{1}), {})));
    ASSERT_TRUE(run(store_->snapshot({"disk@a"}, {})));
    ASSERT_TRUE(run(disk->write(0, std::vector<std::byte>(3 * kBlock, std::byte{2}), {})));
    ASSERT_TRUE(run(disk->trim(5 * kBlock, kBlock, {})));
  }
  settle();
  const uint64_t row_bytes = stored_bytes() / 13;
  const VolumeUsage usage = run(store_->usage("disk", nullptr)).value();
  EXPECT_EQ(usage.space.used_bytes, 9U * kBlock);
  EXPECT_EQ(usage.space.unique_bytes, 3 * row_bytes);
  EXPECT_EQ(usage.space.shared_bytes, 6 * row_bytes);
  ASSERT_EQ(usage.snapshots.size(), 1U);
  EXPECT_EQ(usage.snapshots[0].space.used_bytes, 10U * kBlock);
  EXPECT_EQ(usage.snapshots[0].space.unique_bytes, 4 * row_bytes);
  EXPECT_EQ(usage.snapshots[0].space.shared_bytes, 6 * row_bytes);
}

// Builds trees of snapshots, clones and rollbacks at random, then removes one thing after the other.
TEST_F(SpaceUsageTest, WhatItPromisesComesBackWhateverIsRemoved) {
  for (int round = 0; round < 12; ++round) {
    SCOPED_TRACE(round);
    close();
    open(kv::make_memory_disk());
    create("v0", Compression::lz4);
    std::vector<std::string> volumes{"v0"};
    std::vector<std::string> snapshots;
    for (int step = 0; step < 14; ++step) {
      const std::string& volume = volumes[random_.below(volumes.size())];
      change(volume, random_.below(60));
      const uint64_t kind = random_.below(6);
      if (kind < 3) {
        snapshots.push_back(volume + "@s" + std::to_string(step));
        ASSERT_TRUE(run(store_->snapshot({snapshots.back()}, {})));
      } else if (kind == 3 && !snapshots.empty()) {
        const std::string name = "v" + std::to_string(step + 1);
        ASSERT_TRUE(run(store_->clone(snapshots[random_.below(snapshots.size())], name)));
        volumes.push_back(name);
      } else if (kind == 4 && !snapshots.empty()) {
        ASSERT_TRUE(run(store_->rollback(snapshots[random_.below(snapshots.size())], false)));
      }
    }
    settle();
    while (true) {
      const auto unique = promises();
      if (unique.empty()) break;
      const auto chosen = std::next(unique.begin(), static_cast<ptrdiff_t>(random_.below(unique.size())));
      const uint64_t before = stored_bytes();
      ASSERT_TRUE(remove(chosen->first));
      ASSERT_EQ(before - stored_bytes(), chosen->second) << chosen->first;
    }
    EXPECT_EQ(stored_bytes(), 0U);
  }
}

TEST(SpaceGraph, WhatWillBeMergedIsOneNodeAndWhatWillGoIsNone) {
  std::map<LayerId, LayerRecord> layers;
  const auto add = [&](uint64_t id, uint64_t parent, LayerState state) {
    layers[LayerId{id}].parent = LayerId{parent};
    layers[LayerId{id}].state = state;
  };
  add(1, 0, LayerState::live);
  add(2, 1, LayerState::unnamed);
  add(3, 2, LayerState::unnamed);
  add(4, 3, LayerState::live);      // the top
  add(5, 3, LayerState::deleting);  // no child of 3 any more
  add(6, 1, LayerState::unnamed);   // without a child
  add(7, 1, LayerState::unnamed);
  add(8, 7, LayerState::live);  // another volume's
  const SpaceGraph graph = build_space_graph(layers, {LayerId{4}}).value();
  ASSERT_EQ(graph.nodes.size(), 3U);
  EXPECT_EQ(graph.nodes[0].members, (std::vector<LayerId>{LayerId{1}}));
  EXPECT_EQ(graph.nodes[1].members, (std::vector<LayerId>{LayerId{4}, LayerId{3}, LayerId{2}}));
  EXPECT_EQ(graph.nodes[2].members, (std::vector<LayerId>{LayerId{8}, LayerId{7}}));
  EXPECT_FALSE(graph.nodes[2].is_measured);
  EXPECT_EQ(graph.nodes[0].children, (std::vector<size_t>{1, 2}));
  layers.erase(LayerId{1});
  EXPECT_EQ(build_space_graph(layers, {LayerId{4}}).error().code, Errc::corruption);
}

}  // namespace
}  // namespace fdbnbd::volume
