// The ways to lose a write over FoundationDB, played on the fake client library: two servers on one cluster,
// commits that share a version, commits without a clear answer that take effect late, read versions that are
// too old.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "async/run_loop.h"
#include "async/scope.h"
#include "base/random.h"
#include "kv/fdb/fake_fdb_testing.h"
#include "kv/fdb/fdb_engine.h"
#include "kv/fdb/stop_network_testing.h"
#include "volume/commit_queue.h"
#include "volume/fence.h"
#include "volume/store.h"

namespace fdbnbd::volume {
namespace {

using kv::fdb::kFakeApplied;
using kv::fdb::kFakeCommit;
using kv::fdb::kFakeGet;
using kv::fdb::kFakeLate;
using kv::fdb::kFakeNothing;
using kv::fdb::kFakeRange;
using kv::fdb::kFakeReadVersion;

// Longer than anything here takes on a slow machine; a guard that is gone may show as a loop without end.
constexpr auto kPatience = std::chrono::seconds(60);
constexpr auto kPollDelay = std::chrono::milliseconds(1);

const kv::fdb::FakeFdb& fake() {
  static const kv::fdb::FakeFdb the_fake(FDBNBD_FAKE_FDB_LIBRARY);
  return the_fake;
}

std::unique_ptr<kv::Engine> open_engine() {
  kv::FdbOptions options;
  options.library_path = FDBNBD_FAKE_FDB_LIBRARY;
  return kv::open_fdb_engine(options).value();
}

Task<void> finish_in_time(Executor& executor, const bool& done) {
  const MonotonicTime deadline = executor.clock().now() + kPatience;
  while (!done) {
    if (executor.clock().now() > deadline) {
      std::fputs("a task does not end\n", stderr);
      std::_Exit(1);
    }
    co_await sleep_for(executor, kPollDelay);
  }
}

template <typename T>
Task<void> store_result(Task<T> task, std::optional<T>& result, bool& done) {
  result.emplace(co_await std::move(task));
  done = true;
}

Task<void> wait_for_held(Executor& executor, int count) {
  const MonotonicTime deadline = executor.clock().now() + kPatience;
  while (fake().held_commits() < count && executor.clock().now() < deadline)
    co_await sleep_for(executor, kPollDelay);
  EXPECT_EQ(fake().held_commits(), count);
}

// Sets one key, as the data of a block.
class SetBlock final : public CommitQueue::Intent {
 public:
  SetBlock(std::string key, std::string value) : key_(std::move(key)), value_(std::move(value)) {
    estimated_bytes = key_.size() + value_.size();
    mutations_count = 1;
  }
  void apply(kv::Transaction& transaction) override { transaction.set(key_, value_); }

 private:
  const std::string key_;
  const std::string value_;
};

// One server's hold on the volume.
struct Server {
  Server(Executor& executor, std::string fence_key, uint8_t number)
      : engine(open_engine()),
        fence(*engine, executor, std::move(fence_key), owner(number)),
        commits(*engine, executor, fence) {}

  static InstanceId owner(uint8_t number) {
    InstanceId bytes{};
    bytes.fill(number);
    return bytes;
  }

  std::unique_ptr<kv::Engine> engine;
  Fence fence;
  CommitQueue commits;
};

class Hazards : public testing::Test {
 protected:
  Hazards() {
    fake().reset(3);
    a_ = std::make_unique<Server>(loop_, kFenceKey, 1);
    b_ = std::make_unique<Server>(loop_, kFenceKey, 2);
    put(kFenceKey, FenceRecord{}.encode());
  }
  ~Hazards() override {
    a_.reset();
    b_.reset();
    EXPECT_EQ(fake().count(kv::fdb::kFakeForbiddenOptions), 0);
    EXPECT_EQ(fake().count(kv::fdb::kFakeLiveFutures), 0);
  }

