#include "volume/commit_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <deque>
#include <map>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "async/sim_loop.h"
#include "base/limits.h"
#include "kv/memory/memory_engine.h"
#include "volume/interposed_engine_testing.h"

namespace fdbnbd::volume {
namespace {

constexpr LayerId kTop{3};

class SetsOneKey final : public CommitQueue::Intent {
 public:
  explicit SetsOneKey(LayerId made_for) {
    layer = made_for;
    mutations_count = 1;
  }
  void apply(kv::Transaction& transaction) override { transaction.set("key", "value"); }
};

class CommitQueueTest : public testing::Test {
 protected:
  CommitQueueTest() {
    const auto transaction = engine_->begin(loop_);
    transaction->set(fence_key_, FenceRecord{.top_layer = kTop}.encode());
    EXPECT_TRUE(loop_.run(transaction->commit()));
    EXPECT_TRUE(loop_.run(fence_.acquire()));
  }

  // What a volume does whose top layer is found to be another one; it ends when that is done.
  Task<void> commit_anew_and_end(CommitQueue& queue) {
    SetsOneKey outdated(LayerId{kTop.value - 1});
    const Result<void> turned_back = co_await queue.commit(outdated);
    EXPECT_EQ(turned_back.error().code, Errc::conflict);
    SetsOneKey current(kTop);
    EXPECT_TRUE(co_await queue.commit(current));
    co_await queue.idle();
    queue.~CommitQueue();
    std::ranges::fill(place_, std::byte{0});
    ended_ = true;
  }

  SimLoop loop_{1};
  const std::unique_ptr<kv::MemoryEngine> engine_ = kv::open_memory_engine().value();
  const std::string fence_key_ = KeySpace("").fence({1});
  Fence fence_{*engine_, loop_, fence_key_, InstanceId{7}};
  alignas(CommitQueue) std::array<std::byte, sizeof(CommitQueue)> place_;
  bool ended_ = false;
};

TEST_F(CommitQueueTest, ItMayEndOnceItsLastIntentIsDone) {
  // Which work comes next is drawn by the loop.
  for (int round = 0; round < 50; ++round) {
    ended_ = false;
    auto* queue = new (place_.data()) CommitQueue(*engine_, loop_, fence_);
    TaskScope scope;
    scope.spawn(commit_anew_and_end(*queue));
    // Nothing that is left in the loop may be the queue's: its place is full of zeroes.
    while (loop_.step()) {
    }
    ASSERT_TRUE(ended_);
  }
}

TEST_F(CommitQueueTest, IntentsOfOneCallAreDoneTogether) {
  CommitQueue queue(*engine_, loop_, fence_);
  SetsOneKey first(kTop);
  SetsOneKey second(kTop);
  EXPECT_TRUE(loop_.run(queue.commit({&first, &second})));
  EXPECT_TRUE(first.is_committed());
  EXPECT_TRUE(second.is_committed());
  while (loop_.step()) {
  }
}

// Where commits take a millisecond, and changes may be kept back for half of one.
class GatheringTest : public testing::Test {
 protected:
  static constexpr Duration kCommitTakes = std::chrono::milliseconds(1);

  GatheringTest() {
    const auto transaction = engine_->begin(loop_);
    transaction->set(fence_key_, FenceRecord{.top_layer = kTop}.encode());
    EXPECT_TRUE(loop_.run(transaction->commit()));
    EXPECT_TRUE(loop_.run(fence_.acquire()));
    engine_->faults().set_latency(kCommitTakes, kCommitTakes);
  }

  // What is left to do behind the replies.
  ~GatheringTest() override {
    while (loop_.step()) {
    }
  }

  static kv::MemoryOptions options() {
    kv::MemoryOptions options;
    options.capabilities.commits_in_flight = 16;
    options.capabilities.gather_wait = std::chrono::microseconds(500);
    return options;
  }

  class Write final : public CommitQueue::Intent {
   public:
    explicit Write(std::string key = "key", LayerId made_for = kTop) : key_(std::move(key)) {
      layer = made_for;
      mutations_count = 1;
      estimated_bytes = 4160;
    }
    void apply(kv::Transaction& transaction) override {
      ++applied_count_;
      transaction.set(key_, "value");
    }
    uint32_t applied_count() const { return applied_count_; }

