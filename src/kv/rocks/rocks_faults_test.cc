#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <filesystem>
#include <mutex>

#include "async/scope.h"
#include "base/random.h"
#include "kv/rocks/file_faults_testing.h"
#include "kv/rocks/rocks_testing.h"
#include "kv/rocks/sync_point.h"

// Files that cannot be written, made or synced for a while.

namespace fdbnbd::kv {
namespace {

namespace fs = std::filesystem;
using Attempt = FileFaults::Attempt;
using Call = FileFaults::Call;
using Verdict = FileFaults::Verdict;
using limits::kKiB;
using limits::kMiB;

// Whether it is about a file of RocksDB's log. (The errors of this program may go to a file of that kind,
// too.)
bool on_log(const Attempt& attempt) {
  return log_number_of(attempt.path).has_value();
}

// Holds whoever wants to pass until it is opened.
class Gate {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    waiting_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
  }
  // Until somebody wants to pass.
  void wait_for_somebody() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return waiting_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  bool waiting_ = false;
};

// Data that no compression makes smaller.
std::string noise(size_t bytes, uint64_t seed) {
  Random random(seed);
  std::string value(bytes, '\0');
  for (char& byte : value) byte = static_cast<char>(random.next());
  return value;
}

class RocksFaults : public testing::Test {
 protected:
  RocksFaults() { reopen(); }

  void reopen() {
    engine_.reset();
    engine_ = open_or_fail({.path = directory_.store(), .memory_bytes = limits::kMinRocksMemoryBytes});
  }
  // Errc of a commit; nothing where it succeeded.
  std::optional<Errc> put(std::string key, std::string value) {
    const auto committed = loop_.run(put_rows(loop_, *engine_, {{std::move(key), std::move(value)}}));
    if (committed) return std::nullopt;
    return committed.error().code;
  }
  std::optional<Errc> flush() {
    const auto synced = loop_.run(engine_->sync(loop_));
    if (synced) return std::nullopt;
    return synced.error().code;
  }
  std::optional<std::string> row(std::string key) {
    auto found = loop_.run(get_row(loop_, *engine_, std::move(key)));
    EXPECT_TRUE(found) << found.error().what;
    return found ? *found : std::nullopt;
  }
  // A commit that succeeds within a while: trying to go on again is not done at each commit.
  bool put_in_the_end(const std::string& key, const std::string& value) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (put(key, value)) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      loop_.run(pause(loop_));
    }
    return true;
  }
  // Whether what cleared bulk rows took goes back to the file system within a while.
  bool is_reclaimed() {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(40);
    while (engine_->stats().stored_bytes > 2 * kMiB) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      loop_.run(pause(loop_));
    }
    return true;
  }
  static Task<void> pause(Executor& executor, Duration time = std::chrono::milliseconds(20)) {
    co_await sleep_for(executor, time);
  }

  TempDirectory directory_;
  RunLoop loop_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(RocksFaults, AFlushAfterACommitThatTheLogDidNotTakeIsAnswered) {
  for (const int error : {ENOSPC, EIO}) {
    SCOPED_TRACE(error);
    ASSERT_EQ(put("I1", "before"), std::nullopt);
    {
      const FileFaults faults([error](const Attempt& attempt) -> Verdict {
        return {attempt.call == Call::write && on_log(attempt) ? error : 0};
      });
      EXPECT_EQ(put("I1", "refused"), error == ENOSPC ? Errc::no_space : Errc::io);
      EXPECT_EQ(flush(), std::nullopt) << "what was acknowledged is in the log";
    }
    EXPECT_EQ(row("I1"), "before");
    reopen();
    EXPECT_EQ(row("I1"), "before");
  }
}

// A commit that is under way while the test does other things.
class StartedPut {
 public:
  StartedPut(RunLoop& loop, Engine& engine, std::string key, std::string value) : loop_(loop) {
    scope_.spawn(put(loop, engine, {std::move(key), std::move(value)}, result_));
  }
  // How it ended; nothing where it succeeded.
  std::optional<Errc> finish() {
    loop_.run(join(scope_));
    return result_;
  }

 private:
  static Task<void> put(Executor& executor, Engine& engine, KeyValue row, std::optional<Errc>& result) {
    const auto committed = co_await put_rows(executor, engine, {row});
    if (!committed) result = committed.error().code;
  }
  static Task<void> join(TaskScope& scope) { co_await scope.join(); }

  RunLoop& loop_;
  TaskScope scope_;
  std::optional<Errc> result_;
};

