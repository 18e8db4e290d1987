#include "volume/commit_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <new>
#include <optional>
#include <set>
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

// Something else happens while a commit is made or waits for its turn.
class InterposedCommitTest : public testing::Test {
 protected:
  static constexpr kv::Version kWindowVersions = 400;

  InterposedCommitTest() {
    const auto transaction = store_->begin(loop_);
    transaction->set(fence_key_, FenceRecord{.top_layer = kTop}.encode());
    EXPECT_TRUE(loop_.run(transaction->commit()));
    EXPECT_TRUE(loop_.run(fence_.acquire()));
  }

  // What is left to do behind the replies.
  ~InterposedCommitTest() override {
    while (loop_.step()) {
    }
  }

  // The store forgets the versions of before.
  Task<void> let_versions_pass() {
    for (kv::Version i = 0; i <= kWindowVersions; ++i) {
      const auto transaction = store_->begin(loop_);
      transaction->set("other", "value");
      EXPECT_TRUE(co_await transaction->commit());
    }
    EXPECT_TRUE(co_await fence_.refresh());
  }

  Task<void> change_top_layer() {
    FenceRecord record = fence_.record();
    record.top_layer = LayerId{kTop.value + 1};
    const auto transaction = store_->begin(loop_);
    transaction->set(fence_key_, record.encode());
    EXPECT_TRUE(co_await transaction->commit());
    EXPECT_TRUE(co_await fence_.refresh());
  }

  std::optional<std::string> stored() {
    const auto transaction = store_->begin(loop_);
    return loop_.run(transaction->get("key", kv::Isolation::snapshot)).value();
  }

  SimLoop loop_{1};
  const std::unique_ptr<kv::MemoryEngine> store_ =
      kv::open_memory_engine({.read_window_versions = kWindowVersions}).value();
  const std::string fence_key_ = KeySpace("").fence({1});
  Fence fence_{*store_, loop_, fence_key_, InstanceId{7}};
  InterposedEngine engine_{*store_};
  CommitQueue queue_{engine_, loop_, fence_};
};

TEST_F(InterposedCommitTest, TheProvenVersionIsThatOfAfterItsTurnHasCome) {
  engine_.at_next_turn([this] { return let_versions_pass(); });
  SetsOneKey intent(kTop);
  EXPECT_TRUE(loop_.run(queue_.commit(intent)));
  EXPECT_EQ(engine_.begun_count(), 1U) << "at a version that was too old";
}

TEST_F(InterposedCommitTest, WhatIsMadeForTheLayerOfBeforeItsTurnIsTurnedBack) {
  engine_.at_next_turn([this] { return change_top_layer(); });
  SetsOneKey intent(kTop);
  EXPECT_EQ(loop_.run(queue_.commit(intent)).error().code, Errc::conflict);
  EXPECT_EQ(stored(), std::nullopt);
}

TEST_F(InterposedCommitTest, AFailureBehindAResultThatWasLostIsTheEndOfTheTenure) {
  const auto fail_from_now_on = [this]() -> Task<void> {
    store_->faults().fail_next_commits(kv::CommitFault::io);
    co_return;
  };
  engine_.at_next_commit_of('k', InterposedEngine::Outcome::unknown_applied, fail_from_now_on);
  SetsOneKey intent(kTop);
  EXPECT_EQ(loop_.run(queue_.commit(intent)).error().code, Errc::fenced);
  EXPECT_TRUE(fence_.is_lost()) << "what is known in memory may not be what is stored";
}

TEST_F(InterposedCommitTest, TheDoubtOutlivesANewTopLayer) {
  engine_.at_next_commit_of('k', InterposedEngine::Outcome::unknown_applied,
                            [this] { return change_top_layer(); });
  SetsOneKey intent(kTop);
  EXPECT_EQ(loop_.run(queue_.commit(intent)).error().code, Errc::conflict);
  intent.layer = LayerId{kTop.value + 1};
  store_->faults().fail_next_commits(kv::CommitFault::io);
  EXPECT_EQ(loop_.run(queue_.commit(intent)).error().code, Errc::fenced);
}