   private:
    const std::string key_;
    uint32_t applied_count_ = 0;
  };

  // One write after the other, a little apart, as a client sends them that was answered.
  Task<void> write(uint32_t count, Duration pause) {
    for (uint32_t i = 0; i < count; ++i) {
      co_await sleep_for(loop_, pause);
      Write intent;
      EXPECT_TRUE(co_await queue_.commit(intent));
      ++versions_[fence_.version()];
    }
  }

  static Task<void> keep_result(Task<Result<void>> task, Result<void>& result) {
    result = co_await std::move(task);
  }

  Duration now() const { return loop_.clock().now().time_since_epoch(); }

  // How many transactions have not ended when a write is answered.
  static Task<uint64_t> open_count_at_reply(CommitQueue& queue, const InterposedEngine& engine) {
    Write intent;
    EXPECT_TRUE(co_await queue.commit(intent));
    co_return engine.open_count();
  }

  // How long `tasks` take that run beside each other.
  Duration run(std::vector<Task<void>> tasks) {
    const Duration started_at = now();
    TaskScope scope;
    for (Task<void>& task : tasks) scope.spawn(std::move(task));
    while (scope.running_count() > 0 && loop_.step()) {
    }
    EXPECT_EQ(scope.running_count(), 0U);
    return now() - started_at;
  }

  Duration run(Task<void> task) {
    std::vector<Task<void>> tasks;
    tasks.push_back(std::move(task));
    return run(std::move(tasks));
  }

  // `count` clients that write once each, a microsecond from now.
  std::vector<Task<void>> single_writes(uint32_t count) {
    std::vector<Task<void>> clients;
    clients.reserve(count);
    for (uint32_t i = 0; i < count; ++i) clients.push_back(write(1, std::chrono::microseconds(1)));
    return clients;
  }

