#include "kv/memory/memory_engine.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <utility>

#include "async/scope.h"
#include "async/sim_loop.h"
#include "kv/conformance_testing.h"

namespace fdbnbd::kv {
namespace {

using namespace std::string_literals;
using std::chrono::milliseconds;

std::unique_ptr<MemoryEngine> open_or_fail(MemoryOptions options = {}) {
  auto engine = open_memory_engine(std::move(options));
  EXPECT_TRUE(engine) << engine.error().what;
  return std::move(*engine);
}

ConformanceSubject subject(std::string name, bool always_suspend, bool simulated) {
  return {std::move(name),
          [=](uint64_t seed) { return open_or_fail({.always_suspend = always_suspend, .seed = seed}); },
          simulated};
}

INSTANTIATE_TEST_SUITE_P(Memory, EngineConformance,
                         testing::Values(subject("Simulated", true, true), subject("Threaded", true, false),
                                         subject("Immediate", false, false)),
                         conformance_subject_name);

Task<Result<Version>> put(Executor& executor, Engine& engine, std::string key, std::string value) {
  const auto transaction = engine.begin(executor);
  transaction->set(key, value);
  co_return co_await transaction->commit();
}

Task<std::string> fetch(Executor& executor, Engine& engine, std::string key) {
  const auto transaction = engine.begin(executor);
  const auto value = co_await transaction->get(key, Isolation::snapshot);
  if (!value) co_return std::string(errc_name(value.error().code));
  co_return value->value_or("absent");
}

Errc code_of(const Result<Version>& result) {
  EXPECT_FALSE(result);
  return result ? Errc::io : result.error().code;
}

TEST(MemoryFaults, CommitsFailAsPlannedAndHappenOrNot) {
  SimLoop loop(1);
  const auto engine = open_or_fail();
  const struct {
    CommitFault fault;
    Errc code;
    const char* value;
  } cases[] = {
      {CommitFault::conflict, Errc::conflict, "before"},
      {CommitFault::unavailable, Errc::unavailable, "before"},
      {CommitFault::no_space, Errc::no_space, "before"},
      {CommitFault::io, Errc::io, "before"},
      {CommitFault::unknown_applied, Errc::unknown_result, "after"},
      {CommitFault::unknown_not_applied, Errc::unknown_result, "before"},
      {CommitFault::unknown_applied_late, Errc::unknown_result, "before"},
  };
  for (const auto& c : cases) {
    ASSERT_TRUE(loop.run(put(loop, *engine, "key", "before")));
    engine->faults().fail_next_commits(c.fault);
    EXPECT_EQ(code_of(loop.run(put(loop, *engine, "key", "after"))), c.code);
    EXPECT_EQ(loop.run(fetch(loop, *engine, "key")), c.value);
  }
  engine->faults().release_late_commits();
  EXPECT_EQ(loop.run(fetch(loop, *engine, "key")), "after");
}

TEST(MemoryFaults, ALateCommitHappensBehindAFewOthersAndOnlyOnce) {
  SimLoop loop(1);
  const auto engine = open_or_fail();
  engine->faults().fail_next_commits(CommitFault::unknown_applied_late);
  EXPECT_EQ(code_of(loop.run(put(loop, *engine, "key", "late"))), Errc::unknown_result);
  int others_count = 0;
  while (loop.run(fetch(loop, *engine, "key")) == "absent") {
    ASSERT_TRUE(loop.run(put(loop, *engine, "other", "x")));
    ASSERT_LT(++others_count, 20);
  }
  EXPECT_GT(others_count, 0);
  ASSERT_TRUE(loop.run(put(loop, *engine, "key", "newer")));
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(loop.run(put(loop, *engine, "other", "x")));
  EXPECT_EQ(loop.run(fetch(loop, *engine, "key")), "newer");
}

Task<Result<Version>> fenced_put(Executor& executor, Engine& engine, std::string value) {
  const auto transaction = engine.begin(executor);
  const auto version = co_await transaction->read_version();
  EXPECT_TRUE(version);
  transaction->disable_write_conflicts();
  transaction->add_read_conflict({"F", "F\0"s});
  transaction->set("key", value);
  co_return co_await transaction->commit();
}

TEST(MemoryFaults, ABarrierDecidesALateCommit) {
  SimLoop loop(1);
  const auto engine = open_or_fail();
  engine->faults().fail_next_commits(CommitFault::unknown_applied_late);
  EXPECT_EQ(code_of(loop.run(fenced_put(loop, *engine, "late"))), Errc::unknown_result);
  ASSERT_TRUE(loop.run(put(loop, *engine, "F", "barrier")));
  ASSERT_TRUE(loop.run(fenced_put(loop, *engine, "newer")));
  engine->faults().release_late_commits();
  EXPECT_EQ(loop.run(fetch(loop, *engine, "key")), "newer");
}

TEST(MemoryFaults, RandomFaultsComeAtAboutTheirRateAndBySeed) {
  std::set<std::string> runs;
  for (int repeat = 0; repeat < 2; ++repeat) {
    SimLoop loop(1);
    const auto engine = open_or_fail({.seed = 7});
    engine->faults().fail_commits_randomly(CommitFault::unavailable, 250'000);
    std::string run;
    for (int i = 0; i < 400; ++i) run += loop.run(put(loop, *engine, "key", "v")) ? '.' : 'x';
    EXPECT_NEAR(static_cast<double>(std::count(run.begin(), run.end(), 'x')), 100, 40);
    runs.insert(run);
  }
  EXPECT_EQ(runs.size(), 1u);
}

TEST(MemoryFaults, AFullStoreStillClearsAndReads) {
  SimLoop loop(1);
  const auto engine = open_or_fail();
  ASSERT_TRUE(loop.run(put(loop, *engine, "key", "value")));
  engine->faults().set_full(true);
  EXPECT_EQ(code_of(loop.run(put(loop, *engine, "key", "new"))), Errc::no_space);
  EXPECT_EQ(loop.run(fetch(loop, *engine, "key")), "value");
  const auto clearing = engine->begin(loop);
  clearing->clear("key");
  EXPECT_TRUE(loop.run(clearing->commit()));
  engine->faults().set_full(false);
  EXPECT_TRUE(loop.run(put(loop, *engine, "key", "new")));
}

TEST(MemoryEngine, RefusesToGrowBeyondItsCapacity) {
  SimLoop loop(1);
  const auto engine = open_or_fail({.capacity_bytes = 10'000});
  const std::string value(990, 'v');
  for (int i = 0; i < 9; ++i) ASSERT_TRUE(loop.run(put(loop, *engine, "k" + std::to_string(i), value)));
  EXPECT_EQ(engine->stats().stored_bytes, 9u * 992);
  ASSERT_TRUE(loop.run(put(loop, *engine, "k9", value)));
  EXPECT_EQ(code_of(loop.run(put(loop, *engine, "more", value))), Errc::no_space);
  const auto clearing = engine->begin(loop);
  clearing->clear_range({"k3", "k5"});
  EXPECT_TRUE(loop.run(clearing->commit()));
  EXPECT_TRUE(loop.run(put(loop, *engine, "more", value)));
}

TEST(MemoryFaults, AfterAFailedSyncNothingIsWrittenAnyMore) {
  SimLoop loop(1);
  const auto engine = open_or_fail();
  ASSERT_TRUE(loop.run(put(loop, *engine, "key", "value")));
  engine->faults().fail_next_sync();
  const auto synced = loop.run(engine->sync(loop));
  ASSERT_FALSE(synced);
  EXPECT_EQ(synced.error().code, Errc::io);
  EXPECT_FALSE(loop.run(engine->sync(loop)));
  EXPECT_EQ(code_of(loop.run(put(loop, *engine, "key", "new"))), Errc::io);
  EXPECT_EQ(loop.run(fetch(loop, *engine, "key")), "value");
}

class CountingSink final : public RowSink {
 public:
  void on_range_row(size_t, std::string_view key, std::string_view) override {
    seen += std::string(key) + " ";
  }
  void on_point_row(size_t, std::string_view value) override { seen += std::string(value) + " "; }
  void on_unreadable_range_row(size_t, std::string_view key) override {
    seen += "!" + std::string(key) + " ";
  }
  void on_unreadable_point(size_t index) override { seen += "!" + std::to_string(index) + " "; }
  std::string seen;
};

TEST(MemoryFaults, AnUnreadableRowHidesNoOther) {
  SimLoop loop(1);
  const auto engine = open_or_fail();
  for (const char* key : {"a", "b", "c"})
    ASSERT_TRUE(loop.run(put(loop, *engine, key, "=" + std::string(key))));
  engine->faults().set_unreadable("b", true);
  EXPECT_EQ(loop.run(fetch(loop, *engine, "b")), "corruption");
  BulkRead request;
  request.points = {"a", "b", "c"};
  request.ranges = {{"a", "z"}};
  CountingSink sink;
  ASSERT_TRUE(loop.run(engine->read(loop, request, sink)));
  EXPECT_EQ(sink.seen, "=a !1 =c a !b c ");
  engine->faults().set_unreadable("b", false);
  EXPECT_EQ(loop.run(fetch(loop, *engine, "b")), "=b");
}

TEST(MemoryFaults, AnUnavailableStoreRecovers) {
  SimLoop loop(1);
  const auto engine = open_or_fail();
  engine->faults().set_unavailable(true);
  EXPECT_EQ(code_of(loop.run(put(loop, *engine, "key", "v"))), Errc::unavailable);
  EXPECT_EQ(loop.run(fetch(loop, *engine, "key")), "unavailable");
  engine->faults().set_unavailable(false);
  EXPECT_EQ(loop.run(fetch(loop, *engine, "key")), "absent");
}

TEST(MemoryFaults, LatencyIsTheExecutorsTime) {
  SimLoop loop(1);
  const auto engine = open_or_fail();
  engine->faults().set_latency(milliseconds(10), milliseconds(20));
  const MonotonicTime start = static_cast<Executor&>(loop).clock().now();
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(loop.run(put(loop, *engine, "key", "v")));
  const Duration took = static_cast<Executor&>(loop).clock().now() - start;
  EXPECT_GE(took, milliseconds(100));
  EXPECT_LE(took, milliseconds(200));
}

Task<void> read_at(Executor& executor, Engine& engine, Version version, std::string expected) {
  const auto transaction = engine.begin(executor);
  transaction->set_read_version(version);
  const auto value = co_await transaction->get("key", Isolation::serializable);
  EXPECT_EQ(value ? value->value_or("absent") : std::string(errc_name(value.error().code)), expected);
  transaction->set("other", "x");
  const auto committed = co_await transaction->commit();
  if (expected == "unavailable") {
    EXPECT_EQ(code_of(committed), Errc::unavailable);
  }
}

TEST(MemoryEngine, ReadsOldVersionsWithinItsWindow) {
  SimLoop loop(1);
  const auto engine = open_or_fail({.read_window_versions = 400});
  std::vector<Version> versions;
  for (int i = 0; i < 100; ++i) versions.push_back(*loop.run(put(loop, *engine, "key", std::to_string(i))));
  for (size_t i = 0; i < versions.size(); ++i) {
    const Version newest = *loop.run(engine->begin(loop)->read_version());
    const std::string expected = newest - versions[i] > 400 ? "unavailable" : std::to_string(i);
    loop.run(read_at(loop, *engine, versions[i], expected));
  }
  loop.run(read_at(loop, *engine, *loop.run(engine->begin(loop)->read_version()) + 1000, "unavailable"));
}

TEST(MemoryEngine, ForgetsOldVersionsWhenTheyTakeTooMuchMemory) {
  SimLoop loop(1);
  const auto engine = open_or_fail({.history_bytes = 10'000});
  std::vector<Version> versions;
  for (int i = 0; i < 100; ++i)
    versions.push_back(*loop.run(put(loop, *engine, "key", std::string(1000, 'v'))));
  loop.run(read_at(loop, *engine, versions[80], "unavailable"));
  loop.run(read_at(loop, *engine, versions[95], std::string(1000, 'v')));
}

TEST(MemoryEngine, OneEngineHoldsADiskUnlessItIsShared) {
  const auto disk = make_memory_disk();
  {
    const auto engine = open_or_fail({.disk = disk});
    const auto second = open_memory_engine({.disk = disk});
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, Errc::busy);
  }
  SimLoop loop(1);
  const auto a = open_or_fail({.disk = disk, .capabilities = {.shared_between_hosts = true}});
  const auto b = open_or_fail({.disk = disk, .capabilities = {.shared_between_hosts = true}});
  ASSERT_TRUE(loop.run(put(loop, *a, "key", "from a")));
  EXPECT_EQ(loop.run(fetch(loop, *b, "key")), "from a");
}

TEST(MemoryCrash, ProcessDeathKeepsEveryCommit) {
  SimLoop loop(1);
  const auto disk = make_memory_disk();
  auto engine = open_or_fail({.disk = disk});
  ASSERT_TRUE(loop.run(put(loop, *engine, "key", "value")));
  engine->crash({});
  EXPECT_EQ(code_of(loop.run(put(loop, *engine, "key", "dead"))), Errc::io);
  EXPECT_EQ(loop.run(fetch(loop, *engine, "key")), "io");
  EXPECT_FALSE(loop.run(engine->sync(loop)));
  const auto reopened = open_or_fail({.disk = disk});
  EXPECT_EQ(loop.run(fetch(loop, *reopened, "key")), "value");
}

TEST(MemoryCrash, PowerLossKeepsAPrefixNoShorterThanTheLastSync) {
  std::set<std::string> outcomes;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SimLoop loop(seed);
    const auto disk = make_memory_disk();
    auto engine = open_or_fail({.disk = disk, .seed = seed, .can_lose_power = true});
    ASSERT_TRUE(loop.run(put(loop, *engine, "a", "1")));
    ASSERT_TRUE(loop.run(put(loop, *engine, "gone", "1")));
    ASSERT_TRUE(loop.run(engine->sync(loop)));
    EXPECT_EQ(engine->unsynced_commits_count(), 0u);
    ASSERT_TRUE(loop.run(put(loop, *engine, "a", "2")));
    const auto clearing = engine->begin(loop);
    clearing->clear("gone");
    clearing->set("b", "3");
    clearing->set("a", "3");
    ASSERT_TRUE(loop.run(clearing->commit()));
    ASSERT_TRUE(loop.run(put(loop, *engine, "a", "4")));
    EXPECT_EQ(engine->unsynced_commits_count(), 3u);
    engine->crash({.power_loss = true});
    const auto reopened = open_or_fail({.disk = disk});
    outcomes.insert(loop.run(fetch(loop, *reopened, "a")) + " " + loop.run(fetch(loop, *reopened, "b")) +
                    " " + loop.run(fetch(loop, *reopened, "gone")));
    ASSERT_TRUE(loop.run(put(loop, *reopened, "a", "after")));
    EXPECT_EQ(loop.run(fetch(loop, *reopened, "a")), "after");
  }
  EXPECT_EQ(outcomes, (std::set<std::string>{"1 absent 1", "2 absent 1", "3 3 absent", "4 3 absent"}));
}

Task<void> commit_into_the_crash(Executor& executor, MemoryEngine& engine, std::string& outcome) {
  const auto committed = co_await put(executor, engine, "key", "value");
  outcome = committed ? "committed" : errc_name(committed.error().code);
}

Task<void> crash_meanwhile(SimLoop& loop, MemoryEngine& engine, std::string& outcome) {
  TaskScope scope;
  scope.spawn(commit_into_the_crash(loop, engine, outcome));
  for (uint64_t i = loop.random().below(4); i > 0; --i) co_await reschedule(loop);
  engine.crash({});
  co_await scope.join();
}

TEST(MemoryCrash, ACommitThatWaitsFailsAndSaysWhetherItMayHaveHappened) {
  std::set<std::string> outcomes;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SimLoop loop(seed);
    const auto disk = make_memory_disk();
    auto engine = open_or_fail({.disk = disk});
    std::string outcome;
    loop.run(crash_meanwhile(loop, *engine, outcome));
    const auto reopened = open_or_fail({.disk = disk});
    const std::string found = loop.run(fetch(loop, *reopened, "key"));
    EXPECT_EQ(found, outcome == "io" ? "absent" : "value") << outcome;
    outcomes.insert(outcome);
  }
  EXPECT_EQ(outcomes, (std::set<std::string>{"committed", "io", "unknown_result"}));
}

}  // namespace
}  // namespace fdbnbd::kv
