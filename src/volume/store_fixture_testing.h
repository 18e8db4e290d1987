#pragma once

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "async/sim_loop.h"
#include "kv/memory/memory_engine.h"
#include "volume/store.h"

namespace fdbnbd::volume {

inline constexpr uint32_t kBlock = 4096;

// A store in memory, whose disks have blocks of one content each.
class StoreFixture : public testing::Test {
 protected:
  StoreFixture() : disk_(kv::make_memory_disk()) { open(); }
  ~StoreFixture() override {
    if (store_) run(store_->close());
  }

  void open() {
    open_engine();
    start_store();
  }
  void open_engine(bool can_lose_power = false) {
    kv::MemoryOptions options;
    options.disk = disk_;
    options.can_lose_power = can_lose_power;
    options.capabilities = {.commits_in_flight = 4, .commits_can_be_in_doubt = false};
    engine_ = kv::open_memory_engine(options).value();
  }
  void start_store() {
    Store::Options store_options;
    store_options.volume_executors = {&loop_};
    store_ = run(open_store(*engine_, loop_, store_options)).value();
  }
  void close() {
    run(store_->close());
    store_.reset();
    engine_.reset();
  }
  void reopen() {
    close();
    open();
  }

  template <typename T>
  T run(Task<T> task) {
    return loop_.run(std::move(task));
  }
  void run(Task<void> task) { loop_.run(std::move(task)); }
  void settle() {
    while (loop_.step()) {
    }
  }

  void create(const std::string& name, uint64_t size_bytes = 16 << 20) {
    ASSERT_TRUE(run(store_->create(
        name, {.size_bytes = size_bytes, .block_bytes = kBlock, .compression = Compression::none})));
  }
  std::shared_ptr<block::Export> open_disk(const std::string& name) {
    return run(store_->open(loop_, name)).value();
  }
  void write(block::Export& disk, uint64_t block, uint8_t fill, uint64_t blocks_count = 1) {
    ASSERT_TRUE(
        run(disk.write(block * kBlock, std::vector<std::byte>(blocks_count * kBlock, std::byte{fill}), {})));
  }
  // The first byte of the block, which is the same all over.
  int content(block::Export& disk, uint64_t block) {
    std::vector<std::byte> bytes(kBlock);
    const auto segments = run(disk.read(block * kBlock, bytes));
    if (!segments) return -1;
    if (segments->front().is_hole) return 0;
    for (const std::byte byte : bytes) {
      if (byte != bytes.front()) return -2;
    }
    return static_cast<int>(bytes.front());
  }
  size_t stored_blocks_count() {
    auto transaction = engine_->begin(loop_);
    return run(transaction->get_range({"D", "E"}, {.rows_limit = 100'000}, kv::Isolation::snapshot))
        .value()
        .rows.size();
  }
  size_t layers_count() {
    const auto transaction = engine_->begin(loop_);
    return run(transaction->get_range({"L", "M"}, {}, kv::Isolation::snapshot)).value().rows.size();
  }
  void expect_clean() {
    const auto report = run(store_->check(std::nullopt, nullptr)).value();
    EXPECT_EQ(report.findings_count, 0U)
        << report.findings.front().volume << ": " << report.findings.front().what;
  }
  Result<void> snap(const std::string& name) { return run(store_->snapshot({name}, {})); }
  Result<void> remove(const std::string& name, bool with_snapshots = false) {
    const auto removed = run(store_->remove(name, {.with_snapshots = with_snapshots, .now = true}));
    if (!removed) return tl::unexpected(removed.error());
    return {};
  }

  SimLoop loop_{1};
  std::shared_ptr<kv::MemoryDisk> disk_;
  std::unique_ptr<kv::MemoryEngine> engine_;
  std::unique_ptr<Store> store_;
};

}  // namespace fdbnbd::volume
