#include "volume/lease.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "volume/hosts_testing.h"
#include "volume/interposed_engine_testing.h"

namespace fdbnbd::volume {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class LeaseTest : public HostsFixture {};

TEST_F(LeaseTest, AVolumeThatIsServedElsewhereIsBusyAndSaysWhere) {
  const Result<void> opened = open_beside(b_, a_);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, Errc::busy);
  EXPECT_NE(opened.error().what.find("host a"), std::string::npos) << opened.error().what;
  EXPECT_TRUE(a_.write(2));
  EXPECT_EQ(a_.read().value(), 2);
}

TEST_F(LeaseTest, AVolumeIsFreeAsSoonAsItsHolderLetsItGo) {
  a_.disk.reset();
  a_.live(milliseconds(100));
  const MonotonicTime before = b_.now();
  ASSERT_TRUE(b_.open());
  EXPECT_LT(b_.now() - before, seconds(1));
  EXPECT_EQ(b_.read().value(), 1);
}

TEST_F(LeaseTest, AHolderThatIsGoneLosesTheVolumeAfterTheLeaseTime) {
  const MonotonicTime before = b_.now();
  ASSERT_TRUE(b_.open());  // a_ stands still meanwhile
  EXPECT_GE(b_.now() - before, seconds(5));
  EXPECT_LT(b_.now() - before, seconds(7));
  EXPECT_EQ(b_.read().value(), 1);
}

TEST_F(LeaseTest, AProcessOfThisHostThatHasEndedIsNotWaitedFor) {
  a_.disk.reset();
  a_.live(milliseconds(100));
  ProcessMark ended = this_process();
  ended.pid = 0x7fffffff;
  Host gone(disk_, "this host, ended", 4, Takeover::when_free, ended);
  ASSERT_TRUE(gone.open());
  const MonotonicTime before = b_.now();
  ASSERT_TRUE(b_.open());
  EXPECT_LT(b_.now() - before, seconds(1));
  EXPECT_EQ(gone.write(9).error().code, Errc::fenced);
}

TEST_F(LeaseTest, AStoppedServerThatGoesOnChangesNothingAndReadsNothing) {
  ASSERT_TRUE(b_.open());
  ASSERT_TRUE(b_.write(7));
  a_.loop.stand_still(seconds(10));
  // The first thing it does is to read: its lease has ended, so it has to ask.
  EXPECT_EQ(a_.read().error().code, Errc::fenced);
  EXPECT_EQ(a_.write(2).error().code, Errc::fenced);
  EXPECT_EQ(a_.write(2, 4096).error().code, Errc::fenced);
  EXPECT_EQ(b_.read().value(), 7);
  EXPECT_EQ(b_.read(4096).value(), 0);
}

TEST_F(LeaseTest, AStoppedServersFirstWriteChangesNothing) {
  ASSERT_TRUE(b_.open());
  ASSERT_TRUE(b_.write(7));
  a_.loop.stand_still(milliseconds(1));  // its clock may say anything
  EXPECT_EQ(a_.write(2).error().code, Errc::fenced);
  EXPECT_EQ(b_.read().value(), 7);
}

TEST_F(LeaseTest, AServerThatWasStoppedForAWhileAndNotMissedGoesOn) {
  a_.loop.stand_still(seconds(60));
  EXPECT_EQ(a_.read().value(), 1);
  EXPECT_TRUE(a_.write(2));
}

TEST_F(LeaseTest, AnIdleServerNoticesThatItHasLost) {
  Host c(disk_, "host c", 3, Takeover::force);
  ASSERT_TRUE(c.open());
  live(a_, c, seconds(3));
  EXPECT_EQ(a_.read().error().code, Errc::fenced) << "within its lease, but it has been told";
}

TEST_F(LeaseTest, ForceDoesNotWait) {
  Host c(disk_, "host c", 3, Takeover::force);
  const MonotonicTime before = c.now();
  ASSERT_TRUE(c.open());
  EXPECT_LT(c.now() - before, seconds(1));
  ASSERT_TRUE(c.write(5));
  EXPECT_EQ(a_.write(2).error().code, Errc::fenced);
}

