#include "volume/record_reader.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "async/sim_loop.h"
#include "kv/memory/memory_engine.h"

namespace fdbnbd::volume {
namespace {

constexpr int kVolumesCount = 1000;

// A store with the names of many volumes, each with a value of its own.
class RecordReaderTest : public testing::Test {
 protected:
  RecordReaderTest()
      : engine_(kv::open_memory_engine({.capabilities = {.shared_between_hosts = true}}).value()),
        reader_(*engine_, loop_, keys_, 1) {
    const auto transaction = engine_->begin(loop_);
    for (int i = 0; i < kVolumesCount; ++i) transaction->set(key(i), fmt::format("value {}", i));
    EXPECT_TRUE(loop_.run(transaction->commit()));
  }

  std::string key(int index) const { return keys_.name(fmt::format("v{:04}", index)); }

  // Every `step`-th from the first on, not in order, and some that are not there.
  std::vector<std::string> wanted(int count, int step) const {
    std::vector<std::string> keys;
    for (int i = 0; i < count; ++i) keys.push_back(key((count - 1 - i) * step));
    keys.push_back(keys_.name("nothing"));
    keys.push_back(keys_.name("v0005x"));
    keys.push_back(keys_.name("zero"));
    return keys;
  }

  kv::Version changed(const std::string& key) {
    const auto transaction = engine_->begin(loop_);
    transaction->set(key, "changed");
    return loop_.run(transaction->commit()).value();
  }

  // Whether a transaction that read rows commits when `changed_key` has changed since.
  bool commits_beside(const std::vector<std::string>& keys, const std::string& changed_key,
                      RowConflicts conflicts) {
    const auto transaction = engine_->begin(loop_);
    EXPECT_TRUE(loop_.run(reader_.read_rows(*transaction, keys, conflicts)));
    changed(changed_key);
    transaction->set(keys_.name("another"), "");
    return loop_.run(transaction->commit()).has_value();
  }

  SimLoop loop_{1};
  KeySpace keys_{""};
  std::unique_ptr<kv::MemoryEngine> engine_;
  RecordReader reader_;
};

TEST_F(RecordReaderTest, RowsAreWhatPointsAre) {
  // Few; many that lie close to each other; many of which a range of a few times as many rows reaches a part.
  for (const auto& [count, step] : {std::pair{3, 1}, {40, 1}, {40, 3}, {40, 25}, {200, 5}}) {
    SCOPED_TRACE(fmt::format("{} of one in {}", count, step));
    const std::vector<std::string> keys = wanted(count, step);
    const auto transaction = engine_->begin(loop_);
    const auto rows = loop_.run(reader_.read_rows(*transaction, keys));
    const auto points = loop_.run(reader_.read_points(*transaction, keys));
    ASSERT_TRUE(rows && points);
    EXPECT_EQ(*rows, *points);
    EXPECT_EQ((*rows)[0], fmt::format("value {}", (count - 1) * step));
    EXPECT_EQ(rows->back(), std::nullopt);
  }
}

TEST_F(RecordReaderTest, WhatWasReadInARangeConflictsAsIfReadAlone) {
  const std::vector<std::string> keys = wanted(40, 25);
  for (const RowConflicts conflicts : {RowConflicts::of_each, RowConflicts::of_runs}) {
    for (const std::string& key : keys) {
      SCOPED_TRACE(key);
      EXPECT_FALSE(commits_beside(keys, key, conflicts));
    }
    EXPECT_TRUE(commits_beside(keys, key(1), conflicts));    // between two that were read
    EXPECT_TRUE(commits_beside(keys, key(974), conflicts));  // the same behind the range
  }
}

TEST_F(RecordReaderTest, ARunOfNeighboursAlsoConflictsWithWhatComesBetween) {
  const std::vector<std::string> keys = wanted(40, 1);
  for (const std::string& key : keys) EXPECT_FALSE(commits_beside(keys, key, RowConflicts::of_runs)) << key;
  EXPECT_TRUE(commits_beside(keys, key(3) + "new", RowConflicts::of_each));
  EXPECT_FALSE(commits_beside(keys, key(7) + "new", RowConflicts::of_runs));
}

}  // namespace
}  // namespace fdbnbd::volume
