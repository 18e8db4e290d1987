#include "kv/fdb/fdb_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "async/run_loop.h"
#include "async/scope.h"

#include "kv/conformance_testing.h"
#include "kv/fdb/fake_fdb_testing.h"
#include "kv/fdb/stop_network_testing.h"
#include "kv/mutations.h"

namespace fdbnbd::kv {
namespace {

const fdb::FakeFdb& fake() {
  static const fdb::FakeFdb the_fake(FDBNBD_FAKE_FDB_LIBRARY);
  return the_fake;
}

std::unique_ptr<Engine> open_or_fail() {
  FdbOptions options;
  options.library_path = FDBNBD_FAKE_FDB_LIBRARY;
  auto engine = open_fdb_engine(options);
  EXPECT_TRUE(engine) << engine.error().what;
  return engine ? std::move(*engine) : nullptr;
}

ConformanceSubject subject(std::string name, bool immediate, bool batching) {
  return {std::move(name),
          [=](uint64_t seed) {
            fake().reset(seed);
            fake().set_batching(batching);
            fake().set_immediate(immediate);
            return open_or_fail();
          },
          /*simulated=*/false, /*commits_share_versions=*/batching};
}

INSTANTIATE_TEST_SUITE_P(Fdb, EngineConformance,
                         testing::Values(subject("Threaded", false, false), subject("Inline", true, false),
                                         subject("Batching", false, true)),
                         conformance_subject_name);

using testing::HasSubstr;
using namespace std::string_literals;

class TestClock final : public Clock {
 public:
  MonotonicTime now() const override { return MonotonicTime(Duration(now_ns_.load())); }
  WallTime wall_now() const override { return WallTime(Duration(now_ns_.load())); }
  void advance(Duration by) { now_ns_ += by.count(); }

 private:
  std::atomic<int64_t> now_ns_ = 1'000'000'000;
};

// What a bulk read delivered, in order.
class Rows final : public RowSink {
 public:
  void on_range_row(size_t range_index, std::string_view key, std::string_view value) override {
    rows.push_back(std::to_string(range_index) + ":" + std::string(key) + "=" + std::string(value));
  }
  void on_point_row(size_t point_index, std::string_view value) override {
    rows.push_back(std::to_string(point_index) + "=" + std::string(value));
  }
  void on_unreadable_range_row(size_t, std::string_view) override { ADD_FAILURE(); }
  void on_unreadable_point(size_t) override { ADD_FAILURE(); }

  std::vector<std::string> rows;
};

constexpr unsigned kPatience_s = 120;

class FdbEngineTest : public testing::Test {
 protected:
  FdbEngineTest() {
    // A guard that is gone may show as a loop without end.
    ::alarm(kPatience_s);
    fake().reset(7);
    options_.library_path = FDBNBD_FAKE_FDB_LIBRARY;
    options_.clock = &clock_;
    engine_ = open_fdb_engine(options_).value();
  }
  ~FdbEngineTest() override {
    engine_.reset();
    ::alarm(0);
    // No guard of the write path rests on the library giving up by itself.
    EXPECT_EQ(fake().count(fdb::kFakeForbiddenOptions), 0);
    EXPECT_EQ(fake().count(fdb::kFakeLiveDatabases), 0);
    EXPECT_EQ(fake().count(fdb::kFakeLiveTransactions), 0);
    EXPECT_EQ(fake().count(fdb::kFakeLiveFutures), 0);
  }

  Result<Version> put(std::string key, std::string value) {
    const auto transaction = engine_->begin(loop_);
    transaction->set(key, value);
    return loop_.run(transaction->commit());
  }
  Result<void> read(const BulkRead& request, Rows& sink) {
    return loop_.run(engine_->read(loop_, request, sink));
  }
  // As of now, whatever is cached.
  std::string stored(std::string key) {
    const auto transaction = engine_->begin(loop_);
    return loop_.run(transaction->get(key, Isolation::snapshot)).value().value_or("absent");
  }
  std::vector<std::string> read_point(std::string_view key) {
    BulkRead request;
    request.points.push_back(key);
    Rows sink;
    EXPECT_TRUE(read(request, sink));
    return sink.rows;
  }