TEST_F(LeaseTest, AfterItHasLostAServerTakesTheVolumeBackWhenItIsFree) {
  ASSERT_TRUE(b_.open());
  ASSERT_TRUE(b_.write(7));
  EXPECT_EQ(a_.write(2).error().code, Errc::fenced);
  const std::shared_ptr<block::Export> lost = a_.disk;
  EXPECT_EQ(open_beside(a_, b_).error().code, Errc::busy);
  b_.disk.reset();
  b_.live(milliseconds(100));
  ASSERT_TRUE(a_.open());
  EXPECT_EQ(a_.read().value(), 7);
  EXPECT_TRUE(a_.write(8));
  // A client that was there before must not go on as if nothing had happened.
  EXPECT_EQ(a_.loop.run(lost->flush()).error().code, Errc::fenced);
}

TEST_F(LeaseTest, WhileTheStoreAnswersNobodyNobodyLosesItsVolume) {
  std::optional<Result<std::shared_ptr<block::Export>>> opened;
  TaskScope scope;
  scope.spawn(store_open(b_, opened));
  live(a_, b_, milliseconds(500));
  a_.engine->faults().set_unavailable(true);
  b_.engine->faults().set_unavailable(true);
  live(a_, b_, seconds(30));
  EXPECT_FALSE(opened);
  // The one who waits is the first to be answered.
  b_.engine->faults().set_unavailable(false);
  live(b_, a_, seconds(3));
  EXPECT_FALSE(opened) << "taken from a holder that could not speak";
  a_.engine->faults().set_unavailable(false);
  live(a_, b_, seconds(3));
  ASSERT_TRUE(opened);
  EXPECT_EQ(opened->error().code, Errc::busy);
  EXPECT_TRUE(a_.write(3));
}

TEST_F(LeaseTest, ReadsOfAServerThatCannotReachTheStoreWait) {
  a_.engine->faults().set_unavailable(true);
  live(a_, b_, seconds(10));
  std::optional<Result<std::shared_ptr<block::Export>>> unused;
  std::vector<std::byte> bytes(4096);
  bool done = false;
  TaskScope scope;
  auto task = a_.disk->block_status(0, 4096, 1);
  const auto wait_for = [](auto status, bool& is_done) -> Task<void> {
    EXPECT_TRUE(co_await std::move(status));
    is_done = true;
  };
  scope.spawn(wait_for(std::move(task), done));
  live(a_, b_, seconds(5));
  EXPECT_FALSE(done) << "answered from memory that may be another server's past";
  a_.engine->faults().set_unavailable(false);
  live(a_, b_, seconds(3));
  EXPECT_TRUE(done);
}

TEST_F(LeaseTest, AHandoverLosesNothingAndDoesNotWaitForTheLease) {
  Host c(disk_, "host c", 3, Takeover::handover);
  const MonotonicTime before = c.now();
  ASSERT_TRUE(a_.write(4));
  ASSERT_TRUE(open_beside(c, a_));
  EXPECT_LT(c.now() - before, milliseconds(2500));
  EXPECT_EQ(c.read().value(), 4);
  EXPECT_TRUE(c.write(5));
  // The old one's clients get no error: their connections end, and they ask again elsewhere.
  EXPECT_EQ(a_.write(6).error().code, Errc::cancelled);
  EXPECT_EQ(a_.read().error().code, Errc::cancelled);
  EXPECT_EQ(c.read().value(), 5);
}

TEST_F(LeaseTest, DuringAHandoverTheOldServerDoesNotTakeTheVolumeBack) {
  Host c(disk_, "host c", 3, Takeover::handover);
  std::optional<Result<std::shared_ptr<block::Export>>> wanted;
  std::optional<Result<std::shared_ptr<block::Export>>> back;
  TaskScope scope;
  scope.spawn(store_open(c, wanted));
  c.live(milliseconds(100));
  a_.live(seconds(2));  // it has seen the request, and the requester has not come yet
  EXPECT_EQ(a_.write(6).error().code, Errc::cancelled);
  scope.spawn(store_open(a_, back));
  a_.live(seconds(1));
  EXPECT_FALSE(back);
  live(c, a_, seconds(2));
  ASSERT_TRUE(wanted && *wanted);
  live(c, a_, seconds(10));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->error().code, Errc::busy);
}