  SimLoop loop_{1};
  const std::unique_ptr<kv::MemoryEngine> engine_ = kv::open_memory_engine(options()).value();
  const std::string fence_key_ = KeySpace("").fence({1});
  Fence fence_{*engine_, loop_, fence_key_, InstanceId{7}};
  CommitQueue queue_{*engine_, loop_, fence_};
  std::map<kv::Version, uint32_t> versions_;  // of the transactions, and how many writes each had
};

TEST_F(GatheringTest, RequestsThatComeBackOneByOneGoTogetherAgain) {
  constexpr uint32_t kClients = 64;
  constexpr uint32_t kWrites = 100;
  engine_->faults().set_latency(kCommitTakes * 8 / 10, kCommitTakes * 12 / 10);
  std::vector<Task<void>> clients;
  clients.reserve(kClients);
  for (uint32_t i = 0; i < kClients; ++i) clients.push_back(write(kWrites, std::chrono::microseconds(3 * i)));
  run(std::move(clients));
  // In parts most of which are worth a commit.
  const auto small_count = std::ranges::count_if(
      versions_, [](const auto& part) { return part.second < limits::kMinIntentsToOverlap; });
  EXPECT_LT(static_cast<size_t>(small_count), versions_.size() / 5);
}

TEST_F(GatheringTest, OneRequestAtATimeIsNeverKeptBack) {
  constexpr uint32_t kWrites = 10;
  const auto pause = std::chrono::microseconds(10);
  EXPECT_LT(run(write(kWrites, pause)), kWrites * (kCommitTakes + pause) + std::chrono::microseconds(100));
  EXPECT_EQ(versions_.size(), kWrites);
}

TEST_F(GatheringTest, WhereTheOthersDoNotComeBackOneGoesAfterAQuarterOfACommit) {
  run(single_writes(8));
  EXPECT_LT(run(write(1, std::chrono::microseconds(1))), kCommitTakes * 13 / 10);
  EXPECT_GE(run(write(1, std::chrono::microseconds(1))), kCommitTakes);
}

TEST_F(GatheringTest, OneThatComesWhileAnotherIsInFlightDoesNotWaitForItsEnd) {
  std::vector<Task<void>> clients = single_writes(1);
  clients.push_back(write(1, std::chrono::microseconds(100)));
  run(write(1, std::chrono::microseconds(1)));  // from which is known how long a commit takes
  EXPECT_LT(run(std::move(clients)), kCommitTakes * 15 / 10);
}

TEST_F(GatheringTest, AnEighthOfThemDoesNotWaitForTheOthers) {
  run(single_writes(72));
  EXPECT_LT(run(single_writes(8)), kCommitTakes * 11 / 10);
}

TEST_F(GatheringTest, FewerThanAnEighthWaitForTheOthers) {
  run(single_writes(128));
  EXPECT_GT(run(single_writes(13)), kCommitTakes * 12 / 10);
}

TEST_F(GatheringTest, WhatFillsATransactionGoesAtOnce) {
  const auto commit = [this](size_t count) {
    std::deque<Write> writes(count);
    std::vector<CommitQueue::Intent*> intents;
    intents.reserve(count);
    for (Write& write : writes) intents.push_back(&write);
    const Duration started_at = now();
    EXPECT_TRUE(loop_.run(queue_.commit(std::move(intents))));
    return now() - started_at;
  };
  commit(300);
  // Most of them do not come back.
  EXPECT_LT(commit(64), kCommitTakes * 11 / 10);
}

TEST_F(GatheringTest, ATransactionEndsBehindTheReplyAndTheNextOneBeginsBeforeTheRequest) {
  InterposedEngine engine(*engine_);
  CommitQueue queue(engine, loop_, fence_);
  for (uint64_t commits_count = 1; commits_count < 4; ++commits_count) {
    EXPECT_EQ(loop_.run(open_count_at_reply(queue, engine)), 1U);
    EXPECT_EQ(engine.begun_count(), commits_count);
    while (loop_.step()) {
    }
    EXPECT_EQ(engine.begun_count(), commits_count + 1);
    EXPECT_EQ(engine.open_count(), 1U);
  }
}

TEST_F(GatheringTest, WhatIsKeptBackIsPutIntoItsTransactionMeanwhile) {
  Write first("first");
  Write second("second");
  EXPECT_TRUE(loop_.run(queue_.commit({&first, &second})));
  // The second one that is awaited is not there yet.
  Write early("early");
  Write late("late");
  TaskScope scope;
  Result<void> early_done;
  scope.spawn(keep_result(queue_.commit(early), early_done));
  EXPECT_EQ(early.applied_count(), 1U);
  EXPECT_TRUE(loop_.run(queue_.commit(late)));
  EXPECT_EQ(scope.running_count(), 0U);
  EXPECT_EQ(early.applied_count(), 1U);
  EXPECT_EQ(late.applied_count(), 1U);
  const auto reader = engine_->begin(loop_);
  EXPECT_TRUE(loop_.run(reader->get("early", kv::Isolation::snapshot)).value());
  EXPECT_TRUE(loop_.run(reader->get("late", kv::Isolation::snapshot)).value());
}

TEST_F(GatheringTest, WhatWasAwaitedForAnOlderTopLayerLeavesNothingInTheNextTransaction) {
  constexpr LayerId kNewTop{kTop.value + 1};
  Write first("first");
  Write second("second");
  EXPECT_TRUE(loop_.run(queue_.commit({&first, &second})));
  engine_->faults().set_latency({}, {});
  // The second one that is awaited is not there yet.
  Write outdated("outdated");
  TaskScope scope;
  Result<void> turned_back;
  scope.spawn(keep_result(queue_.commit(outdated), turned_back));
  FenceRecord fence = fence_.record();
  fence.top_layer = kNewTop;
  const auto transaction = engine_->begin(loop_);
  transaction->set(fence_key_, fence.encode());
  EXPECT_TRUE(loop_.run(transaction->commit()));
  EXPECT_TRUE(loop_.run(fence_.refresh()));
  Write current("current", kNewTop);
  EXPECT_TRUE(loop_.run(queue_.commit(current)));
  EXPECT_EQ(scope.running_count(), 0U);
  EXPECT_EQ(turned_back.error().code, Errc::conflict);
  const auto reader = engine_->begin(loop_);
  EXPECT_FALSE(loop_.run(reader->get("outdated", kv::Isolation::snapshot)).value());
  EXPECT_TRUE(loop_.run(reader->get("current", kv::Isolation::snapshot)).value());
}

}  // namespace
}  // namespace fdbnbd::volume
