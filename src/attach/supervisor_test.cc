#include "attach/supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <optional>

#include "base/limits.h"
#include "base/log.h"

namespace fdbnbd::attach {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr uint64_t kGiB = 1ULL << 30;
constexpr uint16_t kFlags = proto::kFlagHasFlags | proto::kFlagSendFlush | proto::kFlagSendTrim;

class ManualClock final : public Clock {
 public:
  MonotonicTime now() const override { return now_; }
  WallTime wall_now() const override { return {}; }
  void advance(Duration by) { now_ += by; }

 private:
  MonotonicTime now_{};
};

class FakeDevice final : public Device {
 public:
  bool attached() const override { return is_attached; }
  Result<bool> give(Link link) override {
    if (dead_count == 0) return false;
    --dead_count;
    given_sizes.push_back(link.terms.size_bytes);
    return true;
  }
  Result<void> resize(uint64_t size_bytes) override {
    resizes.push_back(size_bytes);
    if (refuses_resize) return fail(Errc::io, "no");
    return {};
  }

  bool is_attached = true;
  bool refuses_resize = false;
  uint32_t dead_count = 0;  // as the kernel sees it
  std::vector<uint64_t> given_sizes;
  std::vector<uint64_t> resizes;
};

std::vector<std::unique_ptr<Connector>> one_connector() {
  std::vector<std::unique_ptr<Connector>> connectors;
  connectors.push_back(make_connector(net::Endpoint{}));
  return connectors;
}

class FakeServers final : public Servers {
 public:
  FakeServers() : Servers(one_connector(), "vol") {}

  Result<Link> open() override {
    ++opens_count;
    if (!terms) return fail(Errc::unavailable, "away");
    return Link{.socket = {}, .terms = *terms};
  }
  Result<proto::ExportTerms> look() override {
    ++looks_count;
    if (!terms) return fail(Errc::unavailable, "away");
    return *terms;
  }

  std::optional<proto::ExportTerms> terms = proto::ExportTerms{.size_bytes = kGiB, .flags = kFlags};
  int opens_count = 0;
  int looks_count = 0;
};

class SupervisorTest : public testing::Test {
 protected:
  SupervisorTest() { log::set_level(log::Level::error); }

  // `count` connections end.
  void kill_links(uint32_t count) {
    device_.dead_count += count;
    supervisor_.on_links_dead(count);
  }

  // Runs for `span` as the owner would.
  void run(Duration span) {
    const MonotonicTime end = clock_.now() + span;
    while (clock_.now() < end) {
      const Duration wait = supervisor_.step();
      ASSERT_LE(wait, limits::kDeviceStatePoll);
      if (supervisor_.over()) return;
      clock_.advance(std::min(end - clock_.now(), std::max<Duration>(wait, std::chrono::milliseconds(1))));
    }
  }

