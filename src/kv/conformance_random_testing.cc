#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "async/run_loop.h"
#include "async/scope.h"
#include "async/semaphore.h"
#include "async/sim_loop.h"
#include "base/random.h"
#include "kv/conformance_testing.h"
#include "kv/mutations.h"

namespace fdbnbd::kv {

// A program that links this library for other things has no subjects.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(EngineConformance);

void EngineConformance::run(uint64_t seed, const std::function<Task<void>(Executor&)>& task) const {
  SCOPED_TRACE("seed " + std::to_string(seed));
  if (GetParam().simulated) {
    SimLoop loop(seed);
    loop.run(task(loop));
  } else {
    RunLoop loop;
    loop.run(task(loop));
  }
}

namespace {

constexpr uint64_t kThreads = 3;

Task<void> run_side_by_side(Executor& executor,
                            const std::function<Task<void>(Executor&, uint64_t number)>& task) {
  TaskScope scope;
  for (uint64_t number = 0; number < kThreads; ++number) scope.spawn(task(executor, number));
  co_await scope.join();
}

}  // namespace

void EngineConformance::run_on_threads(
    uint64_t seed, const std::function<Task<void>(Executor&, uint64_t number)>& task) const {
  if (GetParam().simulated || GetParam().commits_share_versions) {
    run(seed, [&](Executor& executor) { return run_side_by_side(executor, task); });
    return;
  }
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::vector<std::thread> threads;
  for (uint64_t number = 0; number < kThreads; ++number)
    threads.emplace_back([&task, number] {
      RunLoop loop;
      loop.run(task(loop, number));
    });
  for (std::thread& thread : threads) thread.join();
}

namespace {

using Model = std::map<std::string, std::string, std::less<>>;

struct ModelMutation {
  MutationKind kind;
  std::string key;
  std::string value;
};

struct Observation {
  std::string begin;
  std::string end;  // empty: a get of `begin`
  RangeOptions options;
  bool serializable;
  RangeResult result;
};

// A transaction that committed.
struct Committed {
  Version read_version = 0;
  Version version = 0;
  std::vector<Observation> observations;
  std::vector<ModelMutation> mutations;
};

struct History {
  std::mutex mutex;
  std::vector<Committed> committed;
  uint64_t conflicts_count = 0;
  // Set where commits must not share a version; then all is on one thread.
  Semaphore* commit_turns = nullptr;
};

void apply(Model& model, const ModelMutation& mutation) {
  const auto row = model.find(mutation.key);
  switch (mutation.kind) {
    case MutationKind::set:
      model[mutation.key] = mutation.value;
      break;
    case MutationKind::clear:
      model.erase(mutation.key);
      break;
    case MutationKind::clear_range:
      model.erase(model.lower_bound(mutation.key), model.lower_bound(mutation.value));
      break;
    case MutationKind::bit_or:
    case MutationKind::bit_and: {
      std::optional<std::string_view> old_value;
      if (row != model.end()) old_value = row->second;
      std::string value = apply_bits(mutation.kind, old_value, mutation.value);
      model[mutation.key] = std::move(value);
      break;
    }
  }
}

// What a model that is right would have answered.
std::vector<KeyValue> ask(const Model& model, const Observation& observation) {
  std::vector<KeyValue> rows;
  if (observation.end.empty()) {
    const auto row = model.find(observation.begin);
    if (row != model.end()) rows.push_back({row->first, row->second});
    return rows;
  }
  for (auto row = model.lower_bound(observation.begin); row != model.end() && row->first < observation.end;
       ++row)
    rows.push_back({row->first, row->second});
  if (observation.options.reverse) std::reverse(rows.begin(), rows.end());
  if (rows.size() > observation.options.rows_limit) rows.resize(observation.options.rows_limit);
  return rows;
}

// Keys of both kinds of rows. Those with 'B' are only written blindly and never read serializably: for them
// nothing is promised but the order of commits.
std::string random_key(Random& random, bool blind) {
  const char tag = blind ? 'B' : "ADZ"[random.below(3)];
  return std::string(1, tag) + static_cast<char>('0' + random.below(6));
}

std::string random_bits(Random& random) {
  std::string bits(1 + random.below(4), '\0');
  for (char& byte : bits) byte = static_cast<char>(random.next());
  return bits;
}

ModelMutation random_mutation(Random& random, bool blind) {
  ModelMutation mutation{static_cast<MutationKind>(random.below(5)), random_key(random, blind), {}};
  if (mutation.kind == MutationKind::clear_range) {
    mutation.value = random_key(random, blind);
    if (mutation.value < mutation.key) std::swap(mutation.key, mutation.value);
    // An empty range would be no change at all.
    if (mutation.value == mutation.key) mutation.value = key_after(mutation.key);
  } else if (mutation.kind != MutationKind::clear) {
    mutation.value = random_bits(random);
  }
  return mutation;
}

void add(Transaction& transaction, const ModelMutation& mutation) {
  switch (mutation.kind) {
    case MutationKind::set:
      return transaction.set(mutation.key, mutation.value);
    case MutationKind::clear:
      return transaction.clear(mutation.key);
    case MutationKind::clear_range:
      return transaction.clear_range({mutation.key, mutation.value});
    case MutationKind::bit_or:
      return transaction.bit_or(mutation.key, mutation.value);
    case MutationKind::bit_and:
      return transaction.bit_and(mutation.key, mutation.value);
  }
}

Task<void> observe(Random& random, Transaction& transaction, Committed& record) {
  Observation observation;
  observation.serializable = random.one_in(2);
  const bool blind = !observation.serializable && random.one_in(3);
  observation.begin = random_key(random, blind);
  const Isolation isolation = observation.serializable ? Isolation::serializable : Isolation::snapshot;
  if (random.one_in(2)) {
    auto value = co_await transaction.get(observation.begin, isolation);
    CO_REQUIRE(value);
    if (*value) observation.result.rows.push_back({observation.begin, **value});
  } else {
    // No range reaches over the rows that are written blindly.
    observation.end = observation.begin.substr(0, 1) + "9";
    observation.options = {.rows_limit = 1 + static_cast<uint32_t>(random.below(7)),
                           .reverse = random.one_in(2)};
    auto rows =
        co_await transaction.get_range({observation.begin, observation.end}, observation.options, isolation);
    CO_REQUIRE(rows);
    observation.result = std::move(*rows);
  }
  record.observations.push_back(std::move(observation));
}

Task<void> one_transaction(Executor& executor, Engine& engine, Random& random, History& history) {
  const auto transaction = engine.begin(executor);
  Committed record;
  if (random.one_in(2)) {
    auto version = co_await transaction->read_version();
    CO_REQUIRE(version);
  }
  for (uint64_t i = random.below(4); i > 0; --i) {
    co_await observe(random, *transaction, record);
    if (random.one_in(2)) co_await reschedule(executor);
  }
  const auto read_version = co_await transaction->read_version();
  CO_REQUIRE(read_version);
  record.read_version = *read_version;
  for (uint64_t i = random.below(4); i > 0; --i) record.mutations.push_back(random_mutation(random, false));
  for (const ModelMutation& mutation : record.mutations) add(*transaction, mutation);
  if (random.one_in(4)) {
    transaction->disable_write_conflicts();
    record.mutations.push_back(random_mutation(random, true));
    add(*transaction, record.mutations.back());
  }
  if (random.one_in(2)) co_await reschedule(executor);
  std::optional<Semaphore::Slot> turn;
  if (history.commit_turns != nullptr) {
    turn.emplace(*history.commit_turns);
    co_await turn->acquire();
  }
  const auto version = co_await transaction->commit();
  const std::lock_guard lock(history.mutex);
  if (version) {
    record.version = *version;
    history.committed.push_back(std::move(record));
  } else {
    EXPECT_EQ(version.error().code, Errc::conflict) << version.error().what;
    ++history.conflicts_count;
  }
}

Task<void> several_transactions(Executor& executor, Engine& engine, uint64_t seed, int count,
                                History& history) {
  Random random(seed);
  for (int i = 0; i < count; ++i) co_await one_transaction(executor, engine, random, history);
}

Task<void> concurrent_transactions(Executor& executor, Engine& engine, uint64_t seed, int count,
                                   History& history) {
  TaskScope scope;
  for (uint64_t worker = 0; worker < 4; ++worker)
    scope.spawn(several_transactions(executor, engine, seed * 100 + worker, count, history));
  co_await scope.join();
}

// Replays the commits in the order of their versions. Every read must fit the state of the transaction's read
// version, and the serializable ones of a transaction that changed something also the state right before it.
void check_history(History& history, Model& model) {
  std::sort(history.committed.begin(), history.committed.end(),
            [](const Committed& a, const Committed& b) { return a.version < b.version; });
  std::map<Version, Model> states{{0, {}}};
  for (const Committed& committed : history.committed) {
    if (committed.mutations.empty()) continue;
    ASSERT_FALSE(states.contains(committed.version)) << "two commits at version " << committed.version;
    ASSERT_LE(committed.read_version, committed.version);
    for (const Observation& observation : committed.observations)
      if (observation.serializable)
        ASSERT_EQ(observation.result.rows, ask(model, observation))
            << "not serializable: read at " << committed.read_version << ", committed at "
            << committed.version;
    for (const ModelMutation& mutation : committed.mutations) apply(model, mutation);
    states.emplace(committed.version, model);
  }
  for (const Committed& committed : history.committed) {
    const Model& state = std::prev(states.upper_bound(committed.read_version))->second;
    for (const Observation& observation : committed.observations)
      ASSERT_EQ(observation.result.rows, ask(state, observation))
          << "not the state of read version " << committed.read_version;
  }
}

Task<void> compare(Executor& executor, Engine& engine, const Model& model) {
  const auto transaction = engine.begin(executor);
  const auto rows = co_await transaction->get_range({"", "\xff"}, {}, Isolation::snapshot);
  CO_REQUIRE(rows);
  std::vector<KeyValue> expected;
  for (const auto& [key, value] : model) expected.push_back({key, value});
  EXPECT_EQ(rows->rows, expected);
}

TEST_P(EngineConformance, RandomTransactionsAreSerializable) {
  const uint64_t rounds = GetParam().simulated ? 150 : 2;
  const int count = GetParam().simulated ? 12 : 200;
  uint64_t conflicts_count = 0;
  uint64_t committed_count = 0;
  for (uint64_t seed = 1; seed <= rounds && !HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const auto engine = open(seed);
    Semaphore commit_turns(1);
    History history;
    if (GetParam().commits_share_versions) history.commit_turns = &commit_turns;
    run_on_threads(seed, [&](Executor& executor, uint64_t number) {
      return concurrent_transactions(executor, *engine, seed * 10 + number, count, history);
    });
    Model model;
    check_history(history, model);
    run(seed, [&](Executor& executor) { return compare(executor, *engine, model); });
    conflicts_count += history.conflicts_count;
    committed_count += history.committed.size();
  }
  // Else the test would show nothing.
  EXPECT_GT(conflicts_count, committed_count / 100);
  EXPECT_GT(committed_count, conflicts_count);
}

// Collects what a bulk read delivers.
class Collector final : public RowSink {
 public:
  explicit Collector(const BulkRead& request)
      : points(request.points.size()), ranges(request.ranges.size()) {}
  void on_range_row(size_t range_index, std::string_view key, std::string_view value) override {
    ranges.at(range_index).push_back({std::string(key), std::string(value)});
  }
  void on_point_row(size_t point_index, std::string_view value) override {
    EXPECT_FALSE(points.at(point_index)) << "delivered twice";
    points.at(point_index) = value;
  }
  void on_unreadable_range_row(size_t, std::string_view key) override {
    ADD_FAILURE() << "unreadable: " << key;
  }
  void on_unreadable_point(size_t) override { ADD_FAILURE() << "unreadable"; }