  TestClock clock_;
  FdbOptions options_;
  RunLoop loop_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(FdbEngineTest, OpeningAClusterThatDoesNotAnswerGivesUpAndNamesIt) {
  fake().set_unreachable(1);
  FdbOptions options = options_;
  options.cluster_file = "/somewhere/fdb.cluster";
  options.connect_timeout = std::chrono::milliseconds(20);
  const auto engine = open_fdb_engine(options);
  ASSERT_FALSE(engine);
  EXPECT_EQ(engine.error().code, Errc::unavailable);
  EXPECT_THAT(engine.error().what, HasSubstr("/somewhere/fdb.cluster"));
  EXPECT_EQ(fake().count(fdb::kFakeLiveDatabases), 1);
}

TEST_F(FdbEngineTest, OpeningGivesUpAlsoWhereTheLibraryCancelsNothing) {
  fake().set_unreachable(1);
  fake().set_cancel_ignored(1);
  FdbOptions options = options_;
  options.connect_timeout = std::chrono::milliseconds(20);
  const auto engine = open_fdb_engine(options);
  ASSERT_FALSE(engine);
  EXPECT_EQ(engine.error().code, Errc::unavailable);
  EXPECT_EQ(fake().count(fdb::kFakeLiveDatabases), 1);
  // It is answered after all, once nobody waits for it.
  fake().set_immediate(1);
  fake().set_unreachable(0);
}

TEST_F(FdbEngineTest, OpeningWithoutAClusterFileIsUnavailable) {
  FdbOptions options = options_;
  options.cluster_file = "/missing/fdb.cluster";
  const auto engine = open_fdb_engine(options);
  ASSERT_FALSE(engine);
  EXPECT_EQ(engine.error().code, Errc::unavailable);
  EXPECT_THAT(engine.error().what, HasSubstr("/missing/fdb.cluster"));
}

TEST_F(FdbEngineTest, AReadUsesTheVersionOfTheLastCommitUntilItIsOld) {
  ASSERT_TRUE(put("k", "1"));
  const int64_t before = fake().count(fdb::kFakeReadVersions);
  EXPECT_EQ(read_point("k"), std::vector{"0=1"s});
  clock_.advance(limits::kFdbReadVersionLifetime - std::chrono::milliseconds(1));
  EXPECT_EQ(read_point("k"), std::vector{"0=1"s});
  EXPECT_EQ(fake().count(fdb::kFakeReadVersions), before);
  clock_.advance(std::chrono::milliseconds(1));
  EXPECT_EQ(read_point("k"), std::vector{"0=1"s});
  EXPECT_EQ(fake().count(fdb::kFakeReadVersions), before + 1);
  EXPECT_EQ(read_point("k"), std::vector{"0=1"s});
  EXPECT_EQ(fake().count(fdb::kFakeReadVersions), before + 1);
}

TEST_F(FdbEngineTest, ATransactionAtARecentVersionAsksForNoneAndConflictsWithWhatCameSince) {
  ASSERT_TRUE(put("k", "1"));
  const int64_t before = fake().count(fdb::kFakeReadVersions);
  const auto change = [&] {
    const auto transaction = engine_->begin(loop_);
    EXPECT_TRUE(transaction->use_recent_version());
    EXPECT_EQ(loop_.run(transaction->get("k", Isolation::serializable)).value(), "1");
    transaction->set("k", "1");
    return loop_.run(transaction->commit());
  };
  EXPECT_TRUE(change());
  EXPECT_EQ(fake().count(fdb::kFakeReadVersions), before);

  // Another client's.
  const auto other = open_fdb_engine(options_).value();
  const auto transaction = other->begin(loop_);
  transaction->set("k", "2");
  ASSERT_TRUE(loop_.run(transaction->commit()));
  const auto late = change();
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, Errc::conflict);

