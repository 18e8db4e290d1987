#include "kv/fdb/pacer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>

#include "async/scope.h"
#include "async/sim_loop.h"
#include "base/limits.h"
#include "kv/fdb/fake_fdb_testing.h"
#include "kv/fdb/fdb_engine.h"

namespace fdbnbd::kv {
namespace {

using std::chrono::milliseconds;

const fdb::FakeFdb& fake() {
  static const fdb::FakeFdb the_fake(FDBNBD_FAKE_FDB_LIBRARY);
  return the_fake;
}

// Every call is answered inside it, so one thread and simulated time are all there is.
class PacerTest : public testing::Test {
 protected:
  PacerTest() {
    fake().reset(7);
    fake().set_immediate(1);
    FdbOptions options;
    options.library_path = FDBNBD_FAKE_FDB_LIBRARY;
    options.clock = &loop_.clock();
    engine_ = open_fdb_engine(options).value();
    const auto transaction = engine_->begin(loop_);
    version_ = loop_.run(transaction->read_version()).value();
    transaction->set("owner", "");
  }
  ~PacerTest() override {
    engine_.reset();
    EXPECT_EQ(fake().count(fdb::kFakeLiveTransactions), 0);
    EXPECT_EQ(fake().count(fdb::kFakeLiveFutures), 0);
  }

  Task<void> commit_one(std::string value) {
    const auto transaction = engine_->begin(loop_);
    transaction->disable_write_conflicts();
    transaction->set_read_version(version_);
    transaction->set("k", value);
    EXPECT_TRUE(co_await transaction->commit());
    ++committed_count_;
  }
  void start(uint32_t commits_count, const std::string& value = "v") {
    for (uint32_t i = 0; i < commits_count; ++i) scope_.spawn(commit_one(value));
  }
  // Until nothing is left to run but what waits for a time.
  Task<void> settle() {
    for (int i = 0; i < 1000; ++i) co_await reschedule(loop_);
  }
  Task<void> finish() { co_await scope_.join(); }
  Task<void> let_pass(Duration time) { co_await sleep_for(loop_, time); }

  int64_t versions_given_count() const { return fake().count(fdb::kFakeReadVersions); }

