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
  int go_on[2];
  ASSERT_EQ(::pipe(go_on), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    char byte = 0;
    ::close(go_on[1]);
    ::_exit(::read(go_on[0], &byte, 1) == 0 ? 0 : 1);
  }
  ASSERT_GT(child, 0);
  ProcessMark other = own;
  other.pid = static_cast<uint32_t>(child);
  EXPECT_TRUE(has_ended(other)) << "that id belongs to a process that was started at another time";
  ::close(go_on[0]);
  ::close(go_on[1]);
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
