#include "kv/conformance_testing.h"

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "async/scope.h"
#include "base/limits.h"
#include "kv/mutations.h"

namespace fdbnbd::kv {

std::string conformance_subject_name(const testing::TestParamInfo<ConformanceSubject>& info) {
  return info.param.name;
}

namespace {

using namespace std::string_literals;
using Rows = std::vector<KeyValue>;

Task<void> put(Executor& executor, Engine& engine, std::string key, std::string value) {
  const auto transaction = engine.begin(executor);
  transaction->set(key, value);
  const auto committed = co_await transaction->commit();
  EXPECT_TRUE(committed) << committed.error().what;
}

Task<std::optional<std::string>> fetch(Executor& executor, Engine& engine, std::string key) {
  const auto transaction = engine.begin(executor);
  auto value = co_await transaction->get(key, Isolation::snapshot);
  EXPECT_TRUE(value) << value.error().what;
  if (!value) co_return std::nullopt;
  co_return std::move(*value);
}

Task<RangeResult> fetch_range(Executor& executor, Engine& engine, std::string begin, std::string end,
                              RangeOptions options) {
  const auto transaction = engine.begin(executor);
  auto rows = co_await transaction->get_range({begin, end}, options, Isolation::snapshot);
  EXPECT_TRUE(rows) << rows.error().what;
  if (!rows) co_return RangeResult{};
  co_return std::move(*rows);
}

// The whole range, however often it has to be continued.
Task<Rows> fetch_all(Executor& executor, Engine& engine, std::string begin, std::string end) {
  Rows all;
  while (true) {
    RangeResult part = co_await fetch_range(executor, engine, begin, end, {});
    all.insert(all.end(), part.rows.begin(), part.rows.end());
    if (!part.more) co_return all;
    EXPECT_FALSE(part.rows.empty());
    if (part.rows.empty()) co_return all;
    begin = key_after(all.back().key);
  }
}

Task<void> store_and_find(Executor& executor, Engine& engine) {
  const Rows rows = {{"A"s, ""s},
                     {"A\0"s, "nul"s},
                     {"A\xff"s, "high"s},
                     {std::string(limits::kMaxKeyBytes, 'K'), "long key"s},
                     {"D"s + std::string(16, '\0'), std::string(limits::kMaxValueBytes, 'v')},
                     {"D\xff\xff"s, std::string(4096, '\0')}};
  const auto transaction = engine.begin(executor);
  uint64_t bytes = 0;
  for (const KeyValue& row : rows) {
    transaction->set(row.key, row.value);
    bytes += row.key.size() + row.value.size();
  }
  EXPECT_EQ(transaction->mutation_bytes(), bytes);
  // The engine has its own copy, and the transaction does not see what it writes itself.
  const auto own = co_await transaction->get("A", Isolation::serializable);
  CO_REQUIRE(own);
  EXPECT_EQ(*own, std::nullopt);
  CO_REQUIRE(co_await transaction->commit());

  for (const KeyValue& row : rows) EXPECT_EQ(co_await fetch(executor, engine, row.key), row.value);
  EXPECT_EQ(co_await fetch(executor, engine, "absent"), std::nullopt);
  EXPECT_EQ(co_await fetch(executor, engine, "D"), std::nullopt);

  const auto clearing = engine.begin(executor);
  clearing->clear("A");
  clearing->clear("absent");
  CO_REQUIRE(co_await clearing->commit());
  EXPECT_EQ(co_await fetch(executor, engine, "A"), std::nullopt);
  EXPECT_EQ(co_await fetch(executor, engine, "A\0"s), "nul");
}

TEST_P(EngineConformance, FindsWhatWasCommittedAndNothingElse) {
  const auto engine = open();
  run(1, [&](Executor& executor) { return store_and_find(executor, *engine); });
}

Task<void> mutate_in_order(Executor& executor, Engine& engine) {
  for (const std::string tag : {"A", "D"}) {
    co_await put(executor, engine, tag + "old", "\x01"s);
    co_await put(executor, engine, tag + "kept", "kept");
    const auto transaction = engine.begin(executor);
    transaction->set(tag + "1", "x");
    transaction->clear(tag + "1");
    transaction->clear(tag + "2");
    transaction->set(tag + "2", "y");
    transaction->set(tag + "3", "gone");
    transaction->bit_or(tag + "old", "\x02"s);
    transaction->clear_range({tag + "3", tag + "9"});
    transaction->set(tag + "4", "\x0f"s);
    transaction->bit_and(tag + "4", "\x3c"s);
    transaction->bit_or(tag + "3", "\x40\x01"s);
    transaction->bit_or(tag + "old", "\x04"s);
    transaction->clear(tag + "kept");
    transaction->bit_or(tag + "kept", "new");
    CO_REQUIRE(co_await transaction->commit());
    const Rows expected = {{tag + "2", "y"},
                           {tag + "3", "\x40\x01"s},
                           {tag + "4", "\x0c"s},
                           {tag + "kept", "new"},
                           {tag + "old", "\x07"s}};
    EXPECT_EQ(co_await fetch_all(executor, engine, tag, tag + "\xff"), expected) << tag;
  }
}

TEST_P(EngineConformance, AppliesTheMutationsOfATransactionInOrder) {
  const auto engine = open();
  run(1, [&](Executor& executor) { return mutate_in_order(executor, *engine); });
}

Task<void> set_bit(Executor& executor, Engine& engine, size_t bit) {
  const auto transaction = engine.begin(executor);
  std::string operand(8, '\0');
  operand[bit / 8] = static_cast<char>(1 << bit % 8);
  transaction->disable_write_conflicts();
  transaction->bit_or("Bits", operand);
  EXPECT_TRUE(co_await transaction->commit());
}

Task<void> set_bits_at_once(Executor& executor, Engine& engine) {
  TaskScope scope;
  for (size_t bit = 0; bit < 64; ++bit) scope.spawn(set_bit(executor, engine, bit));
  co_await scope.join();
  EXPECT_EQ(co_await fetch(executor, engine, "Bits"), std::string(8, '\xff'));
  const auto transaction = engine.begin(executor);
  transaction->bit_and("Bits", "\xf0\x0f"s);
  EXPECT_TRUE(co_await transaction->commit());
  EXPECT_EQ(co_await fetch(executor, engine, "Bits"), "\xf0\x0f"s);
}

TEST_P(EngineConformance, LosesNoneOfManyBitOperationsOnOneKey) {
  const auto engine = open();
  run(1, [&](Executor& executor) { return set_bits_at_once(executor, *engine); });
}

Task<void> read_ranges(Executor& executor, Engine& engine) {
  Rows rows;
  for (const std::string tag : {"C", "D", "E"})
    for (int i = 100; i < 120; ++i) rows.push_back({tag + std::to_string(i), tag});
  const auto writing = engine.begin(executor);
  for (const KeyValue& row : rows) writing->set(row.key, row.value);
  CO_REQUIRE(co_await writing->commit());
  EXPECT_EQ(co_await fetch_all(executor, engine, "", "\xff"), rows);

  const struct {
    std::string begin;
    std::string end;
  } ranges[] = {{"", "\xff"}, {"C110", "E105"}, {"D", "E"},    {"D100", "D101"}, {"C119\0"s, "D"},
                {"E", "D"},   {"D105", "D105"}, {"E119", "Z"}, {"A", "B"}};
  for (const auto& range : ranges) {
    Rows inside;
    for (const KeyValue& row : rows)
      if (range.begin <= row.key && row.key < range.end) inside.push_back(row);
    for (const bool reverse : {false, true}) {
      for (const uint32_t limit : {1u, 3u, 20u, 59u, 60u, 61u}) {
        RangeResult got = co_await fetch_range(executor, engine, range.begin, range.end, {limit, reverse});
        Rows expected = inside;
        if (reverse) std::reverse(expected.begin(), expected.end());
        expected.resize(std::min<size_t>(expected.size(), limit));
        EXPECT_EQ(got.rows, expected) << range.begin << " to " << range.end << " limit " << limit;
        // An engine may say so where nothing is left, and must where something is.
        if (inside.size() > limit) EXPECT_TRUE(got.more);
        if (inside.size() < limit) EXPECT_FALSE(got.more);
      }
    }
  }
}

TEST_P(EngineConformance, ReadsRangesInBothDirectionsUpToALimit) {
  const auto engine = open();
  run(1, [&](Executor& executor) { return read_ranges(executor, *engine); });
}

Task<void> clear_ranges(Executor& executor, Engine& engine) {
  // Few rows and many, within one kind of rows and across.
  for (const int count : {3, 40, 900}) {
    Rows rows;
    for (const std::string tag : {"C", "D", "E"})
      for (int i = 1000; i < 1000 + count; ++i)
        rows.push_back({tag + std::to_string(i), std::string(300, 'v')});
    const std::vector<std::pair<std::string, std::string>> ranges = {
        {"D1001", "D1002"},
        {"C1001", "C" + std::to_string(1000 + count - 1)},
        {"D1002", "E1001"},
        {"X", "Y"}};
    for (const auto& [begin, end] : ranges) {
      const auto writing = engine.begin(executor);
      for (const KeyValue& row : rows) writing->set(row.key, row.value);
      CO_REQUIRE(co_await writing->commit());
      const auto clearing = engine.begin(executor);
      clearing->clear_range({begin, end});
      CO_REQUIRE(co_await clearing->commit());
      Rows expected;
      for (const KeyValue& row : rows)
        if (!(begin <= row.key && row.key < end)) expected.push_back(row);
      EXPECT_EQ(co_await fetch_all(executor, engine, "", "\xff"), expected) << count << " " << begin;
    }
    const auto clearing = engine.begin(executor);
    clearing->clear_range({"", "\xff"});
    CO_REQUIRE(co_await clearing->commit());
    EXPECT_EQ(co_await fetch_all(executor, engine, "", "\xff"), Rows());
  }
}

TEST_P(EngineConformance, ClearsRangesOfAnySizeExactly) {
  const auto engine = open();
  run(1, [&](Executor& executor) { return clear_ranges(executor, *engine); });
}

// What two transactions do at the same time, and whether the first must fail for it.
enum class Reading { get, range, declared, get_snapshot, range_snapshot, none };
enum class Writing { set, clear, clear_range, bit_or, bit_and };

Task<void> conflict_once(Executor& executor, Engine& engine, Reading reading, Writing writing, bool blind,
                         bool overlap, bool fixed_version) {
  co_await put(executor, engine, "k5", "\x01"s);
  const auto reader = engine.begin(executor);
  if (fixed_version) {
    const auto version = co_await engine.begin(executor)->read_version();
    CO_REQUIRE(version);
    reader->set_read_version(*version);
  } else {
    CO_REQUIRE(co_await reader->read_version());
  }
  switch (reading) {
    case Reading::get:
    case Reading::get_snapshot:
      EXPECT_TRUE(co_await reader->get(
          "k5", reading == Reading::get ? Isolation::serializable : Isolation::snapshot));
      break;
    case Reading::range:
    case Reading::range_snapshot:
      EXPECT_TRUE(co_await reader->get_range(
          {"k3", "k6"}, {}, reading == Reading::range ? Isolation::serializable : Isolation::snapshot));
      break;
    case Reading::declared:
      reader->add_read_conflict({"k5", "k6"});
      break;
    case Reading::none:
      break;
  }
  reader->set("other", "o");

  const auto writer = engine.begin(executor);
  if (blind) writer->disable_write_conflicts();
  const std::string key = overlap ? "k5" : "k7";
  switch (writing) {
    case Writing::set:
      writer->set(key, "new");
      break;
    case Writing::clear:
      writer->clear(key);
      break;
    case Writing::clear_range:
      writer->clear_range({key, key + "\xff"});
      break;
    case Writing::bit_or:
      writer->bit_or(key, "\x02");
      break;
    case Writing::bit_and:
      writer->bit_and(key, "\x02");
      break;
  }
  CO_REQUIRE(co_await writer->commit());

  const bool reads = reading == Reading::get || reading == Reading::range || reading == Reading::declared;
  const auto committed = co_await reader->commit();
  const bool expected_conflict = reads && overlap && !blind;
  EXPECT_EQ(committed.has_value(), !expected_conflict)
      << "reading " << int(reading) << " writing " << int(writing) << " blind " << blind << " overlap "
      << overlap;
  if (!committed) EXPECT_EQ(committed.error().code, Errc::conflict) << committed.error().what;
  EXPECT_EQ(co_await fetch(executor, engine, "other") == "o", committed.has_value());
  const auto clearing = engine.begin(executor);
  clearing->clear("other");
  CO_REQUIRE(co_await clearing->commit());
}

Task<void> conflict_in_all_ways(Executor& executor, Engine& engine) {
  for (const Reading reading : {Reading::get, Reading::range, Reading::declared, Reading::get_snapshot,
                                Reading::range_snapshot, Reading::none})
    for (const Writing writing :
         {Writing::set, Writing::clear, Writing::clear_range, Writing::bit_or, Writing::bit_and})
      for (const bool blind : {false, true})
        for (const bool overlap : {false, true})
          for (const bool fixed_version : {false, true})
            co_await conflict_once(executor, engine, reading, writing, blind, overlap, fixed_version);
}

TEST_P(EngineConformance, ConflictsExactlyWhereAReadKeyChanged) {
  const auto engine = open();
  run(1, [&](Executor& executor) { return conflict_in_all_ways(executor, *engine); });
}

Task<void> conflict_with_seen_rows(Executor& executor, Engine& engine) {
  for (const char c : "12345678"s) co_await put(executor, engine, "r"s + c, "v");
  const struct {
    bool reverse;
    const char* changed;
    bool conflicts;
  } cases[] = {{false, "r2", true},  {false, "r3", true}, {false, "r35", false}, {false, "r8", false},
               {false, "r15", true}, {true, "r8", true},  {true, "r6", true},    {true, "r55", false},
               {true, "r1", false},  {true, "r75", true}};
  for (const auto& c : cases) {
    const auto reader = engine.begin(executor);
    const auto rows = co_await reader->get_range({"r", "s"}, {.rows_limit = 3, .reverse = c.reverse},
                                                 Isolation::serializable);
    CO_REQUIRE(rows);
    EXPECT_TRUE(rows->more);
    co_await put(executor, engine, c.changed, "new");
    reader->set("x", "x");
    const auto committed = co_await reader->commit();
    EXPECT_EQ(committed.has_value(), !c.conflicts) << c.changed << (c.reverse ? " reverse" : "");
    const auto clearing = engine.begin(executor);
    if (std::string_view(c.changed).size() == 3) clearing->clear(c.changed);
    EXPECT_TRUE(co_await clearing->commit());
  }
}

TEST_P(EngineConformance, ARangeWithALimitConflictsOnlyWithWhatItSaw) {
  const auto engine = open();
  run(1, [&](Executor& executor) { return conflict_with_seen_rows(executor, *engine); });
}

Task<void> fence_writes(Executor& executor, Engine& engine) {
  co_await put(executor, engine, "F", "epoch 1");
  const auto fence = co_await engine.begin(executor)->read_version();
  CO_REQUIRE(fence);
  Version last = *fence;
  for (int i = 0; i < 20; ++i) {
    const auto data = engine.begin(executor);
    data->disable_write_conflicts();
    data->set_read_version(*fence);
    data->add_read_conflict({"F", "F\0"s});
    data->set("Dblock", std::to_string(i));
    const auto committed = co_await data->commit();
    CO_REQUIRE(committed);
    EXPECT_GT(*committed, last);
    last = *committed;
  }
  co_await put(executor, engine, "F", "epoch 2");
  const auto fenced = engine.begin(executor);
  fenced->disable_write_conflicts();
  fenced->set_read_version(*fence);
  fenced->add_read_conflict({"F", "F\0"s});
  fenced->set("Dblock", "too late");
  const auto refused = co_await fenced->commit();
  CO_REQUIRE(!refused);
  EXPECT_EQ(refused.error().code, Errc::conflict);
  EXPECT_EQ(co_await fetch(executor, engine, "Dblock"), "19");
}

TEST_P(EngineConformance, FencesBlindWritesByACachedReadVersion) {
  const auto engine = open();
  run(1, [&](Executor& executor) { return fence_writes(executor, *engine); });
}

Task<void> read_only_transactions(Executor& executor, Engine& engine) {
  co_await put(executor, engine, "k", "1");
  const auto reader = engine.begin(executor);
  EXPECT_EQ(*co_await reader->get("k", Isolation::serializable), "1");
  const auto version = co_await reader->read_version();
  co_await put(executor, engine, "k", "2");
  // All its reads are of one version, and that is the one it took effect at.
  EXPECT_EQ(*co_await reader->get("k", Isolation::serializable), "1");
  const auto rows = co_await reader->get_range({"k", "l"}, {}, Isolation::serializable);
  CO_REQUIRE(rows && rows->rows.size() == 1);
  EXPECT_EQ(rows->rows[0].value, "1");
  EXPECT_EQ(*co_await reader->read_version(), *version);
  EXPECT_TRUE(co_await reader->commit());
  const auto newer = co_await engine.begin(executor)->read_version();
  CO_REQUIRE(newer);
  EXPECT_GT(*newer, *version);
}

TEST_P(EngineConformance, ATransactionSeesOneVersionAndReadOnlyOnesSucceed) {
  const auto engine = open();
  run(1, [&](Executor& executor) { return read_only_transactions(executor, *engine); });
}

Task<void> sync_once(Executor& executor, Engine& engine) {
  EXPECT_TRUE(co_await engine.sync(executor));
}

Task<void> sync_among_commits(Executor& executor, Engine& engine) {
  EXPECT_TRUE(co_await engine.sync(executor));
  TaskScope scope;
  for (int i = 0; i < 50; ++i) {
    scope.spawn(put(executor, engine, "key" + std::to_string(i), "value"));
    scope.spawn(sync_once(executor, engine));
  }
  co_await scope.join();
  EXPECT_TRUE(co_await engine.sync(executor));
}

TEST_P(EngineConformance, SyncsAmongCommits) {
  const auto engine = open();
  run(1, [&](Executor& executor) { return sync_among_commits(executor, *engine); });
}

}  // namespace

}  // namespace fdbnbd::kv