  SimLoop loop_{1};
  std::unique_ptr<Engine> engine_;
  TaskScope scope_;
  Version version_ = 0;
  uint32_t committed_count_ = 0;
};

TEST_F(PacerTest, ACommitAtAGivenVersionPaysWithOneReadVersion) {
  const int64_t before = versions_given_count();
  start(10);
  loop_.run(finish());
  EXPECT_EQ(versions_given_count(), before + 10);
}

TEST_F(PacerTest, ACommitDoesNotWaitForItsOwnPayment) {
  fake().set_unreachable(1);
  start(1);
  loop_.run(settle());
  EXPECT_EQ(committed_count_, 1u);
  fake().set_unreachable(0);
  loop_.run(finish());
}

TEST_F(PacerTest, ACommitWithAReadVersionOfItsOwnHasPaid) {
  const int64_t before = versions_given_count();
  const auto transaction = engine_->begin(loop_);
  ASSERT_TRUE(loop_.run(transaction->get("k", Isolation::serializable)));
  transaction->set("k", "v");
  ASSERT_TRUE(loop_.run(transaction->read_version()));
  ASSERT_TRUE(loop_.run(transaction->commit()));
  EXPECT_EQ(versions_given_count(), before + 1);
}

TEST_F(PacerTest, WhileTheClusterGivesNoReadVersionsOnlySoManyCommitsTakeEffect) {
  fake().set_unreachable(1);
  start(3 * limits::kFdbInitialPayments);
  loop_.run(settle());
  EXPECT_EQ(committed_count_, limits::kFdbInitialPayments);
  fake().set_unreachable(0);
  loop_.run(finish());
  EXPECT_EQ(committed_count_, 3 * limits::kFdbInitialPayments);
}

TEST_F(PacerTest, SlowReadVersionsHalveWhatMayBeOutstanding) {
  fake().set_unreachable(1);
  start(limits::kFdbInitialPayments);
  loop_.run(settle());
  loop_.run(let_pass(limits::kFdbSlowReadVersion + milliseconds(1)));
  fake().set_unreachable(0);
  loop_.run(finish());

  committed_count_ = 0;
  fake().set_unreachable(1);
  start(limits::kFdbInitialPayments);
  loop_.run(settle());
  EXPECT_EQ(committed_count_, limits::kFdbInitialPayments / 2);
  fake().set_unreachable(0);
  loop_.run(finish());
}

TEST_F(PacerTest, AfterARefusalNothingIsStartedForAWhile) {
  fake().script(fdb::kFakeReadVersion, 1078, fdb::kFakeNothing, 1);
  start(1);
  loop_.run(settle());
  EXPECT_EQ(committed_count_, 1u);
  const MonotonicTime refused_at = loop_.clock().now();
  start(1);
  loop_.run(finish());
  EXPECT_EQ(committed_count_, 2u);
  EXPECT_GE(loop_.clock().now() - refused_at, Duration(limits::kFdbRefusalPause));
}

TEST_F(PacerTest, ALongQueueOfAStorageServerSlowsCommitsDown) {
  const auto teller = engine_->begin(loop_);
  teller->set(
      "\xff\xff/metrics/health/aggregate",
      R"({"batch_limited":false,"limiting_storage_durability_lag":9000000,"limiting_storage_queue":900000000})");
  ASSERT_TRUE(loop_.run(teller->commit()));
  loop_.run(let_pass(fdb::WriteRate::kInterval));
  start(1);  // looks
  loop_.run(finish());
  const MonotonicTime slowed_at = loop_.clock().now();
  for (int i = 0; i < 4; ++i) start(1, std::string(2'000'000, 'v'));
  loop_.run(finish());
  // The fourth waits for the three before it, at 8 MB/s.
  EXPECT_GE(loop_.clock().now() - slowed_at, milliseconds(600));
  EXPECT_EQ(committed_count_, 5u);
}

TEST_F(PacerTest, CommitsThatStopComingBackAreNotAddedToWithoutEnd) {
  fake().hold_commits(1);
  start(3 * limits::kFdbCommitsInFlight);
  loop_.run(settle());
  EXPECT_EQ(fake().held_commits(), static_cast<int>(limits::kFdbCommitsInFlight));
  loop_.run(let_pass(limits::kFdbSlowCommit + milliseconds(1)));
  fake().hold_commits(0);
  loop_.run(settle());
  loop_.run(finish());
  EXPECT_EQ(committed_count_, 3 * limits::kFdbCommitsInFlight);
}

TEST_F(PacerTest, ATurnThatWasAwaitedIsNotAwaitedAgain) {
  const int64_t before = versions_given_count();
  const auto transaction = engine_->begin(loop_);
  transaction->set("k", "v");
  loop_.run(transaction->await_turn());
  EXPECT_EQ(versions_given_count(), before + 1);
  transaction->set_read_version(version_);
  ASSERT_TRUE(loop_.run(transaction->commit()));
  EXPECT_EQ(versions_given_count(), before + 1);
}

TEST_F(PacerTest, TurnsThatAreNotUsedAreGivenBack) {
  for (uint32_t i = 0; i < 2 * limits::kFdbCommitsInFlight; ++i)
    loop_.run(engine_->begin(loop_)->await_turn());
  start(1);
  loop_.run(finish());
  EXPECT_EQ(committed_count_, 1u);
}

TEST_F(PacerTest, AnEngineGoesWithPaymentsOutstanding) {
  fake().set_unreachable(1);
  start(3);
  loop_.run(settle());
  EXPECT_EQ(committed_count_, 3u);
  loop_.run(finish());
  engine_.reset();
  fake().set_unreachable(0);
}

}  // namespace
}  // namespace fdbnbd::kv