TEST_F(InterposedCommitTest, AFailureWithoutDoubtIsThatOfOneWrite) {
  store_->faults().fail_next_commits(kv::CommitFault::io);
  SetsOneKey intent(kTop);
  EXPECT_EQ(loop_.run(queue_.commit(intent)).error().code, Errc::io);
  EXPECT_FALSE(fence_.is_lost());
  SetsOneKey next(kTop);
  EXPECT_TRUE(loop_.run(queue_.commit(next)));
}

// Where commits take a millisecond.
class GroupCommitTest : public testing::Test {
 protected:
  static constexpr Duration kCommitTakes = std::chrono::milliseconds(1);
  static constexpr uint64_t kWriteBytes = 4160;  // so many of which fill a transaction exactly

  GroupCommitTest() {
    const auto transaction = engine_->begin(loop_);
    transaction->set(fence_key_, FenceRecord{.top_layer = kTop}.encode());
    EXPECT_TRUE(loop_.run(transaction->commit()));
    EXPECT_TRUE(loop_.run(fence_.acquire()));
    engine_->faults().set_latency(kCommitTakes, kCommitTakes);
  }

  // What is left to do behind the replies.
  ~GroupCommitTest() override {
    while (loop_.step()) {
    }
  }

  static kv::MemoryOptions options() {
    kv::MemoryOptions options;
    options.capabilities.commits_in_flight = 16;
    options.capabilities.begins_ahead = true;
    return options;
  }

  class Write final : public CommitQueue::Intent {
   public:
    Write() {
      layer = kTop;
      mutations_count = 1;
      estimated_bytes = kWriteBytes;
    }
    void apply(kv::Transaction& transaction) override { transaction.set("key", "value"); }
  };

  Task<void> write_after(Duration pause) {
    co_await sleep_for(loop_, pause);
    Write intent;
    EXPECT_TRUE(co_await queue_.commit(intent));
    versions_.insert(fence_.version());
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

  // Clients that write once each, `start` from now.
  void add_writes(std::vector<Task<void>>& clients, uint32_t count, Duration start) {
    for (uint32_t i = 0; i < count; ++i) clients.push_back(write_after(start));
  }

  SimLoop loop_{1};
  const std::unique_ptr<kv::MemoryEngine> engine_ = kv::open_memory_engine(options()).value();
  const std::string fence_key_ = KeySpace("").fence({1});
  Fence fence_{*engine_, loop_, fence_key_, InstanceId{7}};
  CommitQueue queue_{*engine_, loop_, fence_};
  std::set<kv::Version> versions_;  // of the transactions
};

TEST_F(GroupCommitTest, OneThatComesWhileAnotherIsInFlightDoesNotWaitForItsEnd) {
  std::vector<Task<void>> clients;
  add_writes(clients, 1, std::chrono::microseconds(1));
  add_writes(clients, 1, std::chrono::microseconds(100));
  EXPECT_LT(run(std::move(clients)), kCommitTakes * 12 / 10);
  EXPECT_EQ(versions_.size(), 2U);
}

// As many transactions as may be under way that are not full, begun one after the other at the start.
class GroupCommitWithPartsUnderWayTest : public GroupCommitTest {
 protected:
  GroupCommitWithPartsUnderWayTest() {
    for (uint32_t i = 0; i < limits::kMaxPartialCommits; ++i)
      add_writes(clients_, 1, std::chrono::microseconds(10 * i));
  }

  std::vector<Task<void>> clients_;
};

TEST_F(GroupCommitWithPartsUnderWayTest, WhatComesThenGoesTogetherOnceOneHasEnded) {
  for (uint32_t i = 0; i < 20; ++i) add_writes(clients_, 1, std::chrono::microseconds(100 + 20 * i));
  EXPECT_LT(run(std::move(clients_)), kCommitTakes * 22 / 10);
  EXPECT_EQ(versions_.size(), limits::kMaxPartialCommits + 1);
}

TEST_F(GroupCommitWithPartsUnderWayTest, WhatFillsATransactionGoesBesideThem) {
  add_writes(clients_, limits::kCommitTargetBytes / kWriteBytes, std::chrono::microseconds(100));
  EXPECT_LT(run(std::move(clients_)), kCommitTakes * 12 / 10);
}

TEST_F(GroupCommitTest, ATransactionEndsBehindTheReplyAndTheNextOneBeginsBeforeTheRequest) {
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

}  // namespace
}  // namespace fdbnbd::volume
