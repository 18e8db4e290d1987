#include "volume/commit_queue.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <new>

#include "async/sim_loop.h"
#include "kv/memory/memory_engine.h"

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
}

}  // namespace
}  // namespace fdbnbd::volume
