#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "async/blocking_pool.h"
#include "async/event.h"
#include "async/range_lock.h"
#include "async/run_loop.h"
#include "async/scope.h"
#include "async/sim_loop.h"
#include "async/task.h"
#include "base/random.h"

namespace fdbnbd {
namespace {

using std::chrono::milliseconds;

Task<int> add(int a, int b) {
  co_return a + b;
}

Task<int> sum_to(int n) {
  int sum = 0;
  for (int i = 1; i <= n; ++i) sum = co_await add(sum, i);
  co_return sum;
}

TEST(Task, AwaitsOthersWithoutGrowingTheStack) {
  RunLoop loop;
  EXPECT_EQ(loop.run(sum_to(50'000)), 1'250'025'000);
}

Task<int> on_the_pool(Executor& executor, BlockingPool& pool) {
  const auto here = std::this_thread::get_id();
  const auto there = co_await pool.run(executor, [] { return std::this_thread::get_id(); });
  co_return (here != there && here == std::this_thread::get_id()) ? 1 : 0;
}

TEST(BlockingPool, RunsElsewhereAndComesBack) {
  RunLoop loop;
  BlockingPool pool("test", 2);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(loop.run(on_the_pool(loop, pool)), 1);
}

Task<void> append_later(Executor& executor, std::string& log, Duration delay, char c) {
  co_await sleep_for(executor, delay);
  log += c;
}

Task<void> spawn_and_join(Executor& executor, std::string& log) {
  TaskScope scope;
  scope.spawn(append_later(executor, log, milliseconds(30), 'c'));
  scope.spawn(append_later(executor, log, milliseconds(10), 'a'));
  scope.spawn(append_later(executor, log, milliseconds(20), 'b'));
  co_await scope.join();
  log += '.';
}

TEST(Scope, JoinWaitsForAllAndTimersFireInOrder) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SimLoop loop(seed);
    std::string log;
    loop.run(spawn_and_join(loop, log));
    EXPECT_EQ(log, "abc.");
  }
}

class Tick final : public TimerWork {
 public:
  explicit Tick(int& count) : count_(count) {}
  void run() noexcept override { ++count_; }

 private:
  int& count_;
};

Task<void> cancel_one(Executor& executor, Tick& kept, Tick& cancelled) {
  executor.start_timer(kept, milliseconds(5));
  executor.start_timer(cancelled, milliseconds(5));
  executor.cancel_timer(cancelled);
  co_await sleep_for(executor, milliseconds(10));
}

TEST(Timers, ACancelledTimerDoesNotRun) {
  SimLoop loop(1);
  int kept_count = 0;
  int cancelled_count = 0;
  Tick kept(kept_count);
  Tick cancelled(cancelled_count);
  loop.run(cancel_one(loop, kept, cancelled));
  EXPECT_EQ(kept_count, 1);
  EXPECT_EQ(cancelled_count, 0);
}

// Counts how many exclusive and shared holders each cell of the space has, and in which order they came.
struct World {
  RangeLock lock;
  uint64_t cell_length = 1;
  std::vector<int> exclusive = std::vector<int>(32);
  std::vector<int> shared = std::vector<int>(32);
  std::vector<uint64_t> last_writer = std::vector<uint64_t>(32);
  int done_count = 0;
};

Task<void> hold(SimLoop& loop, World& world, uint64_t number, uint64_t begin, uint64_t end,
                RangeLock::Mode mode) {
  // Its last cell only in part.
  RangeLock::Guard guard(world.lock, begin * world.cell_length, (end - 1) * world.cell_length + 1, mode);
  co_await guard.acquire();
  const bool writes = mode == RangeLock::Mode::exclusive;
  for (uint64_t i = begin; i < end; ++i) {
    EXPECT_EQ(world.exclusive[i], 0);
    if (writes) {
      EXPECT_EQ(world.shared[i], 0);
      EXPECT_LT(world.last_writer[i], number) << "overlapping writers ran out of order";
      world.last_writer[i] = number;
    }
    ++(writes ? world.exclusive : world.shared)[i];
  }
  co_await sleep_for(loop, milliseconds(loop.random().below(5)));
  co_await reschedule(loop);
  for (uint64_t i = begin; i < end; ++i) --(writes ? world.exclusive : world.shared)[i];
  ++world.done_count;
}

Task<void> many_holders(SimLoop& loop, World& world, int count) {
  TaskScope scope;
  for (int i = 1; i <= count; ++i) {
    const uint64_t begin = loop.random().below(32);
    const uint64_t end = begin + 1 + loop.random().below(32 - begin);
    const auto mode = loop.random().one_in(2) ? RangeLock::Mode::exclusive : RangeLock::Mode::shared;
    scope.spawn(hold(loop, world, static_cast<uint64_t>(i), begin, end, mode));
    if (loop.random().one_in(3)) co_await sleep_for(loop, milliseconds(1));
  }
  co_await scope.join();
}

TEST(RangeLock, ExcludesConflictsKeepsOrderAndLosesNobody) {
  for (uint64_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(seed);
    SimLoop loop(seed);
    World world;
    // Many cells to a piece of the lock's filter, several pieces to a cell, and cells that share counters.
    constexpr std::array<uint64_t, 4> kCellLengths{1, 64, 200, 512 * 64};
    world.cell_length = kCellLengths[seed % kCellLengths.size()];
    loop.run(many_holders(loop, world, 60));
    EXPECT_EQ(world.done_count, 60);
    EXPECT_EQ(world.lock.size(), 0u);
  }
}

struct CountingTimer final : TimerWork {
  void run() noexcept override { ++runs_count; }
  int runs_count = 0;
};

TEST(SimLoop, ATimerThatIsCancelledWhenItIsDueDoesNotRun) {
  for (uint64_t seed = 1; seed < 20; ++seed) {
    SimLoop loop(seed);
    CountingTimer first;
    CountingTimer second;
    loop.start_timer(first, std::chrono::seconds(1));
    loop.start_timer(second, std::chrono::seconds(1));
    while (first.runs_count + second.runs_count == 0) ASSERT_TRUE(loop.step());
    // The other one is due at the same time.
    loop.cancel_timer(first.runs_count == 0 ? first : second);
    while (loop.step()) {
    }
    EXPECT_EQ(first.runs_count + second.runs_count, 1);
  }
}

}  // namespace
}  // namespace fdbnbd