TEST_F(RocksFaults, AFlushBesideACommitThatMeetsAFullDiskIsAnswered) {
  ASSERT_EQ(put("I1", "before"), std::nullopt);
  Gate gate;
  std::atomic<bool> full = false;
  {
    const FileFaults faults([&gate, &full](const Attempt& attempt) -> Verdict {
      if (attempt.call != Call::write) return {};
      if (on_log(attempt)) {
        full = true;
        return {ENOSPC};
      }
      // It is about to tell of it, outside of RocksDB.
      if (full && attempt.thread == "rocks commit" && !attempt.on("LOG")) gate.pass();
      return {};
    });
    StartedPut refused(loop_, *engine_, "I1", "refused");
    gate.wait_for_somebody();
    EXPECT_EQ(flush(), std::nullopt);
    gate.open();
    EXPECT_EQ(refused.finish(), Errc::no_space);
  }
  EXPECT_EQ(row("I1"), "before");
  EXPECT_TRUE(put_in_the_end("I1", "after"));
}

// A record of the log reaches its file piece by piece.
TEST_F(RocksFaults, AFlushInTheMiddleOfACommitLeavesASoundStore) {
  ASSERT_EQ(put("I1", "flushed"), std::nullopt);
  const fs::path killed = directory_.path() / "killed";
  Gate gate;
  std::atomic<int> writes_count = 0;
  const FileFaults faults([&gate, &writes_count](const Attempt& attempt) -> Verdict {
    if (attempt.call == Call::write && on_log(attempt) && ++writes_count == 2) gate.pass();
    return {};
  });
  StartedPut large(loop_, *engine_, "I2", noise(3 * kMiB, 1));
  gate.wait_for_somebody();
  EXPECT_EQ(flush(), std::nullopt);
  fs::copy(directory_.store(), killed);
  gate.open();
  EXPECT_EQ(large.finish(), std::nullopt);
  EXPECT_GE(writes_count, 2);

  const auto survivor = open_or_fail({.path = killed});
  ASSERT_NE(survivor, nullptr);
  EXPECT_EQ(loop_.run(get_row(loop_, *survivor, "I1")).value(), "flushed");
  EXPECT_EQ(loop_.run(get_row(loop_, *survivor, "I2")).value(), std::nullopt);
}

TEST_F(RocksFaults, TheFirstWriteMayMeetAFullDisk) {
  {
    const FileFaults faults([](const Attempt& attempt) -> Verdict {
      return {attempt.call == Call::write && on_log(attempt) ? ENOSPC : 0};
    });
    EXPECT_EQ(put("I1", "refused"), Errc::no_space);
    EXPECT_EQ(put("I1", "refused"), Errc::no_space);
  }
  EXPECT_TRUE(put_in_the_end("I1", "after"));
  EXPECT_EQ(flush(), std::nullopt);
  reopen();
  EXPECT_EQ(row("I1"), "after");
}

TEST_F(RocksFaults, ALogThatCannotBeMadeForWantOfSpaceIsMadeLater) {
  // So that there is a range tombstone in memory.
  for (uint64_t i = 0; i < 100; ++i) ASSERT_EQ(put("D" + std::to_string(i), "bulk"), std::nullopt);
  const auto clearing = engine_->begin(loop_);
  clearing->clear_range({"D", "E"});
  ASSERT_TRUE(loop_.run(clearing->commit()));
  std::atomic<bool> refused = false;
  uint64_t count = 0;
  {
    const FileFaults faults([&refused](const Attempt& attempt) -> Verdict {
      if (attempt.call != Call::create || !on_log(attempt)) return {};
      refused = true;
      return {ENOSPC};
    });
    std::optional<Errc> failure;
    while (!refused && count < 4096) {
      failure = put("I" + std::to_string(count), noise(16 * kKiB, count));
      ++count;
    }
    EXPECT_EQ(failure, Errc::no_space);
  }
  EXPECT_TRUE(put_in_the_end("I", "after"));
  EXPECT_EQ(flush(), std::nullopt);
  reopen();
  EXPECT_EQ(row("I"), "after");
  for (uint64_t i = 0; i + 1 < count; ++i) EXPECT_EQ(row("I" + std::to_string(i)), noise(16 * kKiB, i));
}

// What a compaction meets when it writes.
Verdict fails_compactions(const Attempt& attempt, int error) {
  if (attempt.thread != "rocksdb:low" || !(attempt.on(".sst") || attempt.on(".blob"))) return {};
  // Reserving space touches no bad place.
  const bool fails = attempt.call == Call::write || (attempt.call == Call::reserve && error == ENOSPC);
  return {fails ? error : 0};
}

// For a compaction that has met an error to fail.
constexpr auto kCompactionEnd = std::chrono::milliseconds(500);

