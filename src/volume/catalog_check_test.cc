#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "async/scope.h"
#include "async/sim_loop.h"
#include "base/random.h"
#include "kv/memory/memory_engine.h"
#include "volume/store.h"

// `check`: of volumes that another server holds, and what it tells while it reads.

namespace fdbnbd::volume {
namespace {

constexpr uint32_t kBlock = 4096;
constexpr uint64_t kDiskBytes = 64 << 20;
constexpr uint64_t kBusyBlocks = 4096;  // that are written all the time

// A server of a store that several share; all of them in one simulated world.
struct Host {
  Host(SimLoop& loop, std::shared_ptr<kv::MemoryDisk> disk, const std::string& holder, uint64_t seed)
      : loop(loop) {
    kv::MemoryOptions memory;
    memory.disk = std::move(disk);
    memory.seed = seed;
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
  }
  ~Host() { loop.run(store->close()); }

  SimLoop& loop;
  std::unique_ptr<kv::MemoryEngine> engine;
  std::unique_ptr<Store> store;
};

struct Heard final : Progress {
  struct Report {
    uint64_t done_bytes;
    uint64_t total_bytes;
  };
  std::vector<Report> reports;

  void on_progress(uint64_t done_bytes, uint64_t total_bytes) override {
    reports.push_back({done_bytes, total_bytes});
  }
  bool cancelled() const override { return false; }

  // That it went from the beginning to the end of `total_bytes`, and never back.
  void expect_all_of(uint64_t total_bytes) const {
    ASSERT_FALSE(reports.empty());
    EXPECT_EQ(reports.front().done_bytes, 0U);
    uint64_t done_bytes = 0;
    for (const Report& report : reports) {
      EXPECT_GE(report.done_bytes, done_bytes);
      EXPECT_EQ(report.total_bytes, total_bytes);
      done_bytes = report.done_bytes;
    }
    // A part is told at its beginning, so the last extent is not.
    EXPECT_GE(done_bytes + limits::kBlocksPerExtent * kBlock, total_bytes);
    EXPECT_LE(done_bytes, total_bytes);
    EXPECT_GT(done_bytes, total_bytes / 2);
  }
};

class CatalogCheckTest : public testing::TestWithParam<uint64_t> {
 protected:
  CatalogCheckTest()
      : loop_(GetParam()),
        memory_(kv::make_memory_disk()),
        owner_(loop_, memory_, "the owner", 10 * GetParam() + 1),
        other_(loop_, memory_, "the other", 10 * GetParam() + 2) {
    disk_ = make("disk");
  }
  ~CatalogCheckTest() override { disk_.reset(); }

