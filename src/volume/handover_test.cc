#include <gtest/gtest.h>

#include "volume/hosts_testing.h"

// How a volume goes from server to server, and what the former owner may still do and say.

namespace fdbnbd::volume {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Opened = std::optional<Result<std::shared_ptr<block::Export>>>;

class HandoverTest : public HostsFixture {
 protected:
  // Until the server has seen that another one asks for the volume.
  static void live_until_asked(Host& host) {
    for (int i = 0; i < 300; ++i) {
      host.live(milliseconds(10));
      const auto flushed = host.loop.run(host.disk->flush());
      if (!flushed && flushed.error().code == Errc::cancelled) return;
    }
    FAIL() << "nobody has asked";
  }
};

TEST_F(HandoverTest, AClientThatComesBackDuringAHandoverDoesNotUndoIt) {
  Host c(disk_, "host c", 3, Takeover::handover);
  std::optional<Result<void>> written;
  Opened wanted;
  Opened back;
  TaskScope scope;
  const std::vector<std::byte> data(4096, std::byte{8});
  a_.engine->faults().set_latency(seconds(3), seconds(3));
  scope.spawn(store_result(a_.disk->write(0, data, {}), written));
  a_.live(milliseconds(10));
  a_.engine->faults().set_latency({}, {});
  scope.spawn(store_open(c, wanted));
  c.live(milliseconds(100));
  live_until_asked(a_);
  ASSERT_FALSE(written) << "the handover waits for it";
  scope.spawn(store_open(a_, back));
  for (int i = 0; i < 100 && !wanted; ++i) live(a_, c, milliseconds(100));
  ASSERT_TRUE(written);
  EXPECT_TRUE(*written) << "what was begun before the handover is finished: " << written->error().what;
  ASSERT_TRUE(wanted && *wanted);
  c.disk = std::move(**wanted);
  EXPECT_EQ(c.read().value(), 8);
  for (int i = 0; i < 100 && !back; ++i) live(a_, c, milliseconds(100));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->error().code, Errc::busy);
  EXPECT_TRUE(c.write(9));
}

TEST_F(HandoverTest, ARollbackDuringAHandoverWaitsForWhatWasBegun) {
  ASSERT_TRUE(a_.loop.run(a_.store->snapshot({"disk@s"}, {})));
  Host c(disk_, "host c", 3, Takeover::handover);
  std::optional<Result<void>> written;
  std::optional<Result<void>> rolled;
  Opened wanted;
  TaskScope scope;
  const std::vector<std::byte> data(4096, std::byte{8});
  a_.engine->faults().set_latency(seconds(3), seconds(3));
  scope.spawn(store_result(a_.disk->write(0, data, {}), written));
  a_.live(milliseconds(10));
  a_.engine->faults().set_latency({}, {});
  scope.spawn(store_open(c, wanted));
  c.live(milliseconds(100));
  live_until_asked(a_);
  ASSERT_FALSE(written);
  const auto roll_back = [](Host& host, std::optional<Result<void>>& result) -> Task<void> {
    const auto info = co_await host.store->rollback("disk@s", true);
    result = info ? Result<void>() : Result<void>(tl::unexpected(info.error()));
  };
  scope.spawn(roll_back(a_, rolled));
  for (int i = 0; i < 100 && !rolled; ++i) live(a_, c, milliseconds(100));
  ASSERT_TRUE(written && rolled);
  EXPECT_TRUE(*written) << written->error().what;
  EXPECT_EQ(rolled->error().code, Errc::busy) << "it is served elsewhere now";
  ASSERT_TRUE(wanted && *wanted);
  c.disk = std::move(**wanted);
  EXPECT_EQ(c.read().value(), 8);
}