TEST_F(RocksFaults, WritesThatWaitForCompactionsOnAFullDiskFailAndGoOnWithRoom) {
  std::optional<Errc> failure;
  uint64_t count = 0;
  {
    const FileFaults faults([](const Attempt& attempt) { return fails_compactions(attempt, ENOSPC); });
    // More than what may wait for a compaction.
    for (; count < 400 && !failure; ++count)
      failure = put("I" + std::to_string(count), noise(256 * kKiB, count));
    EXPECT_EQ(failure, Errc::no_space);
    EXPECT_GT(count, 16u) << "one compaction that fails stops nothing";
    EXPECT_EQ(flush(), std::nullopt);
  }
  EXPECT_TRUE(put_in_the_end("I", "after"));
  EXPECT_EQ(flush(), std::nullopt);
  for (uint64_t i = 0; i + 1 < count; ++i) ASSERT_EQ(row("I" + std::to_string(i)), noise(256 * kKiB, i)) << i;
}

TEST_F(RocksFaults, ACompactionThatMetABadPlaceOfTheDiskDoesNotEndWrites) {
  std::atomic<bool> met = false;
  const FileFaults faults([&met](const Attempt& attempt) {
    const Verdict verdict = met ? Verdict{} : fails_compactions(attempt, EIO);
    if (verdict.error != 0) met = true;
    return verdict;
  });
  for (uint64_t i = 0; i < 60; ++i)
    ASSERT_EQ(put("I" + std::to_string(i), noise(256 * kKiB, i)), std::nullopt);
  while (!met) loop_.run(pause(loop_));
  loop_.run(pause(loop_, kCompactionEnd));
  for (uint64_t i = 0; i < 10; ++i) EXPECT_EQ(put("I", noise(256 * kKiB, i)), std::nullopt);
  EXPECT_EQ(flush(), std::nullopt);
}

TEST_F(RocksFaults, ACompactionThatMetAFullDiskDoesNotFailAWriteThatHasToWait) {
  std::atomic<bool> disk_is_full = true;
  std::atomic<bool> met = false;
  std::atomic<int> logs_count = 0;
  Gate flushes;
  std::atomic<bool> hold_flushes = false;
  const FileFaults faults([&](const Attempt& attempt) -> Verdict {
    if (attempt.call == Call::create && on_log(attempt)) ++logs_count;
    if (attempt.call == Call::create && attempt.thread == "rocksdb:high" && hold_flushes) flushes.pass();
    const Verdict verdict = disk_is_full ? fails_compactions(attempt, ENOSPC) : Verdict{};
    if (verdict.error != 0) met = true;
    return verdict;
  });
  uint64_t count = 0;
  while (!met && count < 20 * 64) {
    ASSERT_EQ(put("I" + std::to_string(count), noise(16 * kKiB, count)), std::nullopt);
    ++count;
  }
  ASSERT_TRUE(met);
  loop_.run(pause(loop_, kCompactionEnd));
  disk_is_full = false;

  // As much as memory takes while nothing is written out, and then one more.
  hold_flushes = true;
  const int logs_before_count = logs_count;
  std::vector<std::unique_ptr<StartedPut>> puts;
  for (uint64_t i = 0; i < 24; ++i)
    puts.push_back(std::make_unique<StartedPut>(loop_, *engine_, "D" + std::to_string(i), noise(kMiB, i)));
  while (logs_count < logs_before_count + 3) loop_.run(pause(loop_));
  loop_.run(pause(loop_));
  flushes.open();
  for (const auto& put : puts) EXPECT_EQ(put->finish(), std::nullopt);
}

TEST_F(RocksFaults, ALogThatIsGoneCannotBeFlushed) {
  ASSERT_EQ(put("I1", "row"), std::nullopt);
  ASSERT_EQ(flush(), std::nullopt);
  ASSERT_EQ(put("I1", "later"), std::nullopt);
  for (const auto& entry : fs::directory_iterator(directory_.store()))
    if (entry.path().extension() == ".log") fs::remove(entry.path());
  EXPECT_EQ(flush(), Errc::io);
  EXPECT_EQ(put("I1", "last"), Errc::io);
  EXPECT_EQ(row("I1"), "later");
}

// The kernel tells of pages that it could not write once; the next sync succeeds without them.
TEST_F(RocksFaults, AFlushFailsWhereRocksDbsOwnSyncOfALogFailed) {
  std::atomic<bool> failed = false;
  const FileFaults faults([&failed](const Attempt& attempt) -> Verdict {
    const bool first = attempt.call == Call::sync && on_log(attempt) && !failed.exchange(true);
    return {first ? EIO : 0};
  });
  ASSERT_EQ(put("I1", "row"), std::nullopt);
  // RocksDB syncs the older logs before it writes out what is in memory.
  for (uint64_t i = 0; i < 12 && !failed; ++i) put("D" + std::to_string(i), noise(kMiB, i));
  while (!failed) loop_.run(pause(loop_));
  EXPECT_EQ(flush(), Errc::io);
  EXPECT_EQ(flush(), Errc::io);
  EXPECT_EQ(row("I1"), "row");
}

