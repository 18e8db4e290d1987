#include <gtest/gtest.h>

#include "volume/hosts_testing.h"

// How a volume goes from server to server, and what the former owner may still do and say.

namespace fdbnbd::volume {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Opened = std::optional<Result<std::shared_ptr<block::Export>>>;

class HandoverTest : public HostsFixture {};

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

}  // namespace
}  // namespace fdbnbd::volume
