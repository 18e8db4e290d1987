#include "kv/fdb/write_rate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <deque>

namespace fdbnbd::kv::fdb {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr uint64_t kCommitBytes = 100'000;

class WriteRateTest : public testing::Test {
 protected:
  // Writes as fast as it is allowed to, at most at `most` bytes a second, and gives the bytes.
  uint64_t write_for(Duration time, uint64_t most) {
    const MonotonicTime end = now_ + time;
    const Duration step = Duration(seconds(1)) * kCommitBytes / most;
    uint64_t bytes = 0;
    while (now_ < end) {
      now_ += std::max(rate_.reserve(now_, kCommitBytes), step);
      bytes += kCommitBytes;
    }
    return bytes;
  }
  void see_queue(uint64_t bytes) { rate_.on_queue(now_, bytes); }

  MonotonicTime now_{seconds(1)};
  WriteRate rate_;
};

TEST_F(WriteRateTest, HasNoBoundWhileTheDisksFollow) {
  for (int i = 0; i < 10; ++i) {
    write_for(WriteRate::kInterval, 1'000'000'000);
    see_queue(WriteRate::kCalmBytes - 1);
  }
  EXPECT_EQ(rate_.bytes_per_second(), 0);
}

TEST_F(WriteRateTest, AQueueThatGrowsTowardsItsTargetIsSlowedBeforeItGetsThere) {
  see_queue(0);
  write_for(WriteRate::kInterval, 300'000'000);
  see_queue(300'000'000);
  // 600 MB/s of growth, and 60 MB/s would reach the target in five seconds.
  EXPECT_NEAR(rate_.bytes_per_second(), 30e6, 3e6);
  const uint64_t bytes = write_for(seconds(10), 1'000'000'000);
  EXPECT_NEAR(static_cast<double>(bytes) / 10, rate_.bytes_per_second(), 1e6);
}

TEST_F(WriteRateTest, NeverStopsWriting) {
  for (int i = 0; i < 100; ++i) {
    write_for(WriteRate::kInterval, 100'000'000);
    see_queue(3 * WriteRate::kTargetBytes);
  }
  EXPECT_GE(rate_.bytes_per_second(), 1e6);
}

TEST_F(WriteRateTest, ACalmQueueLiftsTheBoundAgain) {
  write_for(WriteRate::kInterval, 100'000'000);
  see_queue(WriteRate::kTargetBytes);
  EXPECT_GT(rate_.bytes_per_second(), 0);
  for (int i = 0; i < 100; ++i) {
    now_ += WriteRate::kInterval;
    see_queue(0);
  }
  EXPECT_EQ(rate_.bytes_per_second(), 0);
}

TEST_F(WriteRateTest, AfterAPauseACalmQueueHasNoBound) {
  write_for(WriteRate::kInterval, 100'000'000);
  see_queue(WriteRate::kTargetBytes);
  EXPECT_GT(rate_.bytes_per_second(), 0);
  now_ += seconds(10);
  see_queue(0);
  EXPECT_EQ(rate_.bytes_per_second(), 0);
}

// A storage server whose disk takes 80 MB/s of what is older than five seconds; each byte counts twice.
TEST_F(WriteRateTest, SettlesAtWhatTheDiskTakes) {
  constexpr int kLooks = 240;
  double waiting_bytes = 0;
  double old_bytes = 0;
  double longest_bytes = 0;
  double late_bytes = 0;
  std::deque<double> recent;
  for (int i = 0; i < kLooks; ++i) {
    const MonotonicTime before = now_;
    const auto written = static_cast<double>(write_for(WriteRate::kInterval, 150'000'000));
    const std::chrono::duration<double> took = now_ - before;
    if (i >= kLooks / 2) late_bytes += written;
    recent.push_back(2 * written);
    waiting_bytes += 2 * written;
    if (recent.size() > 10) {
      old_bytes += recent.front();
      recent.pop_front();
    }
    const double durable = std::min(old_bytes, 80e6 * took.count());
    old_bytes -= durable;
    waiting_bytes -= durable;
    longest_bytes = std::max(longest_bytes, waiting_bytes);
    see_queue(static_cast<uint64_t>(waiting_bytes));
  }
  EXPECT_LT(longest_bytes, 900e6);
  EXPECT_GT(late_bytes / (kLooks / 4), 36e6);
}

}  // namespace
}  // namespace fdbnbd::kv::fdb
