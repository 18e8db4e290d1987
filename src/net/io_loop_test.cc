#include "net/io_loop.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

#include "async/sim_loop.h"
#include "net/signals.h"

namespace fdbnbd::net {
namespace {

using std::chrono::milliseconds;

struct CountedWork final : Work {
  void run() noexcept override {
    if (++*count == target) loop->stop();
  }
  int* count = nullptr;
  int target = 0;
  IoLoop* loop = nullptr;
};

TEST(IoLoop, RunsWhatOtherThreadsPostAndWakesUpForIt) {
  IoLoop loop;
  constexpr size_t kThreads = 4;
  constexpr size_t kPosts = 2000;
  constexpr int kAll = kThreads * kPosts;
  int count = 0;
  std::vector<CountedWork> works(kAll);
  for (CountedWork& work : works) {
    work.count = &count;
    work.target = kAll;
    work.loop = &loop;
  }
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&works, &loop, t] {
      for (size_t i = 0; i < kPosts; ++i) loop.post(works[t * kPosts + i]);
    });
  }
  loop.run();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count, kAll);
}

Task<void> ping_pong(Executor& here, Executor& there, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    EXPECT_TRUE(here.runs_here());
    co_await reschedule(there);
    EXPECT_TRUE(there.runs_here() && !here.runs_here());
    co_await reschedule(here);
  }
}

TEST(IoLoop, ACoroutineMovesBetweenThreads) {
  IoLoop loop;
  IoThread other("other");
  loop.run(ping_pong(loop, other.loop(), 1000));
}

Task<std::string> sleep_in_order(Executor& executor) {
  std::string order;
  co_await sleep_for(executor, milliseconds(2));
  order += 'a';
  co_await sleep_for(executor, milliseconds(1));
  order += 'b';
  co_return order;
}

TEST(IoLoop, TimersEndAnIdleWait) {
  IoLoop loop;
  const auto begin = loop.clock().now();
  EXPECT_EQ(loop.run(sleep_in_order(loop)), "ab");
  EXPECT_GE(loop.clock().now() - begin, milliseconds(3));
}

// For the calling thread, for ever. False where the system does not let it.
bool refuse_epoll_pwait2(uint32_t error) {
  std::array<sock_filter, 4> instructions{{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_pwait2, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  }};
  const sock_fprog program{.len = instructions.size(), .filter = instructions.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

class IoLoopWithoutExactWaits : public testing::TestWithParam<uint32_t> {};

TEST_P(IoLoopWithoutExactWaits, StillWaitsForTimersAndPosts) {
  bool is_refused = false;
  std::string order;
  // A filter cannot be taken off again, so the thread ends with it.
  std::thread([&] {
    is_refused = refuse_epoll_pwait2(GetParam());
    if (!is_refused) return;
    IoLoop loop;
    IoThread other("other");
    const auto begin = loop.clock().now();
    order = loop.run(sleep_in_order(loop));
    EXPECT_GE(loop.clock().now() - begin, milliseconds(3));
    loop.run(ping_pong(loop, other.loop(), 100));
  }).join();
  if (!is_refused) GTEST_SKIP() << "system calls cannot be refused here";
  EXPECT_EQ(order, "ab");
}

INSTANTIATE_TEST_SUITE_P(, IoLoopWithoutExactWaits, testing::Values(ENOSYS, EPERM),
                         [](const auto& error) { return error.param == ENOSYS ? "OldKernel" : "OldFilter"; });

TEST(IoLoop, IsFoundBehindAnExecutor) {
  IoLoop loop;
  SimLoop sim(1);
  EXPECT_EQ(IoLoop::from(loop), &loop);
  EXPECT_EQ(IoLoop::from(sim), nullptr);
}

Task<void> raise_and_wait(IoLoop& loop, std::vector<int>& seen) {
  SignalWatch watch(loop, {SIGUSR1, SIGHUP}, [&seen](int signal) { seen.push_back(signal); });
  ::kill(::getpid(), SIGHUP);
  while (seen.empty()) co_await sleep_for(loop, milliseconds(1));
  ::kill(::getpid(), SIGUSR1);
  while (seen.size() < 2) co_await sleep_for(loop, milliseconds(1));
  co_await watch.stop();
}

TEST(SignalWatch, TellsTheLoop) {
  block_signals({SIGUSR1, SIGHUP});
  IoLoop loop;
  std::vector<int> seen;
  loop.run(raise_and_wait(loop, seen));
  EXPECT_EQ(seen, (std::vector<int>{SIGHUP, SIGUSR1}));
}

}  // namespace
}  // namespace fdbnbd::net