TEST_F(LeaseTest, AHandoverIsAskedForAnewOfWhoeverTookTheVolumeMeanwhile) {
  Host c(disk_, "host c", 3, Takeover::handover);
  Host d(disk_, "host d", 4, Takeover::force);
  std::optional<Result<std::shared_ptr<block::Export>>> opened;
  TaskScope scope;
  scope.spawn(store_open(c, opened));
  c.live(milliseconds(100));
  ASSERT_TRUE(d.open());
  for (int i = 0; i < 50 && !opened; ++i) live(c, d, milliseconds(100));
  ASSERT_TRUE(opened);
  ASSERT_TRUE(*opened) << opened->error().what;
  c.disk = std::move(**opened);
  EXPECT_TRUE(c.write(9));
}

TEST_F(LeaseTest, AServerThatIsToEndWaitsForNoVolume) {
  Host c(disk_, "host c", 3, Takeover::handover);
  std::optional<Result<std::shared_ptr<block::Export>>> opened;
  TaskScope scope;
  scope.spawn(store_open(c, opened));
  c.live(milliseconds(100));  // a_ stands still and hands nothing over
  EXPECT_FALSE(opened);
  c.store->stop_opening();
  c.live(milliseconds(100));
  ASSERT_TRUE(opened);
  EXPECT_EQ(opened->error().code, Errc::cancelled);
}

TEST_F(LeaseTest, AVolumeIsTakenByForceOnce) {
  Host c(disk_, "host c", 3, Takeover::force);
  Host d(disk_, "host d", 4, Takeover::force);
  ASSERT_TRUE(c.open());
  ASSERT_TRUE(d.open());
  EXPECT_EQ(c.write(2).error().code, Errc::fenced);
  EXPECT_EQ(open_beside(c, d).error().code, Errc::busy);
  EXPECT_TRUE(d.write(3));
}

TEST_F(LeaseTest, ABrokenLockFreesTheVolume) {
  EXPECT_EQ(b_.loop.run(b_.store->break_lock("disk")).value(), "host a");
  ASSERT_TRUE(b_.open());
  EXPECT_TRUE(b_.write(7));
  EXPECT_EQ(a_.write(2).error().code, Errc::fenced);
  EXPECT_EQ(b_.loop.run(b_.store->break_lock("nothing")).error().code, Errc::not_found);
}

TEST_F(LeaseTest, LocksAreListedWithTheirHolders) {
  const auto ours = a_.loop.run(a_.store->list_locks()).value();
  ASSERT_EQ(ours.size(), 1U);
  EXPECT_EQ(ours[0].volume, "disk");
  EXPECT_EQ(ours[0].holder, "host a");
  EXPECT_EQ(ours[0].state, LockInfo::State::ours);
  const auto silent = b_.loop.run(b_.store->list_locks()).value();  // a_ stands still
  ASSERT_EQ(silent.size(), 1U);
  EXPECT_EQ(silent[0].state, LockInfo::State::silent);
}

TEST_F(LeaseTest, AVolumeThatIsServedElsewhereIsNotRemoved) {
  std::optional<Result<void>> removed;
  const auto remove = [](Host& host, std::optional<Result<void>>& result) -> Task<void> {
    const auto done = co_await host.store->remove("disk", {.now = true});
    result = done ? Result<void>() : Result<void>(tl::unexpected(done.error()));
  };
  TaskScope scope;
  scope.spawn(remove(b_, removed));
  live(a_, b_, seconds(8));
  ASSERT_TRUE(removed);
  EXPECT_EQ(removed->error().code, Errc::busy);
  EXPECT_TRUE(a_.write(2));
}