  std::shared_ptr<block::Export> make(const std::string& name) {
    EXPECT_TRUE(loop_.run(owner_.store->create(
        name, {.size_bytes = kDiskBytes, .block_bytes = kBlock, .compression = Compression::none})));
    return loop_.run(owner_.store->open(loop_, name)).value();
  }
  void write(block::Export& disk, uint64_t block, uint64_t blocks_count) {
    for (uint64_t done = 0; done < blocks_count; done += 256) {
      const uint64_t count = std::min<uint64_t>(256, blocks_count - done);
      const std::vector<std::byte> bytes(count * kBlock, std::byte{7});
      ASSERT_TRUE(loop_.run(disk.write((block + done) * kBlock, bytes, {})));
    }
  }
  CheckReport check(std::optional<std::string> name, Progress* progress = nullptr) {
    auto report = loop_.run(other_.store->check(std::move(name), progress));
    EXPECT_TRUE(report) << report.error().what;
    return report ? *report : CheckReport{};
  }
  // A transaction that does to the store what no program does.
  void damage(const std::function<void(kv::Transaction&)>& change) {
    const auto transaction = other_.engine->begin(loop_);
    change(*transaction);
    ASSERT_TRUE(loop_.run(transaction->commit()));
  }
  std::vector<kv::KeyValue> stored_blocks() {
    const auto transaction = other_.engine->begin(loop_);
    return loop_.run(transaction->get_range({"D", "E"}, {.rows_limit = 100'000}, kv::Isolation::snapshot))
        .value()
        .rows;
  }

  SimLoop loop_;
  std::shared_ptr<kv::MemoryDisk> memory_;
  Host owner_;
  Host other_;
  std::shared_ptr<block::Export> disk_;
};

INSTANTIATE_TEST_SUITE_P(Seeds, CatalogCheckTest, testing::Values(1, 2, 3));

TEST_P(CatalogCheckTest, AVolumeThatAnotherServerHoldsIsRead) {
  write(*disk_, 100, 3000);
  Heard heard;
  const CheckReport report = check("disk", &heard);
  EXPECT_EQ(report.findings_count, 0U);
  EXPECT_EQ(report.volumes_count, 1U);
  EXPECT_EQ(report.blocks_count, 3000U);
  heard.expect_all_of(uint64_t{3000} * kBlock);
  write(*disk_, 0, 1);  // it is still the owner's
}

TEST_P(CatalogCheckTest, ProgressIsThatOfAllVolumesAndSnapshots) {
  write(*disk_, 0, 2000);
  ASSERT_TRUE(loop_.run(owner_.store->snapshot({"disk@one"}, {})));
  write(*disk_, 1000, 1500);
  const auto second = make("second");
  write(*second, 0, 1100);
  Heard heard;
  const CheckReport report = check(std::nullopt, &heard);
  EXPECT_EQ(report.findings_count, 0U);
  EXPECT_EQ(report.volumes_count, 2U);
  EXPECT_EQ(report.blocks_count, 4600U);
  heard.expect_all_of(uint64_t{4600} * kBlock);
  Heard of_one;
  EXPECT_EQ(check("disk", &of_one).blocks_count, 3500U);
  of_one.expect_all_of(uint64_t{3500} * kBlock);
}

TEST_P(CatalogCheckTest, DamageInAVolumeThatAnotherServerHoldsIsFound) {
  write(*disk_, 0, 4);
  const auto rows = stored_blocks();
  ASSERT_EQ(rows.size(), 4U);
  damage([&](kv::Transaction& transaction) {
    std::string value = rows[1].value;
    value.back() = static_cast<char>(value.back() ^ 1);
    transaction.set(rows[1].key, value);
    transaction.clear(rows[2].key);
  });
  for (const auto& name : {std::optional<std::string>("disk"), std::optional<std::string>()}) {
    const CheckReport report = check(name);
    ASSERT_EQ(report.findings_count, 2U);
    EXPECT_EQ(report.findings[0].volume, "disk");
    EXPECT_EQ(report.findings[0].offset_bytes, kBlock);
    EXPECT_EQ(report.findings[1].offset_bytes, 2 * kBlock);
    EXPECT_EQ(report.findings[1].what, "in the presence bitmap, but not stored");
  }
}

// Open from the moment on at which the check reads.
struct Gate final : Progress {
  bool is_open = false;

  void on_progress(uint64_t /*done_bytes*/, uint64_t /*total_bytes*/) override { is_open = true; }
  bool cancelled() const override { return false; }
};

// While the gate is closed time passes, as the check waits for; while it is open none does, so that what is
// written comes between what is read.
Task<void> write_and_trim(SimLoop& loop, block::Export& disk, uint64_t seed, const Gate& gate,
                          const bool& is_over) {
  Random random(seed);
  const std::vector<std::byte> bytes(8 * kBlock, std::byte{1});
  while (!is_over) {
    const uint64_t block = random.next() % kBusyBlocks;
    if (random.next() % 2 == 0) {
      EXPECT_TRUE(co_await disk.write(block * kBlock, bytes, {}));
    } else {
      EXPECT_TRUE(co_await disk.trim(block * kBlock, 8 * kBlock, {}));
    }
    if (gate.is_open) {
      co_await reschedule(loop);
    } else {
      co_await sleep_for(loop, std::chrono::milliseconds(10));
    }
  }
}

Task<void> join(TaskScope& scope) {
  co_await scope.join();
}

TEST_P(CatalogCheckTest, WhatAnotherServerWritesMeanwhileIsNotDamage) {
  bool is_over = false;
  Gate gate;
  TaskScope scope;
  for (uint64_t i = 0; i < 4; ++i)
    scope.spawn(write_and_trim(loop_, *disk_, GetParam() * 4 + i, gate, is_over));
  for (int i = 0; i < 40; ++i) {
    const CheckReport report = check("disk", &gate);
    EXPECT_EQ(report.findings_count, 0U) << report.findings.front().what;
    gate.is_open = false;
  }
  is_over = true;
  loop_.run(join(scope));
}

}  // namespace
}  // namespace fdbnbd::volume
