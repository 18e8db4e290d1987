#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <fstream>

#include "async/scope.h"
#include "base/random.h"
#include "kv/rocks/rocks_testing.h"

// Sudden death, and full disks.

namespace fdbnbd::kv {
namespace {

namespace fs = std::filesystem;
using limits::kMiB;

constexpr const char* kStoreVariable = "FDBNBD_TEST_CRASH_STORE";
constexpr int kAcknowledgeFd = 9;
constexpr size_t kWriters = 4;

// Writer w's commit number n puts n into both of its rows.
std::string row_key(char tag, uint64_t writer) {
  return std::string(1, tag) + "writer" + std::to_string(writer);
}
std::string row_value(uint64_t number) {
  return std::to_string(number) + std::string(3000, ' ');
}

Task<void> commit_for_ever(Executor& executor, Engine& engine, uint64_t writer, uint64_t first) {
  for (uint64_t number = first;; ++number) {
    const auto committed = co_await put_rows(
        executor, engine,
        {{row_key('I', writer), row_value(number)}, {row_key('D', writer), row_value(number)}});
    if (!committed) std::abort();
    const std::array<uint64_t, 2> acknowledged{writer, number};
    if (write(kAcknowledgeFd, acknowledged.data(), sizeof acknowledged) != sizeof acknowledged) std::abort();
    if (number % 16 == writer && !co_await engine.sync(executor)) std::abort();
  }
}

Task<void> commit_in_parallel(Executor& executor, Engine& engine) {
  std::array<uint64_t, kWriters> first{};
  for (uint64_t writer = 0; writer < kWriters; ++writer) {
    const auto found = co_await get_row(executor, engine, row_key('D', writer));
    if (!found) std::abort();
    first[writer] = *found ? std::stoull(**found) + 1 : 1;
  }
  TaskScope scope;
  for (uint64_t writer = 0; writer < kWriters; ++writer)
    scope.spawn(commit_for_ever(executor, engine, writer, first[writer]));
  co_await scope.join();
}

// Not a test: the program that the test below runs and kills.
TEST(RocksCrashChild, DISABLED_CommitsUntilItIsKilled) {
  const char* const store = std::getenv(kStoreVariable);
  ASSERT_NE(store, nullptr);
  RunLoop loop;
  const auto engine = open_or_fail({.path = store, .memory_bytes = limits::kMinRocksMemoryBytes});
  ASSERT_NE(engine, nullptr);
  loop.run(commit_in_parallel(loop, *engine));
}

// A child process that commits; what it acknowledges comes through a pipe.
class CommittingChild {
 public:
  explicit CommittingChild(const std::string& store) {
    std::array<int, 2> pipe_fds{};
    if (pipe2(pipe_fds.data(), O_CLOEXEC) != 0) std::abort();
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipe_fds[1], kAcknowledgeFd);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    const std::string variable = std::string(kStoreVariable) + "=" + store;
    std::vector<char*> environment{const_cast<char*>(variable.c_str())};
    for (char** entry = environ; *entry != nullptr; ++entry) environment.push_back(*entry);
    environment.push_back(nullptr);
    const char* const arguments[] = {"kv_rocks_test", "--gtest_also_run_disabled_tests",
                                     "--gtest_filter=RocksCrashChild.*", nullptr};
    if (posix_spawn(&pid_, "/proc/self/exe", &actions, nullptr, const_cast<char**>(arguments),
                    environment.data()) != 0)
      std::abort();
    posix_spawn_file_actions_destroy(&actions);
    close(pipe_fds[1]);
    acknowledged_fd_ = pipe_fds[0];
  }
  ~CommittingChild() { close(acknowledged_fd_); }

