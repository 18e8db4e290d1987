#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "async/scope.h"
#include "async/sim_loop.h"
#include "kv/memory/memory_engine.h"
#include "volume/store.h"

namespace fdbnbd::volume {

// One server process: its own time, its own engine over the disk that all share.
struct Host {
  Host(std::shared_ptr<kv::MemoryDisk> disk, const std::string& holder, uint64_t seed,
       Takeover takeover = Takeover::when_free, ProcessMark process = {})
      : loop(seed) {
    kv::MemoryOptions options;
    options.disk = std::move(disk);
    options.capabilities = {
        .shared_between_hosts = true, .commits_in_flight = 4, .commits_are_durable = true};
    engine = kv::open_memory_engine(options).value();
    Store::Options store_options;
    store_options.volume_executors = {&loop};
    store_options.ownership = {.takeover = takeover,
                               .lease_duration = std::chrono::seconds(5),
                               .process = process,
                               .holder = holder};
    store_options.seed = seed;
    store = loop.run(open_store(*engine, loop, store_options)).value();
  }
  ~Host() {
    disk.reset();
    if (store) loop.run(store->close());
  }

  Result<void> open() {
    auto opened = loop.run(store->open(loop, "disk"));
    if (!opened) return propagate(opened);
    disk = std::move(*opened);
    return {};
  }
  Result<void> write(uint8_t stamp, uint64_t offset_bytes = 0) {
    return loop.run(disk->write(offset_bytes, std::vector<std::byte>(4096, std::byte{stamp}), {}));
  }
  Result<uint8_t> read(uint64_t offset_bytes = 0) {
    std::vector<std::byte> bytes(4096);
    auto segments = loop.run(disk->read(offset_bytes, bytes));
    if (!segments) return propagate(segments);
    return segments->front().is_hole ? uint8_t{0} : static_cast<uint8_t>(bytes[0]);
  }
  Task<void> sleep(Duration duration) { co_await sleep_for(loop, duration); }
  void live(Duration duration) { loop.run(sleep(duration)); }
  MonotonicTime now() const { return static_cast<const Executor&>(loop).clock().now(); }

  SimLoop loop;
  std::unique_ptr<kv::MemoryEngine> engine;
  std::unique_ptr<Store> store;
  std::shared_ptr<block::Export> disk;
};

// Two servers at one disk, which the first one has open.
class HostsFixture : public testing::Test {
 protected:
  HostsFixture() : disk_(kv::make_memory_disk()), a_(disk_, "host a", 1), b_(disk_, "host b", 2) {
    EXPECT_TRUE(a_.loop.run(a_.store->create(
        "disk", {.size_bytes = 1 << 20, .block_bytes = 4096, .compression = Compression::none})));
    EXPECT_TRUE(a_.open());
    EXPECT_TRUE(a_.write(1));
  }

  // Both hosts live for a while, in steps of 100 ms.
  void live(Host& one, Host& other, Duration duration) {
    for (Duration done{}; done < duration; done += std::chrono::milliseconds(100)) {
      one.live(std::chrono::milliseconds(100));
      other.live(std::chrono::milliseconds(100));
    }
  }

  static Task<void> store_open(Host& host, std::optional<Result<std::shared_ptr<block::Export>>>& opened) {
    opened = co_await host.store->open(host.loop, "disk");
  }
  // `taker` opens the disk while `other` lives.
  Result<void> open_beside(Host& taker, Host& other) {
    std::optional<Result<std::shared_ptr<block::Export>>> opened;
    TaskScope scope;
    scope.spawn(store_open(taker, opened));
    for (int i = 0; i < 1000 && !opened; ++i) live(taker, other, std::chrono::milliseconds(100));
    if (!opened) return fail(Errc::timeout, "still waiting after 100 s");
    if (!*opened) return propagate(*opened);
    taker.disk = std::move(**opened);
    return {};
  }

  std::shared_ptr<kv::MemoryDisk> disk_;
  Host a_;
  Host b_;
};

}  // namespace fdbnbd::volume