  EXPECT_EQ(stored("k"), "2");
}

TEST_F(FdbEngineTest, AReadAtAVersionThatIsTooOldIsDoneAgainAtANewOne) {
  ASSERT_TRUE(put("k", "1"));
  fake().set_window(100);
  fake().advance_versions(1000);
  const int64_t gets_before = fake().count(fdb::kFakeGets);
  EXPECT_EQ(read_point("k"), std::vector{"0=1"s});
  EXPECT_EQ(fake().count(fdb::kFakeGets), gets_before + 2);
}

TEST_F(FdbEngineTest, ReadsAtOneVersionShareATransaction) {
  ASSERT_TRUE(put("k", "1"));
  const int64_t before = fake().count(fdb::kFakeLiveTransactions);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(read_point("k"), std::vector{"0=1"s});
  EXPECT_EQ(fake().count(fdb::kFakeLiveTransactions), before + 1);
  ASSERT_TRUE(put("k", "2"));
  EXPECT_EQ(read_point("k"), std::vector{"0=2"s});
  EXPECT_EQ(fake().count(fdb::kFakeLiveTransactions), before + 1);
}

TEST_F(FdbEngineTest, WhatFailsInABulkReadIsAskedForAgainAndDeliveredOnce) {
  for (const char* key : {"a1", "a2", "b1", "b2"}) ASSERT_TRUE(put(key, key));
  BulkRead request;
  request.points = {"a1", "none", "a2"};
  request.ranges = {{"a", "b"}, {"b", "c"}, {"c", "b"}};
  for (const int error : {1007, 1009, 1037, 1031, 1039, 1021}) {
    fake().script(fdb::kFakeGet, error, fdb::kFakeNothing, 2);
    fake().script(fdb::kFakeRange, error, fdb::kFakeNothing, 1);
    Rows sink;
    ASSERT_TRUE(read(request, sink)) << error;
    std::sort(sink.rows.begin(), sink.rows.end());
    EXPECT_THAT(sink.rows, testing::ElementsAre("0:a1=a1", "0:a2=a2", "0=a1", "1:b1=b1", "1:b2=b2", "2=a2"))
        << error;
  }
}

TEST_F(FdbEngineTest, AReadThatCannotSucceedFails) {
  ASSERT_TRUE(put("k", "1"));
  fake().script(fdb::kFakeGet, 4100, fdb::kFakeNothing, 1);
  BulkRead request;
  request.points = {"k", "k"};
  Rows sink;
  const auto result = read(request, sink);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::io);
}

TEST_F(FdbEngineTest, ARangeLargerThanAReplyIsDeliveredWholeAndInOrder) {
  std::vector<std::string> expected;
  for (int i = 100; i < 130; ++i) {
    const std::string key = "k" + std::to_string(i);
    const std::string value(10'000, static_cast<char>(i));
    ASSERT_TRUE(put(key, value));
    expected.push_back("0:" + key + "=" + value);
  }
  BulkRead request;
  request.ranges = {{"k", "l"}};
  Rows sink;
  ASSERT_TRUE(read(request, sink));
  EXPECT_EQ(sink.rows, expected);
  EXPECT_GT(fake().count(fdb::kFakeRangeReplies), 3);
}

TEST_F(FdbEngineTest, BackgroundReadsAskForAVersionAtBatchPriority) {
  ASSERT_TRUE(put("k", "1"));
  BulkRead request;
  request.points = {"k"};
  request.background = true;
  Rows sink;
  ASSERT_TRUE(read(request, sink));
  EXPECT_EQ(fake().count(fdb::kFakeBatchReadVersions), 1);
  request.background = false;
  ASSERT_TRUE(read(request, sink));
  EXPECT_EQ(fake().count(fdb::kFakeBatchReadVersions), 1);
}

TEST_F(FdbEngineTest, ABackgroundTransactionAsksForItsVersionAtBatchPriority) {
  const auto transaction = engine_->begin(loop_);
  transaction->set_background();
  ASSERT_TRUE(loop_.run(transaction->read_version()));
  EXPECT_EQ(fake().count(fdb::kFakeBatchReadVersions), 1);
}

TEST_F(FdbEngineTest, BackgroundWorkTakesItsTurnWhereOthersLeaveNothing) {
  options_.background_patience = std::chrono::milliseconds(100);
  engine_ = open_fdb_engine(options_).value();
  fake().set_immediate(1);  // payments are counted when they are asked for
  ASSERT_TRUE(put("k", "1"));
  fake().set_batch_starved(1);
  const int64_t versions_before = fake().count(fdb::kFakeReadVersions);
  {
    const auto transaction = engine_->begin(loop_);
    transaction->set_background();
    EXPECT_EQ(loop_.run(transaction->get("k", Isolation::serializable)).value(), "1");
    transaction->set("k", "2");
    ASSERT_TRUE(loop_.run(transaction->commit()));
  }
  EXPECT_EQ(stored("k"), "2");
  // One that it reads at, and one that the commit pays with, like the writes of clients.
  EXPECT_EQ(fake().count(fdb::kFakeReadVersions), versions_before + 2);
  // For a while nothing waits for what others leave.
  fake().set_batch_starved(0);
  BulkRead request;
  request.points = {"k"};
  request.background = true;
  Rows sink;
  ASSERT_TRUE(read(request, sink));
  EXPECT_EQ(sink.rows, std::vector<std::string>{"0=2"});
  EXPECT_EQ(fake().count(fdb::kFakeBatchReadVersions), 0);
  clock_.advance(limits::kFdbBackgroundUrgency);
  ASSERT_TRUE(read(request, sink));
  EXPECT_EQ(fake().count(fdb::kFakeBatchReadVersions), 1);
}

TEST_F(FdbEngineTest, BackgroundWorkTakesItsTurnWhereTheClusterRefusesIt) {
  ASSERT_TRUE(put("k", "1"));
  constexpr int kBatchTransactionThrottled = 1051;
  fake().script(fdb::kFakeReadVersion, kBatchTransactionThrottled, fdb::kFakeNothing, 1);
  const auto transaction = engine_->begin(loop_);
  transaction->set_background();
  EXPECT_EQ(loop_.run(transaction->get("k", Isolation::snapshot)).value(), "1");
  EXPECT_EQ(fake().count(fdb::kFakeBatchReadVersions), 0);
}

TEST_F(FdbEngineTest, ACommitFailsAsTheTableSaysAndHappensOrNot) {
  const struct {
    int error;
    int outcome;
    Errc code;
    const char* value;
  } cases[] = {
      {1007, fdb::kFakeNothing, Errc::unavailable, "before"},
      {1020, fdb::kFakeNothing, Errc::conflict, "before"},
      {1021, fdb::kFakeNothing, Errc::unknown_result, "before"},
      {1021, fdb::kFakeApplied, Errc::unknown_result, "after"},
      {1031, fdb::kFakeLate, Errc::unknown_result, "before"},
      {2103, fdb::kFakeNothing, Errc::io, "before"},
  };
  for (const auto& c : cases) {
    ASSERT_TRUE(put("k", "before"));
    fake().script(fdb::kFakeCommit, c.error, c.outcome, 1);
    const auto result = put("k", "after");
    ASSERT_FALSE(result) << c.error;
    EXPECT_EQ(result.error().code, c.code) << c.error;
    EXPECT_EQ(stored("k"), c.value) << c.error;
  }
  fake().release_late_commits();
  EXPECT_EQ(stored("k"), "after");
}

TEST_F(FdbEngineTest, ATransactionAboveTheSafetyNetIsRefused) {
  const auto transaction = engine_->begin(loop_);
  const std::string value(limits::kMaxValueBytes, 'v');
  for (int i = 0; i < 60; ++i) transaction->set("k" + std::to_string(i), value);
  const auto committed = loop_.run(transaction->commit());
  ASSERT_FALSE(committed);
  EXPECT_EQ(committed.error().code, Errc::too_large);
}

Task<void> note_version(Executor& executor, Engine& engine, bool& done) {
  const auto transaction = engine.begin(executor);
  EXPECT_TRUE(co_await transaction->read_version());
  EXPECT_TRUE(executor.runs_here());
  done = true;
}

Task<void> await_inline(Executor& executor, Engine& engine) {
  bool done = false;
  TaskScope scope;
  scope.spawn(note_version(executor, engine, done));
  EXPECT_FALSE(done);
  co_await scope.join();
  EXPECT_TRUE(done);
}

TEST_F(FdbEngineTest, ACallbackNeverContinuesACoroutineItself) {
  fake().set_immediate(1);
  const int64_t before = fake().count(fdb::kFakeInlineCallbacks);
  loop_.run(await_inline(loop_, *engine_));
  EXPECT_EQ(fake().count(fdb::kFakeInlineCallbacks), before + 1);
}

Task<void> wait_for_version(Executor& executor, Engine& engine) {
  const auto transaction = engine.begin(executor);
  EXPECT_TRUE(co_await transaction->read_version());
}

Task<void> stall_for_a_while(Executor& executor, Engine& engine) {
  fake().set_unreachable(1);
  TaskScope scope;
  for (int i = 0; i < 5; ++i) scope.spawn(wait_for_version(executor, engine));
  co_await sleep_for(executor, std::chrono::milliseconds(50));
  fake().set_unreachable(0);
  co_await scope.join();
}

TEST_F(FdbEngineTest, AClusterThatStallsIsNamedInTheLogOnceAndFailsNothing) {
  options_.stall_warning = std::chrono::milliseconds(1);
  engine_ = open_fdb_engine(options_).value();
  testing::internal::CaptureStderr();
  loop_.run(stall_for_a_while(loop_, *engine_));
  const std::string text = testing::internal::GetCapturedStderr();
  const size_t first = text.find("FoundationDB has not answered");
  ASSERT_NE(first, std::string::npos) << text;
  EXPECT_EQ(text.find("FoundationDB has not answered", first + 1), std::string::npos) << text;
  EXPECT_THAT(text, HasSubstr("a read version"));
}

TEST_F(FdbEngineTest, SaysThatItIsSharedAndDurable) {
  const Capabilities capabilities = engine_->capabilities();
  EXPECT_TRUE(capabilities.shared_between_hosts);
  EXPECT_TRUE(capabilities.commits_are_durable);
  EXPECT_GE(capabilities.commits_in_flight, 8u);
  EXPECT_LE(capabilities.commits_in_flight, 32u);
  EXPECT_LT(capabilities.range_reply_bytes, 80'000u);
}

}  // namespace
}  // namespace fdbnbd::kv
