#include "kv/fdb/write_rate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <vector>

namespace fdbnbd::kv::fdb {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A storage server as the queue sees it: it keeps five seconds, puts what is older on its disk, and is heard
// of a little late.
struct Storage {
  double disk_bytes_per_second = 0;
  double cost = 2;  // of a byte in the queue
};

class WriteRateTest : public testing::Test {
 protected:
  static constexpr auto kStep = milliseconds(10);
  static constexpr uint64_t kCommitBytes = 100'000;

  // Writes as fast as it may, at most at `demand` bytes a second.
  void run(const Storage& storage, double demand, Duration time) {
    const double step_s = std::chrono::duration<double>(kStep).count();
    for (const MonotonicTime end = now_ + time; now_ < end; now_ += kStep) {
      offered_ += demand * step_s;
      while (next_at_ <= now_ && offered_ >= kCommitBytes) {
        offered_ -= kCommitBytes;
        written_ += kCommitBytes;
        next_at_ = now_ + rate_.reserve(now_, kCommitBytes);
      }
      offered_ = std::min(offered_, 2.0 * kCommitBytes);
      history_.push_back(written_);
      const size_t kept = (seconds(5) + milliseconds(500)) / kStep;
      const double old = history_.size() > kept ? history_[history_.size() - 1 - kept] : 0;
      durable_ = std::min(old, durable_ + storage.disk_bytes_per_second * step_s);
      queues_.push_back(queue(storage));
      most_queue_bytes_ = std::max(most_queue_bytes_, static_cast<double>(queues_.back().bytes));
      const size_t heard_of =
          queues_.size() - 1 - std::min<size_t>(milliseconds(250) / kStep, queues_.size() - 1);
      if (queues_.size() % (WriteRate::kInterval / kStep) == 0) rate_.on_queue(now_, queues_[heard_of]);
    }
  }

  WriteRate::Queue queue(const Storage& storage) const {
    const auto oldest = std::ranges::upper_bound(history_, durable_);
    const Duration age = Duration(kStep) * (history_.end() - oldest);
    return {static_cast<uint64_t>(storage.cost * (written_ - durable_)), std::max<Duration>(age, seconds(5))};
  }

  double written_in(const Storage& storage, double demand, Duration time) {
    const double before = written_;
    run(storage, demand, time);
    return written_ - before;
  }

  MonotonicTime now_{seconds(10)};
  WriteRate rate_;
  double offered_ = 0;
  double written_ = 0;
  double durable_ = 0;
  std::vector<double> history_;
  std::vector<WriteRate::Queue> queues_;
  MonotonicTime next_at_{};
  double most_queue_bytes_ = 0;
};

TEST_F(WriteRateTest, HasNoBoundWhileTheQueueIsShort) {
  run({.disk_bytes_per_second = 1e9}, 25e6, seconds(30));
  EXPECT_EQ(rate_.bytes_per_second(now_), 0);
  EXPECT_NEAR(written_, 30 * 25e6, 1e6);
}

TEST_F(WriteRateTest, ManyStorageServersTakeWhatOneCannot) {
  run({.disk_bytes_per_second = 2e9, .cost = 0.125}, 900e6, seconds(30));
  EXPECT_NEAR(written_, 30 * 900e6, 0.1e9);
}

TEST_F(WriteRateTest, AShortBurstIsNotHeldBack) {
  EXPECT_NEAR(written_in({.disk_bytes_per_second = 20e6}, 85e6, seconds(3)), 3 * 85e6, 5e6);
}

TEST_F(WriteRateTest, AFastDiskIsWrittenToAsFastAsTheQueueAllows) {
  const Storage storage{.disk_bytes_per_second = 1e9};
  run(storage, 150e6, seconds(20));
  EXPECT_GT(written_in(storage, 150e6, seconds(60)), 60 * 0.9 * limits::kFdbStorageQueueBytes / 2 / 5.5);
  EXPECT_LT(most_queue_bytes_, 950e6);
}

TEST_F(WriteRateTest, ASlowDiskIsKeptBusyAndItsQueueBounded) {
  for (const double disk : {10e6, 20e6, 40e6}) {
    SCOPED_TRACE(disk);
    rate_ = WriteRate();
    const Storage storage{.disk_bytes_per_second = disk};
    run(storage, 85e6, seconds(60));
    most_queue_bytes_ = 0;
    EXPECT_NEAR(written_in(storage, 85e6, seconds(60)), 60 * disk, 60 * disk * 0.05);
    EXPECT_LT(most_queue_bytes_, 1.1 * limits::kFdbStorageQueueBytes);
    EXPECT_GT(most_queue_bytes_, 0.9 * limits::kFdbStorageQueueBytes);
    run(storage, 0, seconds(200));  // drained
    most_queue_bytes_ = 0;
  }
}

TEST_F(WriteRateTest, TheFirstRushOnASlowDiskStaysBelowWhereReadsWouldWait) {
  run({.disk_bytes_per_second = 20e6}, 85e6, seconds(60));
  EXPECT_LT(most_queue_bytes_, 1000e6);
}

TEST_F(WriteRateTest, SeveralSlowDisksAreKeptBusyToo) {
  const Storage storage{.disk_bytes_per_second = 80e6, .cost = 0.5};
  run(storage, 600e6, seconds(90));
  EXPECT_NEAR(written_in(storage, 600e6, seconds(60)), 60 * 80e6, 60 * 8e6);
}

TEST_F(WriteRateTest, NeverStopsWriting) {
  for (int i = 0; i < 100; ++i) {
    now_ += WriteRate::kInterval;
    rate_.reserve(now_, kCommitBytes);
    rate_.on_queue(now_, {3 * limits::kFdbStorageQueueBytes, seconds(60)});
  }
  EXPECT_GE(rate_.bytes_per_second(now_), 1e6);
}

TEST_F(WriteRateTest, TellsHowLongTheNextOneWouldWaitWithoutTakingItsTurn) {
  EXPECT_EQ(rate_.wait(now_), Duration::zero());
  rate_.on_queue(now_, {3 * limits::kFdbStorageQueueBytes, seconds(60)});
  for (int i = 0; i < 100; ++i) rate_.reserve(now_, kCommitBytes);
  const Duration next = rate_.wait(now_);
  EXPECT_GT(next, seconds(1));
  EXPECT_EQ(rate_.wait(now_), next);
  EXPECT_EQ(rate_.reserve(now_, kCommitBytes), next);
}

TEST_F(WriteRateTest, AfterAPauseThereIsNoBound) {
  rate_.reserve(now_, kCommitBytes);
  rate_.on_queue(now_, {limits::kFdbStorageQueueBytes, seconds(60)});
  EXPECT_GT(rate_.bytes_per_second(now_), 0);
  now_ += seconds(10);
  EXPECT_EQ(rate_.reserve(now_, kCommitBytes), Duration::zero());
  EXPECT_EQ(rate_.bytes_per_second(now_), 0);
}

}  // namespace
}  // namespace fdbnbd::kv::fdb