TEST_F(HandoverTest, AReleaseInDoubtIsNoLossOfTheVolume) {
  using enum kv::CommitFault;
  uint64_t seed = 10;
  for (const auto fault : {unknown_applied, unknown_not_applied, unknown_applied_late}) {
    Host c(disk_, "host c", seed++, Takeover::handover);
    Opened wanted;
    TaskScope scope;
    scope.spawn(store_open(c, wanted));
    c.live(milliseconds(100));
    a_.engine->faults().set_latency(milliseconds(50), milliseconds(50));
    live_until_asked(a_);
    a_.engine->faults().fail_next_commits(fault);
    a_.live(seconds(5));
    a_.engine->faults().release_late_commits();
    EXPECT_EQ(a_.write(6).error().code, Errc::cancelled);
    EXPECT_EQ(a_.read().error().code, Errc::cancelled);
    EXPECT_EQ(a_.loop.run(a_.disk->flush()).error().code, Errc::cancelled);
    const MonotonicTime before = c.now();
    for (int i = 0; i < 50 && !wanted; ++i) c.live(milliseconds(100));
    EXPECT_LT(c.now() - before, seconds(1));
    ASSERT_TRUE(wanted && *wanted);
    wanted->value().reset();
    c.live(seconds(1));
    scope.spawn(store_open(a_, wanted));
    a_.engine->faults().set_latency({}, {});
    wanted.reset();
    for (int i = 0; i < 50 && !wanted; ++i) live(a_, c, milliseconds(100));
    ASSERT_TRUE(wanted && *wanted) << wanted->error().what;
    a_.disk = std::move(**wanted);
    EXPECT_TRUE(a_.write(1));
  }
}

TEST_F(HandoverTest, AVolumeThatIsOnItsWayIsNotLeftToAnotherRequester) {
  Host c(disk_, "host c", 3, Takeover::handover);
  Host e(disk_, "host e", 4, Takeover::handover);
  Opened wanted;
  Opened also_wanted;
  TaskScope scope;
  scope.spawn(store_open(c, wanted));
  c.live(milliseconds(100));
  a_.live(seconds(2));  // let go for c, which has not come yet
  EXPECT_EQ(a_.write(6).error().code, Errc::cancelled);
  scope.spawn(store_open(e, also_wanted));
  e.live(seconds(1));
  EXPECT_FALSE(also_wanted);
  live(c, e, seconds(1));
  EXPECT_TRUE(wanted && *wanted);
  for (int i = 0; i < 50 && !also_wanted; ++i) live(c, e, milliseconds(100));
  EXPECT_TRUE(also_wanted && *also_wanted) << "asked of c afterwards";
}

TEST_F(HandoverTest, ARequestThatTakesEffectLateAsksNobody) {
  Host c(disk_, "host c", 3, Takeover::handover);
  c.engine->faults().fail_next_commits(kv::CommitFault::unknown_applied_late);
  ASSERT_TRUE(open_beside(c, a_));
  c.engine->faults().release_late_commits();
  c.disk.reset();
  c.live(milliseconds(100));
  const MonotonicTime before = b_.now();
  ASSERT_TRUE(b_.open());
  EXPECT_LT(b_.now() - before, seconds(1)) << "kept for a server that has been there";
}

TEST_F(HandoverTest, AVolumeIsNotHandedToAServerThatHasGivenUp) {
  Host c(disk_, "host c", 3, Takeover::handover);
  Opened wanted;
  TaskScope scope;
  scope.spawn(store_open(c, wanted));
  c.live(milliseconds(100));
  c.store->stop_opening();
  c.live(milliseconds(100));
  ASSERT_TRUE(wanted);
  EXPECT_EQ(wanted->error().code, Errc::cancelled);
  a_.live(seconds(3));
  EXPECT_TRUE(a_.write(2));
}

TEST_F(HandoverTest, AVolumeThatIsAskedForWhileItIsOpenedKeepsAnExactUsage) {
  // Many layers take long to load.
  for (uint8_t i = 1; i <= 10; ++i) {
    ASSERT_TRUE(a_.write(i, i * 4096U));
    ASSERT_TRUE(a_.loop.run(a_.store->snapshot({"disk@" + std::to_string(i)}, {})));
  }
  a_.disk.reset();
  a_.live(seconds(1));
  Host c(disk_, "host c", 3, Takeover::handover);
  Opened opened;
  Opened wanted;
  TaskScope scope;
  b_.engine->faults().set_latency(milliseconds(300), milliseconds(300));
  scope.spawn(store_open(b_, opened));
  for (int i = 0; i < 100 && a_.loop.run(a_.store->list_locks()).value().empty(); ++i)
    b_.live(milliseconds(50));
  ASSERT_FALSE(opened);
  scope.spawn(store_open(c, wanted));
  c.live(milliseconds(100));
  b_.live(seconds(20));  // let go for c, which stands still
  EXPECT_EQ(a_.loop.run(a_.store->info("disk")).value().used_bytes, 11U * 4096);
  c.live(seconds(1));
  EXPECT_TRUE(wanted && *wanted);
  ASSERT_TRUE(opened);
}

}  // namespace
}  // namespace fdbnbd::volume
