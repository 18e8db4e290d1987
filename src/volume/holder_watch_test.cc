#include "volume/holder_watch.h"

#include <gtest/gtest.h>

namespace fdbnbd::volume {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Verdict = HolderWatch::Verdict;

constexpr InstanceId kUs{1};
constexpr InstanceId kHolder{2};
constexpr InstanceId kThird{3};

class HolderWatchTest : public testing::Test {
 protected:
  HolderWatchTest() {
    sight_.fence.epoch = 7;
    sight_.fence.owner = kHolder;
    sight_.heartbeat = HeartbeatRecord{kHolder, 1, 0, {}, "host a, pid 1"};
  }

  // Looks every 200 ms until `until`; the last verdict.
  Verdict look_until(Duration until) {
    Verdict verdict = Verdict::unclear;
    for (; now_ <= MonotonicTime(until); now_ += milliseconds(200))
      verdict = watch_.look(sight_, now_, now_ + milliseconds(1));
    return verdict;
  }

  HolderWatch watch_{kUs, seconds(5)};
  HolderSight sight_;
  MonotonicTime now_{};
};

TEST_F(HolderWatchTest, AHolderThatIsSilentForTheLeaseTimeHasLost) {
  EXPECT_EQ(look_until(milliseconds(4900)), Verdict::unclear);
  EXPECT_EQ(look_until(milliseconds(5300)), Verdict::silent);
}

TEST_F(HolderWatchTest, AHeartbeatThatMovesIsLifeAndStartsTheTimeAnew) {
  EXPECT_EQ(look_until(seconds(4)), Verdict::unclear);
  ++sight_.heartbeat->counter;
  EXPECT_EQ(watch_.look(sight_, now_, now_), Verdict::alive);
  const MonotonicTime moved_at = now_;
  now_ += milliseconds(200);
  EXPECT_EQ(look_until(moved_at - MonotonicTime() + milliseconds(4900)), Verdict::unclear);
  EXPECT_EQ(look_until(moved_at - MonotonicTime() + milliseconds(5300)), Verdict::silent);
}

TEST_F(HolderWatchTest, TheHoldersOwnLeaseTimeCountsWhereItIsLonger) {
  sight_.heartbeat->lease_duration_ms = 8000;
  EXPECT_EQ(look_until(seconds(7)), Verdict::unclear);
  EXPECT_EQ(look_until(milliseconds(8500)), Verdict::silent);
}

TEST_F(HolderWatchTest, TimeInWhichTheStoreDidNotAnswerDoesNotCount) {
  EXPECT_EQ(look_until(seconds(4)), Verdict::unclear);
  // One answer takes 3 s: the holder may have been held up as well.
  EXPECT_EQ(watch_.look(sight_, now_, now_ + seconds(3)), Verdict::unclear);
  now_ += seconds(3) + milliseconds(200);
  EXPECT_EQ(watch_.look(sight_, now_, now_), Verdict::unclear);
  EXPECT_EQ(look_until(seconds(12)), Verdict::unclear);
  EXPECT_EQ(look_until(milliseconds(12800)), Verdict::silent);
}

TEST_F(HolderWatchTest, AGapBetweenOurLooksDoesNotCount) {
  EXPECT_EQ(look_until(seconds(1)), Verdict::unclear);
  now_ += seconds(60);
  EXPECT_EQ(watch_.look(sight_, now_, now_), Verdict::unclear);
}

TEST_F(HolderWatchTest, AnotherHolderIsWatchedAnew) {
  EXPECT_EQ(look_until(milliseconds(4900)), Verdict::unclear);
  sight_.fence.epoch = 8;
  sight_.fence.owner = kThird;
  sight_.heartbeat = HeartbeatRecord{kThird, 1, 0, {}, "host c"};
  EXPECT_EQ(look_until(milliseconds(9800)), Verdict::unclear);
}

TEST_F(HolderWatchTest, TheHeartbeatOfAFormerHolderIsNobodysLife) {
  sight_.heartbeat->owner = kThird;
  EXPECT_EQ(look_until(seconds(3)), Verdict::unclear);
  ++sight_.heartbeat->counter;
  EXPECT_EQ(watch_.look(sight_, now_, now_), Verdict::unclear);
}

TEST_F(HolderWatchTest, AFreeVolumeAndOnesOwnAreFreeAtOnce) {
  sight_.fence.owner = kUs;
  EXPECT_EQ(watch_.look(sight_, now_, now_), Verdict::free);
  sight_.fence.owner = {};
  EXPECT_EQ(watch_.look(sight_, now_, now_), Verdict::free);
}

TEST_F(HolderWatchTest, AVolumeThatIsBeingHandedOverIsTheRequestersAlone) {
  sight_.fence.owner = {};
  sight_.handover = HandoverRecord{kThird, "host c"};
  EXPECT_EQ(watch_.look(sight_, now_, now_), Verdict::unclear);
  now_ += milliseconds(200);
  EXPECT_EQ(look_until(seconds(4)), Verdict::unclear);
  EXPECT_EQ(look_until(milliseconds(5800)), Verdict::silent) << "the requester never came";
  sight_.handover->requester = kUs;
  EXPECT_EQ(watch_.look(sight_, now_, now_), Verdict::free);
}

}  // namespace
}  // namespace fdbnbd::volume