  // The next acknowledged commit; false where the child is dead and all was read.
  bool next(std::array<uint64_t, 2>& acknowledged) const {
    return read(acknowledged_fd_, acknowledged.data(), sizeof acknowledged) == sizeof acknowledged;
  }
  void kill_now() const {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

 private:
  pid_t pid_ = 0;
  int acknowledged_fd_ = -1;
};

TEST(RocksCrash, WhatWasAcknowledgedSurvivesAKillAndCommitsAreWhole) {
  const TempDirectory directory;
  std::array<uint64_t, kWriters> acknowledged{};
  Random random(1);
  for (int round = 0; round < 8; ++round) {
    SCOPED_TRACE(round);
    const CommittingChild child(directory.store());
    std::array<uint64_t, 2> commit{};
    for (uint64_t count = 1 + random.below(400); count > 0; --count) {
      ASSERT_TRUE(child.next(commit)) << "the child died by itself";
      acknowledged.at(commit[0]) = commit[1];
    }
    if (round == 0) {
      const auto second = open_rocks_engine({.path = directory.store()});
      ASSERT_FALSE(second);
      EXPECT_EQ(second.error().code, Errc::busy);
      EXPECT_NE(second.error().what.find(directory.store()), std::string::npos);
    }
    child.kill_now();
    while (child.next(commit)) acknowledged.at(commit[0]) = commit[1];

    RunLoop loop;
    const auto engine = open_or_fail({.path = directory.store()});
    ASSERT_NE(engine, nullptr);
    for (uint64_t writer = 0; writer < kWriters; ++writer) {
      const auto data = loop.run(get_row(loop, *engine, row_key('D', writer)));
      const auto record = loop.run(get_row(loop, *engine, row_key('I', writer)));
      ASSERT_TRUE(data && record);
      EXPECT_EQ(*data, *record) << "half of a commit";
      if (acknowledged[writer] == 0) continue;
      ASSERT_TRUE(*data) << "an acknowledged commit is lost";
      EXPECT_GE(std::stoull(**data), acknowledged[writer]) << "an acknowledged commit is lost";
      // One commit may have happened without its acknowledgement.
      EXPECT_LE(std::stoull(**data), acknowledged[writer] + 1);
    }
  }
}

// A file system of its own, small enough to fill.
class SmallDisk {
 public:
  explicit SmallDisk(uint64_t bytes) {
    const std::string options = "size=" + std::to_string(bytes);
    mounted_ = mount("tmpfs", directory_.path().c_str(), "tmpfs", 0, options.c_str()) == 0;
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  ~SmallDisk() {
    if (mounted_) umount2(directory_.path().c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  const TempDirectory& directory() const { return directory_; }

 private:
  TempDirectory directory_;
  bool mounted_ = false;
};

std::string full_key(uint64_t number) {
  return "D" + std::to_string(1'000'000 + number);
}
std::string full_value(uint64_t number) {
  std::string value(32 * 1024, '\0');
  Random random(number);
  for (size_t i = 0; i + 8 <= value.size(); i += 8) {
    const uint64_t bits = random.next();
    std::memcpy(value.data() + i, &bits, sizeof bits);
  }
  return value;
}

void expect_rows(Engine& engine, RunLoop& loop, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    const auto found = loop.run(get_row(loop, engine, full_key(i)));
    ASSERT_TRUE(found) << found.error().what;
    ASSERT_EQ(*found, full_value(i)) << "row " << i;
  }
}

// Commits rows until one fails or there are `limit`; the count that succeeded.
uint64_t fill(Engine& engine, RunLoop& loop, uint64_t first, uint64_t limit, Errc& failure) {
  for (uint64_t number = first; number < limit; ++number) {
    const auto committed = loop.run(put_rows(loop, engine, {{full_key(number), full_value(number)}}));
    if (!committed) {
      failure = committed.error().code;
      return number;
    }
  }
  return limit;
}

Task<void> wait_a_little(Executor& executor) {
  co_await sleep_for(executor, std::chrono::milliseconds(20));
}

TEST(RocksSpace, AFullDiskStopsWritesButNotReadsAndGoesOnWithRoom) {
  const SmallDisk disk(160 * kMiB);
  if (!disk.mounted()) GTEST_SKIP() << "cannot mount a small file system: " << std::strerror(errno);
  const fs::path ballast = disk.directory().path() / "ballast";
  {
    std::ofstream out(ballast, std::ios::binary);
    const std::string block(kMiB, 'b');
    for (int i = 0; i < 100; ++i) out << block;
  }
  RunLoop loop;
  uint64_t stored_count = 0;
  {
    const auto engine =
        open_or_fail({.path = disk.directory().store(), .memory_bytes = limits::kMinRocksMemoryBytes});
    ASSERT_NE(engine, nullptr);
    Errc failure{};
    stored_count = fill(*engine, loop, 0, 10'000, failure);
    EXPECT_EQ(failure, Errc::no_space);
    EXPECT_GT(stored_count, 100u);
    expect_rows(*engine, loop, stored_count);
    for (int i = 0; i < 20; ++i) {
      // Room can come by itself, when the log's rows have been written out.
      failure = Errc::no_space;
      stored_count = fill(*engine, loop, stored_count, stored_count + 1, failure);
      EXPECT_EQ(failure, Errc::no_space);
      EXPECT_TRUE(loop.run(engine->sync(loop))) << "what was acknowledged before can be synced";
    }
    // What was refused did not happen.
    const auto refused = loop.run(get_row(loop, *engine, full_key(stored_count)));
    ASSERT_TRUE(refused);
    EXPECT_EQ(*refused, std::nullopt);

    fs::remove(ballast);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    const uint64_t more_count = stored_count + 200;
    while (stored_count < more_count && std::chrono::steady_clock::now() < deadline) {
      stored_count = fill(*engine, loop, stored_count, more_count, failure);
      loop.run(wait_a_little(loop));
    }
    EXPECT_EQ(stored_count, more_count) << "writes did not go on: " << errc_name(failure);
    EXPECT_TRUE(loop.run(engine->sync(loop)));
    expect_rows(*engine, loop, stored_count);
  }
  const auto reopened = open_or_fail({.path = disk.directory().store()});
  ASSERT_NE(reopened, nullptr);
  expect_rows(*reopened, loop, stored_count);
}

TEST(RocksSpace, AStoreClosedOnAFullDiskOpensAgainWithRoom) {
  const SmallDisk disk(96 * kMiB);
  if (!disk.mounted()) GTEST_SKIP() << "cannot mount a small file system: " << std::strerror(errno);
  const fs::path ballast = disk.directory().path() / "ballast";
  std::ofstream(ballast, std::ios::binary) << std::string(48 * kMiB, 'b');
  RunLoop loop;
  uint64_t stored_count = 0;
  Errc failure{};
  {
    const auto engine =
        open_or_fail({.path = disk.directory().store(), .memory_bytes = limits::kMinRocksMemoryBytes});
    ASSERT_NE(engine, nullptr);
    stored_count = fill(*engine, loop, 0, 10'000, failure);
    EXPECT_EQ(failure, Errc::no_space);
  }
  if (const auto refused = open_rocks_engine({.path = disk.directory().store()}); !refused)
    EXPECT_EQ(refused.error().code, Errc::no_space) << refused.error().what;
  fs::remove(ballast);
  const auto engine = open_or_fail({.path = disk.directory().store()});
  ASSERT_NE(engine, nullptr);
  expect_rows(*engine, loop, stored_count);
  EXPECT_EQ(fill(*engine, loop, stored_count, stored_count + 50, failure), stored_count + 50);
}

TEST(RocksSpace, AClearedRangeGivesItsSpaceBackWithoutFurtherWrites) {
  const TempDirectory directory;
  RunLoop loop;
  const auto engine = open_or_fail({.path = directory.store(), .memory_bytes = limits::kMinRocksMemoryBytes});
  ASSERT_NE(engine, nullptr);
  Errc failure{};
  ASSERT_EQ(fill(*engine, loop, 0, 1000, failure), 1000u);
  EXPECT_GT(engine->stats().stored_bytes, 30 * kMiB);
  const auto clearing = engine->begin(loop);
  clearing->clear_range({full_key(10), "E"});
  ASSERT_TRUE(loop.run(clearing->commit()));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (engine->stats().stored_bytes > 2 * kMiB && std::chrono::steady_clock::now() < deadline)
    loop.run(wait_a_little(loop));
  EXPECT_LE(engine->stats().stored_bytes, 2 * kMiB);
  expect_rows(*engine, loop, 10);
}

TEST(RocksSpace, OpeningOnAFullDiskSaysSo) {
  const SmallDisk disk(kMiB);
  if (!disk.mounted()) GTEST_SKIP() << "cannot mount a small file system: " << std::strerror(errno);
  std::ofstream(disk.directory().path() / "ballast", std::ios::binary) << std::string(2 * kMiB, 'b');
  const auto engine = open_rocks_engine({.path = disk.directory().store()});
  ASSERT_FALSE(engine);
  EXPECT_EQ(engine.error().code, Errc::no_space) << engine.error().what;
}

}  // namespace
}  // namespace fdbnbd::kv