  std::vector<std::optional<std::string>> points;
  std::vector<std::vector<KeyValue>> ranges;
};

std::string numbered_key(char tag, uint64_t number) {
  std::string digits = std::to_string(number);
  return std::string(1, tag) + std::string(6 - digits.size(), '0') + digits;
}

Task<void> read_in_bulk(Executor& executor, Engine& engine, uint64_t seed) {
  Random random(seed);
  Model model;
  for (int round = 0; round < 6; ++round) {
    // What is there: every third row or so, small and large, and some of it cleared again.
    const auto writing = engine.begin(executor);
    for (int i = 0; i < 400; ++i) {
      const std::string key = numbered_key("CD"[random.below(2)], random.below(1500));
      if (random.one_in(5)) {
        writing->clear(key);
        model.erase(key);
      } else {
        const std::string value(random.one_in(2) ? 20 : 1000, static_cast<char>('a' + random.below(26)));
        writing->set(key, value);
        model[key] = value;
      }
    }
    CO_REQUIRE(co_await writing->commit());

    std::vector<std::string> keys;
    std::vector<std::pair<std::string, std::string>> bounds;
    for (int i = 0; i < 150; ++i) keys.push_back(numbered_key("CD"[random.below(2)], random.below(1500)));
    if (random.one_in(2)) std::sort(keys.begin(), keys.end());
    for (int i = 0; i < 5; ++i)
      bounds.emplace_back(numbered_key("CD"[random.below(2)], random.below(1500)),
                          numbered_key("CD"[random.below(2)], random.below(1500)));
    bounds.emplace_back("", "\xff");
    BulkRead request;
    request.background = random.one_in(2);
    request.points.assign(keys.begin(), keys.end());
    for (const auto& [begin, end] : bounds) request.ranges.push_back({begin, end});

    Collector collector(request);
    CO_REQUIRE(co_await engine.read(executor, request, collector));
    for (size_t i = 0; i < keys.size(); ++i) {
      const auto row = model.find(keys[i]);
      EXPECT_EQ(collector.points[i], row == model.end() ? std::nullopt : std::optional(row->second))
          << keys[i];
    }
    for (size_t i = 0; i < bounds.size(); ++i) {
      Observation whole{bounds[i].first, bounds[i].second, {.rows_limit = UINT32_MAX}, false, {}};
      if (whole.end < whole.begin) whole.end = whole.begin;
      EXPECT_EQ(collector.ranges[i], ask(model, whole)) << bounds[i].first << " to " << bounds[i].second;
    }
  }
}

TEST_P(EngineConformance, BulkReadsDeliverEveryRowOnceAndSkipHoles) {
  const auto engine = open();
  run(1, [&](Executor& executor) { return read_in_bulk(executor, *engine, 1); });
}

Task<void> write_then_read(Executor& executor, Engine& engine, uint64_t number) {
  const std::string key = "D" + std::to_string(number);
  for (int i = 0; i < 200; ++i) {
    const std::string value = std::to_string(i);
    const auto transaction = engine.begin(executor);
    transaction->disable_write_conflicts();
    transaction->set(key, value);
    CO_REQUIRE(co_await transaction->commit());
    BulkRead request;
    request.points.emplace_back(key);
    const std::string end = key_after(key);
    request.ranges.push_back({key, end});
    Collector collector(request);
    CO_REQUIRE(co_await engine.read(executor, request, collector));
    EXPECT_EQ(collector.points[0], value);
    CO_REQUIRE(collector.ranges[0].size() == 1);
    EXPECT_EQ(collector.ranges[0][0].value, value);
    if (i % 16 == 0) EXPECT_TRUE(co_await engine.sync(executor));
  }
}

TEST_P(EngineConformance, BulkReadsSeeEveryCommitThatSucceededBefore) {
  const auto engine = open();
  run_on_threads(
      1, [&](Executor& executor, uint64_t number) { return write_then_read(executor, *engine, number); });
}

}  // namespace

}  // namespace fdbnbd::kv