TEST_F(LeaseTest, AHolderThatGoesOnBeforeAVerbIsDoneKeepsItsVolume) {
  ASSERT_TRUE(a_.loop.run(a_.store->create(
      "other", {.size_bytes = 1 << 20, .block_bytes = 4096, .compression = Compression::none})));
  Host c(disk_, "host c", 3);
  c.disk = c.loop.run(c.store->open(c.loop, "other")).value();
  ASSERT_TRUE(a_.loop.run(a_.store->create_group("g", {"disk", "other"})));
  ASSERT_TRUE(a_.loop.run(a_.store->snapshot_group("g@s")));
  std::optional<Result<void>> rolled;
  TaskScope scope;
  scope.spawn(store_result(b_.store->rollback_group("g@s"), rolled));
  b_.live(seconds(7));  // it has waited for a_, and waits for c
  a_.loop.stand_still(seconds(7));
  ASSERT_TRUE(a_.write(2));
  live(a_, b_, seconds(8));
  ASSERT_TRUE(rolled);
  ASSERT_FALSE(*rolled);
  EXPECT_EQ(rolled->error().code, Errc::busy) << rolled->error().what;
  EXPECT_TRUE(a_.write(3));
  EXPECT_EQ(a_.read().value(), 3);
}

TEST_F(LeaseTest, AllVolumesOfAnotherServerAreTakenOverAtOnce) {
  Host c(disk_, "host c", 3, Takeover::handover);
  std::optional<Result<uint32_t>> taken;
  const auto take = [](Host& host, std::optional<Result<uint32_t>>& result) -> Task<void> {
    result = co_await host.store->take_over_held();
  };
  TaskScope scope;
  scope.spawn(take(c, taken));
  live(c, a_, seconds(3));
  ASSERT_TRUE(taken && *taken);
  EXPECT_EQ(**taken, 1U);
  EXPECT_EQ(open_beside(a_, c).error().code, Errc::busy) << "kept for the clients that come over";
  ASSERT_TRUE(open_beside(c, a_));
  EXPECT_EQ(c.read().value(), 1);
}

TEST_F(LeaseTest, ASnapshotThatAnotherServerTakesStaysAsItWasAlsoAfterAHeartbeat) {
  ASSERT_TRUE(b_.loop.run(b_.store->snapshot({"disk@s"}, {})));
  a_.live(seconds(3));
  ASSERT_TRUE(a_.write(9));
  ASSERT_TRUE(a_.write(9, 4096));
  const auto snapshot = b_.loop.run(b_.store->open(b_.loop, "disk@s")).value();
  std::vector<std::byte> bytes(8192);
  const auto segments = b_.loop.run(snapshot->read(0, bytes));
  ASSERT_TRUE(segments) << segments.error().what;
  EXPECT_EQ(*segments, (std::vector<block::ReadSegment>{{4096, false}, {4096, true}}));
  EXPECT_EQ(bytes[0], std::byte{1});
}

// Two servers in one loop, of which the first gives a sign of life when it is asked for one and not else.
class SilentHolderTest : public testing::Test {
 protected:
  SilentHolderTest() {
    const auto transaction = engine_->begin(loop_);
    transaction->set(keys_.fence(kVolume), FenceRecord{.top_layer = {3}}.encode());
    EXPECT_TRUE(loop_.run(transaction->commit()));
    EXPECT_TRUE(loop_.run(a_lease_.acquire("disk")));
  }
  ~SilentHolderTest() override {
    loop_.run(a_lease_.stop());
    loop_.run(b_lease_.stop());
  }

  Task<void> a_goes_on() {
    EXPECT_TRUE(co_await a_lease_.renew());
    EXPECT_TRUE(a_lease_.allows_reads());
  }

  static Ownership ownership() {
    return {.takeover = Takeover::when_free, .lease_duration = seconds(5), .process = {}, .holder = "a host"};
  }
  LeasePlace place(kv::Engine& engine, InstanceId self) {
    return {engine, loop_, keys_, kVolume, self, stopping_};
  }

