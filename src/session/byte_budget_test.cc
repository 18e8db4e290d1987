#include "session/byte_budget.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "async/run_loop.h"
#include "async/scope.h"
#include "async/sim_loop.h"
#include "base/random.h"
#include "session/buffer_pool.h"

namespace fdbnbd::session {
namespace {

using Size = ByteBudget::Size;

SessionLimits budget_of(uint64_t process, uint64_t reserve) {
  SessionLimits limits;
  limits.process_bytes = process;
  limits.reserved_for_small_bytes = reserve;
  return limits;
}

TEST(ByteBudget, LeasesCountAndComeBack) {
  ByteBudget budget(budget_of(100, 20));
  auto a = budget.try_acquire(50, Size::large);
  ASSERT_TRUE(a);
  EXPECT_EQ(budget.used_bytes(), 50u);
  a->shrink_to(10);
  EXPECT_EQ(budget.used_bytes(), 10u);
  a->shrink_to(70);
  EXPECT_EQ(budget.used_bytes(), 10u);
  ByteBudget::Lease moved = std::move(*a);
  a.reset();
  EXPECT_EQ(budget.used_bytes(), 10u);
  moved = ByteBudget::Lease();
  EXPECT_EQ(budget.used_bytes(), 0u);
}

TEST(ByteBudget, LargeOnesLeaveTheReserveToSmallOnes) {
  ByteBudget budget(budget_of(100, 20));
  auto large = budget.try_acquire(80, Size::large);
  ASSERT_TRUE(large);
  EXPECT_FALSE(budget.try_acquire(1, Size::large));
  auto small = budget.try_acquire(20, Size::small);
  EXPECT_TRUE(small);
  EXPECT_FALSE(budget.try_acquire(1, Size::small));
}

TEST(ByteBudget, MoreThanThereEverIsCountsAsAll) {
  ByteBudget budget(budget_of(100, 20));
  auto all = budget.try_acquire(1000, Size::large);
  ASSERT_TRUE(all);
  EXPECT_EQ(all->bytes(), 80u);
}

Task<void> take(ByteBudget& budget, Executor& executor, uint64_t bytes, Size size, std::string& log,
                char name, std::vector<ByteBudget::Lease>& leases) {
  ByteBudget::Acquisition acquisition(budget, executor, bytes, size);
  auto lease = co_await acquisition;
  log += name;
  leases.push_back(std::move(*lease));
}

Task<void> yield_often(Executor& executor) {
  for (int i = 0; i < 20; ++i) co_await reschedule(executor);
}

TEST(ByteBudget, IsFairAmongThoseOfOneSizeAndLargeOnesAreNotStarved) {
  RunLoop loop;
  ByteBudget budget(budget_of(100, 20));
  std::string log;
  std::vector<ByteBudget::Lease> leases;
  TaskScope scope;
  auto first = budget.try_acquire(60, Size::large);
  scope.spawn(take(budget, loop, 70, Size::large, log, 'L', leases));  // waits for the general pool
  scope.spawn(take(budget, loop, 5, Size::large, log, 'l', leases));   // would fit, but came later
  scope.spawn(take(budget, loop, 15, Size::small, log, 's', leases));  // passes by way of the reserve
  scope.spawn(
      take(budget, loop, 10, Size::small, log, 't', leases));  // not even that: the general pool has a queue
  scope.spawn(take(budget, loop, 1, Size::small, log, 'u', leases));  // behind 't'
  loop.run(yield_often(loop));
  EXPECT_EQ(log, "s");
  EXPECT_TRUE(budget.contended());
  first.reset();
  loop.run(yield_often(loop));
  EXPECT_EQ(log, "sLl");  // 75 of 80 taken: 't' does not fit
  leases.erase(leases.begin());
  loop.run(yield_often(loop));
  EXPECT_EQ(log, "sLltu");
  EXPECT_FALSE(budget.contended());
  leases.clear();
}

Task<void> try_to_take(ByteBudget::Acquisition& acquisition, bool& got) {
  const auto lease = co_await acquisition;
  got = lease.has_value();
}

TEST(ByteBudget, ACancelledWaitLetsThoseBehindItPass) {
  RunLoop loop;
  ByteBudget budget(budget_of(100, 0));
  std::string log;
  std::vector<ByteBudget::Lease> leases;
  TaskScope scope;
  auto first = budget.try_acquire(60, Size::large);
  bool got = true;
  ByteBudget::Acquisition waiting(budget, loop, 90, Size::large);
  scope.spawn(try_to_take(waiting, got));
  scope.spawn(take(budget, loop, 40, Size::large, log, 'b', leases));
  loop.run(yield_often(loop));
  EXPECT_EQ(log, "");
  waiting.cancel();
  waiting.cancel();
  loop.run(yield_often(loop));
  EXPECT_FALSE(got);
  EXPECT_EQ(log, "b");
  leases.clear();
}

Task<void> hammer(ByteBudget& budget, Executor& executor, uint64_t seed) {
  Random random(seed);
  for (int i = 0; i < 2000; ++i) {
    const bool small = random.one_in(2);
    ByteBudget::Acquisition acquisition(budget, executor, 1 + random.below(small ? 20 : 80),
                                        small ? Size::small : Size::large);
    auto lease = co_await acquisition;
    EXPECT_LE(budget.used_bytes(), 100u);
    if (random.one_in(4)) co_await reschedule(executor);
  }
}

void hammer_from_one_thread(ByteBudget& budget, uint64_t seed) {
  RunLoop loop;
  TaskScope scope;
  scope.spawn(hammer(budget, loop, seed));
  scope.spawn(hammer(budget, loop, seed + 100));
  loop.run(hammer(budget, loop, seed + 200));
  while (scope.running_count() > 0) loop.run(yield_often(loop));
}

TEST(ByteBudget, ThreadsShareIt) {
  ByteBudget budget(budget_of(100, 20));
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 3; ++t) threads.emplace_back([&budget, t] { hammer_from_one_thread(budget, t); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(budget.used_bytes(), 0u);
}

TEST(BufferPool, RecyclesPowersOfTwoUpToItsBound) {
  BufferPool pool;
  const std::byte* first = nullptr;
  {
    const Buffer buffer = pool.take(4000);
    first = buffer.bytes().data();
    EXPECT_EQ(buffer.bytes().size(), 4000u);
  }
  EXPECT_EQ(pool.pooled_bytes(), 4096u);
  EXPECT_EQ(pool.take(100).bytes().data(), first);
  {
    std::vector<Buffer> many;
    for (int i = 0; i < 40; ++i) many.push_back(pool.take(limits::kMiB));
    many.push_back(pool.take(32 * limits::kMiB));
    many.push_back(pool.take(3 * limits::kMiB));
    for (const Buffer& buffer : many) buffer.bytes().back() = std::byte{1};
  }
  EXPECT_LE(pool.pooled_bytes(), limits::kPooledBufferBytes);
  EXPECT_GT(pool.pooled_bytes(), limits::kPooledBufferBytes / 2);
}

}  // namespace
}  // namespace fdbnbd::session
