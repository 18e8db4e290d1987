#include "volume/jobs.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "volume/hosts_testing.h"
#include "volume/store_fixture_testing.h"

namespace fdbnbd::volume {
namespace {

class JobsTest : public StoreFixture {};

TEST_F(JobsTest, ALayerWithLittleInItIsMergedInOneTransaction) {
  create("disk");
  for (const uint64_t block : {0, 1}) {
    write(*open_disk("disk"), block, 1);
    settle();
    ASSERT_TRUE(snap("disk@" + std::to_string(block)));
  }
  store_->stop_opening();  // and with it background work
  ASSERT_TRUE(remove("disk@0"));
  close();
  open_engine(/*can_lose_power=*/true);
  start_store();
  run(store_->wait_for_reclaim());
  EXPECT_EQ(layers_count(), 2U);
  EXPECT_EQ(engine_->unsynced_commits_count(), 1U);
  EXPECT_EQ(content(*open_disk("disk@1"), 0), 1);
  expect_clean();
}

// Background work in a store that several servers share.
class SharedJobsTest : public testing::Test {
 protected:
  SharedJobsTest() { start(1); }

  void start(uint64_t seed) { server_.emplace(disk_, "host", seed); }
  // A volume with so many snapshots, NAME@0 and so on, each with a block of its own.
  void make_disk(const std::string& name, int snapshots_count) {
    ASSERT_TRUE(run(server_->store->create(
        name, {.size_bytes = 1 << 20, .block_bytes = 4096, .compression = Compression::none})));
    for (int i = 0; i < snapshots_count; ++i) {
      {
        const auto disk = run(server_->store->open(server_->loop, name)).value();
        ASSERT_TRUE(run(disk->write(static_cast<uint64_t>(i) * 4096,
                                    std::vector<std::byte>(4096, static_cast<std::byte>(i + 1)), {})));
      }
      std::vector<std::string> names;
      names.push_back(name + "@" + std::to_string(i));
      ASSERT_TRUE(run(server_->store->snapshot(std::move(names), {})));
    }
    server_->live(std::chrono::seconds(1));
  }
  // And nothing else: no background work begins any more.
  void only_remove(std::vector<std::string> snapshots) {
    server_->store->stop_opening();
    for (std::string& name : snapshots) ASSERT_TRUE(run(server_->store->remove(std::move(name), {})));
    server_.reset();
  }
  // Merges the layer of one removed snapshot in each of so many volumes: how long it takes.
  Duration time_to_merge(const std::string& prefix, int layers_count) {
    std::vector<std::string> removed;
    for (int i = 0; i < layers_count; ++i) {
      const std::string name = prefix + std::to_string(i);
      make_disk(name, 2);
      removed.push_back(name + "@0");
    }
    const int layers_before = layers();
    only_remove(std::move(removed));
    start(2);
    server_->engine->faults().set_latency(std::chrono::milliseconds(1), std::chrono::milliseconds(1));
    const MonotonicTime started = server_->now();
    run(server_->store->wait_for_reclaim());
    const Duration took = server_->now() - started;
    server_->engine->faults().set_latency({}, {});
    EXPECT_EQ(layers(), layers_before - layers_count);
    return took;
  }
  int layers() {
    const auto transaction = server_->engine->begin(server_->loop);
    return static_cast<int>(
        run(transaction->get_range({"L", "M"}, {}, kv::Isolation::snapshot)).value().rows.size());
  }
  template <typename T>
  T run(Task<T> task) {
    return server_->loop.run(std::move(task));
  }
  void run(Task<void> task) { server_->loop.run(std::move(task)); }

  const std::shared_ptr<kv::MemoryDisk> disk_ = kv::make_memory_disk();
  std::optional<Host> server_;
};

TEST_F(SharedJobsTest, SeveralAreAtWorkAtATime) {
  const Duration one = time_to_merge("a", 1);
  EXPECT_GT(one, Duration::zero());
  EXPECT_LT(time_to_merge("b", 8), 3 * one);
}

TEST_F(SharedJobsTest, ServersThatMergeTheSameChainsAtOnceLeaveThemRight) {
  constexpr int kVolumes = 4;
  constexpr int kSnapshots = 9;
  for (uint64_t seed = 10; seed < 30; seed += 2) {
    SCOPED_TRACE(seed);
    std::vector<std::string> removed;
    for (int volume = 0; volume < kVolumes; ++volume) {
      const std::string name = std::to_string(seed) + "." + std::to_string(volume);
      make_disk(name, kSnapshots);
      // All but every fourth, the way of a schedule that thins them out.
      for (int i = 0; i < kSnapshots; ++i)
        if (i % 4 != 3) removed.push_back(name + "@" + std::to_string(i));
    }
    const int layers_expected = layers() - static_cast<int>(removed.size());
    only_remove(std::move(removed));
    start(seed);
    {
      Host other(disk_, "other", seed + 1);
      for (Host* const host : {&*server_, &other})
        host->engine->faults().set_latency(std::chrono::milliseconds(1), std::chrono::milliseconds(20));
      for (int i = 0; i < 10'000 && layers() > layers_expected; ++i) {
        server_->live(std::chrono::milliseconds(5));
        other.live(std::chrono::milliseconds(5));
      }
      for (Host* const host : {&*server_, &other}) host->engine->faults().set_latency({}, {});
    }
    EXPECT_EQ(layers(), layers_expected);
    const auto report = run(server_->store->check(std::nullopt, nullptr)).value();
    EXPECT_EQ(report.findings_count, 0U)
        << report.findings.front().volume << ": " << report.findings.front().what;
    const auto snapshot = run(server_->store->open(server_->loop, std::to_string(seed) + ".0@7")).value();
    for (int i = 0; i < kSnapshots; ++i) {
      std::vector<std::byte> bytes(4096);
      ASSERT_TRUE(run(snapshot->read(static_cast<uint64_t>(i) * 4096, bytes)));
      if (i < 8) {
        EXPECT_EQ(static_cast<int>(bytes[0]), i + 1);
      }
    }
  }
}

}  // namespace
}  // namespace fdbnbd::volume