  static constexpr VolumeId kVolume{1};
  SimLoop loop_{1};
  const std::unique_ptr<kv::MemoryEngine> engine_ = kv::open_memory_engine().value();
  InterposedEngine interposed_{*engine_};
  const KeySpace keys_{""};
  const std::atomic<bool> stopping_ = false;
  Fence a_fence_{*engine_, loop_, keys_.fence(kVolume), InstanceId{1}};
  Fence b_fence_{interposed_, loop_, keys_.fence(kVolume), InstanceId{2}};
  Lease a_lease_{place(*engine_, InstanceId{1}), ownership(), a_fence_};
  Lease b_lease_{place(interposed_, InstanceId{2}), ownership(), b_fence_};
};

TEST_F(SilentHolderTest, AHolderThatGoesOnWhileTheVolumeIsTakenFromItKeepsIt) {
  interposed_.at_next_commit_of(keys_.fence(kVolume).front(), InterposedEngine::Outcome::as_it_is,
                                [this] { return a_goes_on(); });
  ASSERT_TRUE(loop_.run(b_lease_.acquire("disk")));
  EXPECT_TRUE(interposed_.has_happened());
  // It was taken later, when that sign of life had become old, too.
  EXPECT_FALSE(a_lease_.allows_reads());
  EXPECT_EQ(loop_.run(a_lease_.renew()).error().code, Errc::fenced);
}

struct Asked {
  const char* what;
  std::function<Task<Result<void>>(block::Export&)> request;
};

// Where nothing has to be changed there is no commit that would fail.
TEST(LostVolume, NothingIsAnsweredFromWhatItWas) {
  const std::vector<std::byte> zeroes(4096);
  const std::vector<Asked> requests = {
      {"trim", [](block::Export& disk) { return disk.trim(8192, 8192, {}); }},
      {"trim of a part", [](block::Export& disk) { return disk.trim(8192 + 512, 512, {}); }},
      {"trim with FUA", [](block::Export& disk) { return disk.trim(8192, 8192, {.fua = true}); }},
      {"zeroes", [](block::Export& disk) { return disk.write_zeroes(8192, 8192, {}); }},
      {"zeroes to what is zero",
       [](block::Export& disk) {
         return disk.write_zeroes(16384, 4096, {.fua = false, .no_hole = true, .fast_only = false});
       }},
      {"write of zeroes", [&](block::Export& disk) { return disk.write(8192, zeroes, {}); }},
      {"write of zeroes with FUA",
       [&](block::Export& disk) { return disk.write(8192, zeroes, {.fua = true}); }},
      {"write of zeroes to a part",
       [&](block::Export& disk) { return disk.write(8192 + 512, ByteView(zeroes).first(512), {}); }},
      {"flush", [](block::Export& disk) { return disk.flush(); }},
  };
  for (const Asked& asked : requests) {
    SCOPED_TRACE(asked.what);
    const auto disk = kv::make_memory_disk();
    Host a(disk, "host a", 1);
    Host b(disk, "host b", 2);
    ASSERT_TRUE(a.loop.run(a.store->create(
        "disk", {.size_bytes = 1 << 20, .block_bytes = 4096, .compression = Compression::none})));
    ASSERT_TRUE(a.open());
    ASSERT_TRUE(
        a.loop.run(a.disk->write_zeroes(16384, 4096, {.fua = false, .no_hole = true, .fast_only = false})));
    EXPECT_TRUE(a.loop.run(asked.request(*a.disk)));
    ASSERT_TRUE(b.open());  // a stands still
    for (uint64_t block = 0; block < 8; ++block) ASSERT_TRUE(b.write(7, block * 4096));
    a.loop.stand_still(seconds(10));
    const Result<void> answered = a.loop.run(asked.request(*a.disk));
    ASSERT_FALSE(answered);
    EXPECT_EQ(answered.error().code, Errc::fenced);
    EXPECT_EQ(b.read(8192).value(), 7);
  }
}

}  // namespace
}  // namespace fdbnbd::volume