  template <typename T>
  T run(Task<T> task) {
    std::optional<T> result;
    bool done = false;
    loop_.run(run_side_by_side(store_result(std::move(task), result, done), finish_in_time(loop_, done)));
    return std::move(*result);
  }
  static Task<void> run_side_by_side(Task<void> first, Task<void> second) {
    TaskScope scope;
    scope.spawn(std::move(first));
    scope.spawn(std::move(second));
    co_await scope.join();
  }

  void put(std::string key, std::string value) {
    const auto transaction = b_->engine->begin(loop_);
    transaction->set(key, value);
    ASSERT_TRUE(run(transaction->commit()));
  }
  std::string stored(std::string key) {
    const auto transaction = b_->engine->begin(loop_);
    return run(transaction->get(key, kv::Isolation::snapshot)).value().value_or("absent");
  }
  Result<void> write(Server& server, std::string key, std::string value) {
    SetBlock intent(key, value);
    return run(server.commits.commit(intent));
  }
  static Errc code_of(const Result<void>& result) {
    EXPECT_FALSE(result);
    return result ? Errc::io : result.error().code;
  }

  static constexpr const char* kFenceKey = "Fvolume";
  static constexpr const char* kBlock = "Dblock";

  RunLoop loop_;
  std::unique_ptr<Server> a_;
  std::unique_ptr<Server> b_;
};

Task<Result<void>> commit_one(Server& server, SetBlock& intent) {
  co_return co_await server.commits.commit(intent);
}

Task<void> steal_in_the_same_batch(Executor& executor, Server& a, Server& b, SetBlock& write) {
  fake().hold_commits(1);
  TaskScope scope;
  std::optional<Result<void>> written;
  std::optional<Result<void>> stolen;
  bool write_done = false;
  bool steal_done = false;
  scope.spawn(store_result(commit_one(a, write), written, write_done));
  co_await wait_for_held(executor, 1);
  scope.spawn(store_result(b.fence.acquire(), stolen, steal_done));
  co_await wait_for_held(executor, 2);
  fake().hold_commits(0);
  co_await scope.join();
  EXPECT_TRUE(*written);
  EXPECT_TRUE(*stolen);
}

// Guard: Fence::on_committed takes the version before the commit's.
TEST_F(Hazards, ATakeoverThatSharesTheVersionOfOurLastWriteFencesTheNextOne) {
  ASSERT_TRUE(run(a_->fence.acquire()));
  SetBlock first(kBlock, "a's first");
  const int64_t shared_before = fake().count(kv::fdb::kFakeSharedVersions);
  loop_.run(steal_in_the_same_batch(loop_, *a_, *b_, first));
  ASSERT_EQ(fake().count(kv::fdb::kFakeSharedVersions), shared_before + 1);
  EXPECT_EQ(stored(kBlock), "a's first");
  ASSERT_TRUE(write(*b_, kBlock, "b's"));
  EXPECT_EQ(code_of(write(*a_, kBlock, "a's second")), Errc::fenced);
  EXPECT_EQ(stored(kBlock), "b's");
}

// Guards: the fence in the read conflicts of each commit, and the version of the fence as its read version.
TEST_F(Hazards, AServerThatLostTheVolumeCannotChangeAByte) {
  ASSERT_TRUE(run(a_->fence.acquire()));
  ASSERT_TRUE(write(*a_, kBlock, "a's first"));
  ASSERT_TRUE(run(b_->fence.acquire()));
  ASSERT_TRUE(write(*b_, kBlock, "b's"));
  EXPECT_EQ(code_of(write(*a_, kBlock, "a's second")), Errc::fenced);
  EXPECT_EQ(stored(kBlock), "b's");
  // And stays so: not even its own barrier gives it back.
  EXPECT_EQ(code_of(run(a_->fence.barrier())), Errc::fenced);
  EXPECT_EQ(code_of(write(*a_, kBlock, "a's third")), Errc::fenced);
  EXPECT_EQ(stored(kBlock), "b's");
}

// The same for a write that was being retried when the volume was taken.
Task<void> take_over_during_retries(Executor& executor, Server& a, Server& b, SetBlock& late,
                                    SetBlock& newer) {
  TaskScope scope;
  std::optional<Result<void>> written;
  std::optional<Result<void>> stolen;
  bool write_done = false;
  bool steal_done = false;
  // The cluster refuses the write for being at its limit, and takes the takeover.
  fake().script(kFakeCommit, 1042, kFakeNothing, 1);
  fake().hold_commits(1);
  scope.spawn(store_result(commit_one(a, late), written, write_done));
  co_await wait_for_held(executor, 1);
  scope.spawn(store_result(b.fence.acquire(), stolen, steal_done));
  co_await wait_for_held(executor, 2);
  fake().hold_commits(0);
  while (!steal_done) co_await sleep_for(executor, kPollDelay);
  EXPECT_TRUE(*stolen);
  EXPECT_TRUE(co_await b.commits.commit(newer));
  co_await scope.join();
  EXPECT_FALSE(*written);
  if (!*written) EXPECT_EQ(written->error().code, Errc::fenced);
}

TEST_F(Hazards, AWriteThatIsRetriedAfterTheVolumeWasTakenFails) {
  ASSERT_TRUE(run(a_->fence.acquire()));
  SetBlock late(kBlock, "a's");
  SetBlock newer(kBlock, "b's");
  loop_.run(take_over_during_retries(loop_, *a_, *b_, late, newer));
  EXPECT_EQ(stored(kBlock), "b's");
}

// Guard: CommitQueue's barrier after an unknown result.
class AbandonedCommit : public Hazards, public testing::WithParamInterface<int> {};

TEST_P(AbandonedCommit, CannotLandOnANewerWrite) {
  ASSERT_TRUE(run(a_->fence.acquire()));
  fake().script(kFakeCommit, GetParam(), kFakeLate, 1);
  ASSERT_TRUE(write(*a_, kBlock, "old"));
  EXPECT_EQ(stored(kBlock), "old");
  ASSERT_EQ(fake().late_commits(), 1);
  ASSERT_TRUE(write(*a_, kBlock, "new"));
  fake().release_late_commits();
  EXPECT_EQ(stored(kBlock), "new");
  ASSERT_TRUE(write(*a_, kBlock, "newest"));
}

INSTANTIATE_TEST_SUITE_P(Fdb, AbandonedCommit, testing::Values(1025, 1031, 1039, 1101, 1100),
                         [](const auto& error) { return "Error" + std::to_string(error.param); });

// The barrier itself may be lost and come late: it only writes the fence, and the write goes on.
TEST_F(Hazards, ABarrierThatIsAbandonedIsDoneAgain) {
  ASSERT_TRUE(run(a_->fence.acquire()));
  fake().script(kFakeCommit, 1031, kFakeLate, 2);
  ASSERT_TRUE(write(*a_, kBlock, "old"));
  ASSERT_TRUE(write(*a_, kBlock, "new"));
  fake().release_late_commits();
  EXPECT_EQ(stored(kBlock), "new");
  ASSERT_TRUE(write(*a_, kBlock, "newest"));
  EXPECT_EQ(stored(kBlock), "newest");
}

// Guard: a late commit of a server that is gone meets the fence that its successor wrote.
TEST_F(Hazards, ALateCommitOfADeadServerCannotLandAfterTheTakeover) {
  ASSERT_TRUE(run(a_->fence.acquire()));
  // It dies with a commit under way, and nobody asks for its result.
  {
    const auto transaction = a_->engine->begin(loop_);
    transaction->disable_write_conflicts();
    transaction->set_read_version(a_->fence.version());
    transaction->add_read_conflict(a_->fence.conflict_range());
    transaction->set(kBlock, "dead");
    fake().script(kFakeCommit, 1101, kFakeLate, 1);
    EXPECT_EQ(run(transaction->commit()).error().code, Errc::unknown_result);
  }
  a_.reset();
  ASSERT_TRUE(run(b_->fence.acquire()));
  ASSERT_TRUE(write(*b_, kBlock, "b's"));
  fake().release_late_commits();
  EXPECT_EQ(stored(kBlock), "b's");
}

// Guard: an unknown result is never an error to the client, and never a success without the write.
TEST_F(Hazards, AnUnknownResultEndsInTheWriteWhetherItHadHappenedOrNot) {
  ASSERT_TRUE(run(a_->fence.acquire()));
  for (const int outcome : {kFakeNothing, kFakeApplied}) {
    const std::string value = "value " + std::to_string(outcome);
    fake().script(kFakeCommit, 1021, outcome, 3);
    ASSERT_TRUE(write(*a_, kBlock, value));
    EXPECT_EQ(stored(kBlock), value);
  }
}

// Guard: a conflict is a question to the fence, not the loss of the volume.
TEST_F(Hazards, AConflictWithoutATakeoverIsNoLossOfTheVolume) {
  ASSERT_TRUE(run(a_->fence.acquire()));
  fake().script(kFakeCommit, 1020, kFakeNothing, 5);
  ASSERT_TRUE(write(*a_, kBlock, "value"));
  EXPECT_EQ(stored(kBlock), "value");
}

// Guard: a version that is too old is replaced before the next attempt.
TEST_F(Hazards, AfterAStallLongerThanTheWindowWritesGoOn) {
  ASSERT_TRUE(run(a_->fence.acquire()));
  fake().set_window(10'000);
  for (int round = 0; round < 3; ++round) {
    fake().advance_versions(100'000);
    ASSERT_TRUE(write(*a_, kBlock, std::to_string(round)));
    EXPECT_EQ(stored(kBlock), std::to_string(round));
  }
}

// A whole volume under all of it at once, against a model.
class FaultyVolume : public testing::TestWithParam<uint64_t> {
 protected:
  static constexpr uint64_t kVolumeBytes = 2 * limits::kMiB;

  template <typename T>
  T run(Task<T> task) {
    std::optional<T> result;
    bool done = false;
    loop_.run(run_with_deadline(store_result(std::move(task), result, done), loop_, done));
    return std::move(*result);
  }
  static Task<void> run_with_deadline(Task<void> task, Executor& executor, const bool& done) {
    TaskScope scope;
    scope.spawn(std::move(task));
    scope.spawn(finish_in_time(executor, done));
    co_await scope.join();
  }

  void draw_faults(Random& random) {
    static constexpr kv::fdb::FakeOperation kReads[] = {kFakeGet, kFakeRange, kFakeReadVersion};
    static constexpr int kReadErrors[] = {1007, 1009, 1037, 1031};
    static constexpr struct {
      int error;
      int outcome;
    } kCommitFaults[] = {{1007, kFakeNothing}, {1020, kFakeNothing}, {1021, kFakeNothing},
                         {1021, kFakeApplied}, {1031, kFakeLate},    {1039, kFakeApplied},
                         {1037, kFakeNothing}};
    if (random.one_in(3)) {
      const auto& fault = kCommitFaults[random.below(std::size(kCommitFaults))];
      fake().script(kFakeCommit, fault.error, fault.outcome, 1);
    }
    if (random.one_in(3)) {
      fake().script(kReads[random.below(std::size(kReads))],
                    kReadErrors[random.below(std::size(kReadErrors))], kFakeNothing, 1);
    }
    if (random.one_in(10)) fake().advance_versions(6'000'000);
    if (random.one_in(10)) fake().release_late_commits();
  }

  RunLoop loop_;
};

TEST_P(FaultyVolume, HoldsWhatWasWritten) {
  fake().reset(GetParam());
  Random random(GetParam());
  const auto engine = open_engine();
  Store::Options options;
  options.key_prefix = "fdb-nbd/";
  options.volume_executors = {&loop_};
  options.seed = GetParam();
  auto store = run(open_store(*engine, loop_, options)).value();
  ASSERT_TRUE(run(store->create("disk", {.size_bytes = kVolumeBytes, .compression = Compression::none})));
  auto disk = run(store->open(loop_, "disk")).value();

  std::vector<std::byte> model(kVolumeBytes);
  for (int i = 0; i < 150; ++i) {
    draw_faults(random);
    const uint64_t length = 1 + random.below(random.one_in(5) ? 200'000 : 9'000);
    const uint64_t offset = random.below(kVolumeBytes - length);
    if (random.one_in(6)) {
      ASSERT_TRUE(run(disk->trim(offset, length, {})));
      std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(offset), length, std::byte{0});
    } else {
      const std::vector<std::byte> data(length, static_cast<std::byte>(1 + random.below(255)));
      ASSERT_TRUE(run(disk->write(offset, data, {})));
      std::copy(data.begin(), data.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
    }
  }
  fake().release_late_commits();
  std::vector<std::byte> read(kVolumeBytes);
  const auto segments = run(disk->read(0, read));
  ASSERT_TRUE(segments) << segments.error().what;
  uint64_t at = 0;
  for (const block::ReadSegment& segment : *segments) {
    if (segment.is_hole)
      std::fill_n(read.begin() + static_cast<std::ptrdiff_t>(at), segment.length_bytes, std::byte{0});
    at += segment.length_bytes;
  }
  EXPECT_TRUE(read == model);
  // Every range was cut to fit one reply.
  EXPECT_LE(fake().count(kv::fdb::kFakeLargestReplyBytes), static_cast<int64_t>(limits::kFdbRangeReplyBytes));
  disk.reset();
  loop_.run(store->close());
}

TEST_P(FaultyVolume, NoVerbFailsWhereAReadDoesForAMoment) {
  fake().reset(GetParam());
  const auto engine = open_engine();
  static constexpr int kErrors[] = {1007, 1009, 1037};
  const int error = kErrors[GetParam() % std::size(kErrors)];
  // The first reads of the verb fail.
  const auto expect_success = [&]<typename T>(Task<Result<T>> verb, const char* name) {
    fake().script(kFakeGet, error, kFakeNothing, 2);
    fake().script(kFakeRange, error, kFakeNothing, 2);
    auto result = run(std::move(verb));
    EXPECT_TRUE(result) << name << ": " << result.error().what;
    return result;
  };
  Store::Options options;
  options.key_prefix = "fdb-nbd/";
  options.volume_executors = {&loop_};
  options.seed = GetParam();
  auto opened = expect_success(open_store(*engine, loop_, options), "open_store");
  ASSERT_TRUE(opened);
  Store& store = **opened;
  expect_success(store.create("disk", {.size_bytes = kVolumeBytes}), "create");
  expect_success(store.list_volumes(), "list_volumes");
  expect_success(store.info("disk"), "info");
  expect_success(store.describe(loop_, "disk"), "describe");
  expect_success(store.list(loop_), "list");
  expect_success(store.resize("disk", kVolumeBytes / 2, true), "resize");
  auto disk = expect_success(store.open(loop_, "disk"), "open");
  ASSERT_TRUE(disk);
  expect_success((*disk)->write(0, std::vector<std::byte>(4096, std::byte{1}), {}), "write");
  expect_success(store.check(std::nullopt, nullptr), "check");
  expect_success(store.list_locks(), "list_locks");
  disk->reset();
  expect_success(store.rename("disk", "other"), "rename");
  expect_success(store.break_lock("other"), "break_lock");
  expect_success(store.remove("other", {.now = true}), "remove");
  loop_.run(store.close());
}

INSTANTIATE_TEST_SUITE_P(Seeds, FaultyVolume, testing::Range<uint64_t>(1, 6));

}  // namespace
}  // namespace fdbnbd::volume