// Writes go on after that; the log, the sync of which failed, is synced again and closed.
TEST_F(RocksFaults, AFlushFailsWhereRocksDbSyncedALogInItsSecondTry) {
  std::atomic<bool> failed = false;
  const FileFaults faults([&failed](const Attempt& attempt) -> Verdict {
    const bool first = attempt.call == Call::sync && on_log(attempt) && !failed.exchange(true);
    return {first ? ENOSPC : 0};
  });
  ASSERT_EQ(put("I1", "row"), std::nullopt);
  for (uint64_t i = 0; i < 12 && !failed; ++i) put("D" + std::to_string(i), noise(kMiB, i));
  while (!failed) loop_.run(pause(loop_));
  const auto logs = [this] {
    size_t count = 0;
    for (const auto& entry : fs::directory_iterator(directory_.store()))
      if (entry.path().extension() == ".log") ++count;
    return count;
  };
  // Until RocksDB has met the error, gone on, and needs the log no more.
  ASSERT_TRUE(put_in_the_end("I2", "after"));
  for (uint64_t i = 0; i < 24; ++i) EXPECT_TRUE(put_in_the_end("D" + std::to_string(i), noise(kMiB, i)));
  for (int i = 0; i < 200 && logs() > 2; ++i) loop_.run(pause(loop_));
  EXPECT_EQ(flush(), Errc::io);
  EXPECT_EQ(put("I1", "refused"), Errc::io);
  EXPECT_EQ(row("I1"), "row");
}

// Discarding on a disk that is full has the files of the discarded rows rewritten, which needs room itself.
TEST_F(RocksFaults, SpaceIsReclaimedOnceThereIsRoomToRewriteFiles) {
  for (uint64_t i = 0; i < 200; ++i)
    ASSERT_EQ(put("D" + std::to_string(i), noise(64 * kKiB, i)), std::nullopt);
  std::atomic<bool> met = false;
  {
    const FileFaults faults([&met](const Attempt& attempt) {
      const Verdict verdict = fails_compactions(attempt, ENOSPC);
      if (verdict.error != 0) met = true;
      return verdict;
    });
    const auto clearing = engine_->begin(loop_);
    clearing->clear_range({"D", "E"});
    ASSERT_TRUE(loop_.run(clearing->commit()));
    while (!met) loop_.run(pause(loop_));
    loop_.run(pause(loop_));
  }
  EXPECT_TRUE(is_reclaimed());
}

TEST_F(RocksFaults, SpaceIsReclaimedAfterTheDiskWasFull) {
  {
    const FileFaults faults([](const Attempt& attempt) -> Verdict {
      return {attempt.call == Call::write && on_log(attempt) ? ENOSPC : 0};
    });
    EXPECT_EQ(put("I1", "refused"), Errc::no_space);
  }
  EXPECT_TRUE(put_in_the_end("I1", "after"));
  for (uint64_t i = 0; i < 100; ++i)
    ASSERT_EQ(put("D" + std::to_string(i), noise(64 * kKiB, i)), std::nullopt);
  const auto clearing = engine_->begin(loop_);
  clearing->clear_range({"D", "E"});
  ASSERT_TRUE(loop_.run(clearing->commit()));
  EXPECT_TRUE(is_reclaimed());
}

// RocksDB begins another log to write out what is in memory, while the newest one could not be appended to.
TEST_F(RocksFaults, ReclaimingSpaceOnAFullDiskDoesNotEndWritesForGood) {
  for (uint64_t i = 0; i < 100; ++i)
    ASSERT_EQ(put("D" + std::to_string(i), noise(4 * kKiB, i)), std::nullopt);
  const auto clearing = engine_->begin(loop_);
  clearing->clear_range({"D", "E"});
  ASSERT_TRUE(loop_.run(clearing->commit()));
  {
    const FileFaults faults([](const Attempt& attempt) -> Verdict {
      return {attempt.call == Call::write && on_log(attempt) ? ENOSPC : 0};
    });
    EXPECT_EQ(put("I1", "refused"), Errc::no_space);
    // Until it has been tried.
    loop_.run(pause(loop_, std::chrono::milliseconds(2500)));
  }
  EXPECT_TRUE(put_in_the_end("I1", "after"));
  EXPECT_EQ(flush(), std::nullopt);
}

}  // namespace
}  // namespace fdbnbd::kv