  ManualClock clock_;
  FakeDevice device_;
  FakeServers servers_;
  Supervisor supervisor_{
      {.device = "/dev/nbd0", .terms = {.size_bytes = kGiB, .flags = kFlags}, .connections_count = 2},
      device_,
      servers_,
      clock_};
};

TEST_F(SupervisorTest, WhileAllIsWellNothingIsOpenedOrChanged) {
  run(std::chrono::seconds(20));
  EXPECT_EQ(servers_.opens_count, 0);
  EXPECT_THAT(device_.resizes, IsEmpty());
  EXPECT_GE(servers_.looks_count, 5);
}

TEST_F(SupervisorTest, DeadConnectionsGetSuccessorsOneAfterTheOther) {
  kill_links(2);
  supervisor_.step();
  EXPECT_EQ(device_.given_sizes.size(), 1U);
  run(std::chrono::seconds(1));
  EXPECT_EQ(device_.dead_count, 0U);
  EXPECT_EQ(servers_.opens_count, 2);
}

TEST_F(SupervisorTest, AnOutageIsWaitedOutWithoutHammering) {
  servers_.terms.reset();
  kill_links(2);
  run(std::chrono::seconds(60));
  EXPECT_GE(servers_.opens_count, 30);
  EXPECT_LE(servers_.opens_count, 70);
  servers_.terms = {.size_bytes = kGiB, .flags = kFlags};
  run(std::chrono::seconds(2));
  EXPECT_EQ(device_.dead_count, 0U);
}

TEST_F(SupervisorTest, AConnectionThatNobodyNeedsEndsTheReconnecting) {
  supervisor_.on_links_dead(UINT32_MAX);  // messages were missed: perhaps all are dead
  device_.dead_count = 1;
  run(std::chrono::seconds(5));
  EXPECT_EQ(device_.dead_count, 0U);
  EXPECT_EQ(servers_.opens_count, 2);
}

TEST_F(SupervisorTest, AServerThatDropsEveryConnectionAtOnceIsNotHammered) {
  for (int i = 0; i < 100; ++i) {
    if (device_.dead_count == 0) kill_links(1);
    run(std::chrono::milliseconds(10));
  }
  EXPECT_LE(servers_.opens_count, 12);
}

TEST_F(SupervisorTest, ANewSizeReachesTheKernelOnce) {
  servers_.terms->size_bytes = 2 * kGiB;
  run(std::chrono::seconds(20));
  EXPECT_THAT(device_.resizes, ElementsAre(2 * kGiB));
}

TEST_F(SupervisorTest, ASizeThatChangedInAnOutageReachesTheKernel) {
  servers_.terms->size_bytes = 2 * kGiB;
  kill_links(1);
  supervisor_.step();
  EXPECT_THAT(device_.resizes, ElementsAre(2 * kGiB));
}

TEST_F(SupervisorTest, AResizeThatTheKernelRefusesIsNotRepeated) {
  device_.refuses_resize = true;
  servers_.terms->size_bytes = 2 * kGiB;
  run(std::chrono::seconds(20));
  EXPECT_EQ(device_.resizes.size(), 1U);
}

TEST_F(SupervisorTest, AServerThatOffersLessIsNotUsed) {
  for (const uint16_t flags : {uint16_t{kFlags | proto::kFlagReadOnly}, uint16_t{proto::kFlagHasFlags}}) {
    servers_.terms->flags = flags;
    kill_links(1);
    run(std::chrono::seconds(5));
    EXPECT_THAT(device_.given_sizes, IsEmpty());
  }
  servers_.terms->flags = kFlags | proto::kFlagSendFua;
  run(std::chrono::seconds(5));
  EXPECT_EQ(device_.given_sizes.size(), 2U);
}

TEST_F(SupervisorTest, AReadOnlyDeviceTakesEitherKindOfServer) {
  Supervisor supervisor({.device = "/dev/nbd0",
                         .terms = {.size_bytes = kGiB, .flags = proto::kFlagHasFlags | proto::kFlagReadOnly},
                         .connections_count = 1},
                        device_, servers_, clock_);
  for (const uint16_t flags : {uint16_t{proto::kFlagHasFlags | proto::kFlagReadOnly}, uint16_t{kFlags}}) {
    servers_.terms->flags = flags;
    device_.dead_count = 1;
    supervisor.on_links_dead(1);
    supervisor.step();
    clock_.advance(std::chrono::seconds(1));
    EXPECT_EQ(device_.dead_count, 0U);
  }
}

TEST_F(SupervisorTest, ADetachedDeviceIsTheEnd) {
  servers_.terms.reset();
  kill_links(1);
  run(std::chrono::seconds(1));
  const int opens_count = servers_.opens_count;
  device_.is_attached = false;
  supervisor_.step();
  EXPECT_TRUE(supervisor_.over());
  EXPECT_EQ(servers_.opens_count, opens_count);
}

}  // namespace
}  // namespace fdbnbd::attach
