#include "base/process_mark.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

namespace fdbnbd {
namespace {

TEST(ProcessMark, AProcessIsThereUntilItEnds) {
  const ProcessMark own = this_process();
  EXPECT_NE(own.host, 0U);
  EXPECT_EQ(own, this_process());
  EXPECT_FALSE(has_ended(own));
  ProcessMark earlier = own;
  --earlier.started;
  EXPECT_TRUE(has_ended(earlier)) << "its id is another one's by now";

  int from_child[2];
  int go_on[2];
  ASSERT_EQ(::pipe(from_child), 0);
  ASSERT_EQ(::pipe(go_on), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(go_on[1]);
    const ProcessMark mark = this_process();
    const bool written = ::write(from_child[1], &mark, sizeof mark) == sizeof mark;
    char byte = 0;
    ::_exit(written && ::read(go_on[0], &byte, 1) == 0 ? 0 : 1);
  }
  ASSERT_GT(child, 0);
  ProcessMark other;
  ASSERT_EQ(::read(from_child[0], &other, sizeof other), static_cast<ssize_t>(sizeof other));
  EXPECT_EQ(other.host, own.host);
  EXPECT_FALSE(has_ended(other));
  for (const int end : {from_child[0], from_child[1], go_on[0], go_on[1]}) ::close(end);
  siginfo_t ended{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOWAIT), 0);
  EXPECT_TRUE(has_ended(other)) << "not reaped yet";
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(has_ended(other));
}

TEST(ProcessMark, OfAnotherHostNothingIsKnown) {
  ProcessMark other = this_process();
  other.pid = 0x7fffffff;
  EXPECT_TRUE(has_ended(other));
  other.host ^= 1;
  EXPECT_FALSE(has_ended(other));
  EXPECT_FALSE(has_ended(ProcessMark{}));
}

}  // namespace
}  // namespace fdbnbd
