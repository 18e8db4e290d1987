#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>

#include "async/sim_loop.h"
#include "kv/memory/memory_engine.h"
#include "volume/interposed_engine_testing.h"
#include "volume/keys.h"
#include "volume/store.h"

// The trash, labels and quotas, as the store's users see them.

namespace fdbnbd::volume {
namespace {

constexpr uint32_t kBlock = 4096;

class KeepTest : public testing::Test {
 protected:
  KeepTest() { open(); }
  ~KeepTest() override {
    if (store_) run(store_->close());
  }

  void open() {
    kv::MemoryOptions options;
    options.disk = disk_;
    options.capabilities = {.commits_in_flight = 4, .commits_can_be_in_doubt = false};
    engine_ = kv::open_memory_engine(options).value();
    Store::Options store_options;
    store_options.volume_executors = {&loop_};
    store_options.trash_retention = retention_;
    store_ = run(open_store(*engine_, loop_, store_options)).value();
  }
  void reopen() {
    run(store_->close());
    store_.reset();
    engine_.reset();
    open();
  }

  template <typename T>
  T run(Task<T> task) {
    return loop_.run(std::move(task));
  }
  void run(Task<void> task) { loop_.run(std::move(task)); }
  static Task<void> wait_in(Executor& executor, Duration duration) { co_await sleep_for(executor, duration); }
  void pass(Duration duration) { run(wait_in(loop_, duration)); }

  void create(const std::string& name, uint64_t quota_bytes = 0) {
    ASSERT_TRUE(run(store_->create(name, {.size_bytes = 16 << 20,
                                          .block_bytes = kBlock,
                                          .compression = Compression::none,
                                          .quota_bytes = quota_bytes})));
  }
  std::shared_ptr<block::Export> open_disk(const std::string& name) {
    return run(store_->open(loop_, name)).value();
  }
  Result<void> write(block::Export& disk, uint64_t block, uint8_t fill, uint64_t blocks_count = 1) {
    return run(
        disk.write(block * kBlock, std::vector<std::byte>(blocks_count * kBlock, std::byte{fill}), {}));
  }
  void fill(const std::string& name, uint8_t value) {
    const auto disk = open_disk(name);
    ASSERT_TRUE(write(*disk, 0, value, 8));
  }
  uint8_t content(const std::string& name) {
    const auto disk = open_disk(name);
    std::vector<std::byte> bytes(kBlock);
    EXPECT_TRUE(run(disk->read(0, bytes)));
    return static_cast<uint8_t>(bytes.front());
  }
  // Sessions end on the loop.
  void let_go() { pass(Duration(1)); }
  Result<std::optional<TrashEntry>> remove(const std::string& name, RemoveOptions options = {}) {
    let_go();
    return run(store_->remove(name, options));
  }
  std::vector<std::string> names() {
    std::vector<std::string> names;
    const auto volumes = run(store_->list_volumes()).value();
    for (const auto& volume : volumes) names.push_back(volume.name);
    return names;
  }
  std::vector<TrashEntry> trash() { return run(store_->list_trash()).value(); }
  size_t rows_count() {
    auto transaction = engine_->begin(loop_);
    return run(transaction->get_range({"A", "Z"}, {.rows_limit = 100'000}, kv::Isolation::snapshot))
        .value()
        .rows.size();
  }
  size_t trash_rows_count() {
    auto transaction = engine_->begin(loop_);
    return run(transaction->get_range({"X", "Y"}, {}, kv::Isolation::snapshot)).value().rows.size();
  }
  void expect_clean() {
    const auto report = run(store_->check(std::nullopt, nullptr)).value();
    EXPECT_EQ(report.findings_count, 0U)
        << report.findings.front().volume << ": " << report.findings.front().what;
  }

  SimLoop loop_{1};
  Duration retention_ = std::chrono::hours(24);
  std::shared_ptr<kv::MemoryDisk> disk_ = kv::make_memory_disk();
  std::unique_ptr<kv::MemoryEngine> engine_;
  std::unique_ptr<Store> store_;
};

using TrashTest = KeepTest;
using LabelTest = KeepTest;
using QuotaTest = KeepTest;

TEST_F(TrashTest, ARemovedVolumeIsGoneByNameAndComesBackAsItWas) {
  create("disk");
  fill("disk", 7);
  ASSERT_TRUE(run(store_->snapshot({"disk@monday"}, {})));
  EXPECT_EQ(remove("disk").error().code, Errc::busy) << "it has a snapshot";
  const auto removed = remove("disk", {.with_snapshots = true}).value();
  ASSERT_TRUE(removed);
  EXPECT_EQ(removed->name, "disk");
  EXPECT_EQ(removed->expires - removed->trashed, std::chrono::hours(24));
  EXPECT_EQ(names(), std::vector<std::string>());
  EXPECT_EQ(run(store_->open(loop_, "disk")).error().code, Errc::not_found);
  EXPECT_EQ(run(store_->info("disk@monday")).error().code, Errc::not_found);
  EXPECT_EQ(run(store_->list(loop_)).value().size(), 0U);
  ASSERT_EQ(trash().size(), 1U);
  EXPECT_EQ(trash().front().used_bytes, 8U * kBlock);
  EXPECT_EQ(trash().front().snapshots_count, 1U);
  expect_clean();
  reopen();
  const auto restored = run(store_->restore("disk", ""));
  ASSERT_TRUE(restored) << restored.error().what;
  EXPECT_EQ(restored->id, removed->id);
  EXPECT_EQ(restored->snapshots.size(), 1U);
  EXPECT_EQ(content("disk"), 7);
  EXPECT_EQ(trash().size(), 0U);
  let_go();
  expect_clean();
}

TEST_F(TrashTest, OneNameMayBeThereSeveralTimesAndIdsTellThemApart) {
  std::vector<uint64_t> ids;
  for (uint8_t i = 1; i <= 3; ++i) {
    create("disk");
    fill("disk", i);
    ids.push_back(remove("disk").value()->id);
    pass(std::chrono::seconds(1));
  }
  EXPECT_EQ(trash().front().id, ids.front()) << "the oldest first";
  EXPECT_EQ(run(store_->restore("disk", "")).error().code, Errc::invalid);
  ASSERT_TRUE(run(store_->restore(std::to_string(ids[1]), "")));
  EXPECT_EQ(run(store_->restore(std::to_string(ids[0]), "")).error().code, Errc::exists);
  ASSERT_TRUE(run(store_->restore(std::to_string(ids[0]), "first")));
  EXPECT_EQ(content("disk"), 2);
  EXPECT_EQ(content("first"), 1);
  ASSERT_TRUE(run(store_->purge("disk")));
  EXPECT_EQ(trash().size(), 0U);
  EXPECT_EQ(run(store_->restore("disk", "x")).error().code, Errc::not_found);
}

TEST_F(TrashTest, WhatHasBeenThereForLongEnoughIsPurged) {
  create("disk");
  fill("disk", 1);
  ASSERT_TRUE(run(store_->snapshot({"disk@a", "disk@b"}, {})).error().code == Errc::invalid);
  ASSERT_TRUE(run(store_->snapshot({"disk@a"}, {})));
  ASSERT_TRUE(remove("disk", {.with_snapshots = true}));
  pass(std::chrono::hours(23));
  EXPECT_EQ(trash().size(), 1U);
  pass(std::chrono::hours(1) + std::chrono::minutes(2));
  EXPECT_EQ(trash().size(), 0U);
  run(store_->wait_for_reclaim());
  EXPECT_EQ(rows_count(), 1U) << "only the store's header is left";
}

TEST_F(TrashTest, AVolumeThatIsDamagedKeepsNoOtherInTheTrash) {
  for (const char* name : {"a", "b", "c"}) {
    create(name);
    ASSERT_TRUE(remove(name));
    pass(std::chrono::minutes(5));
  }
  const KeySpace keys("");
  auto transaction = engine_->begin(loop_);
  transaction->clear(keys.fence(VolumeId{trash().front().id}));
  ASSERT_TRUE(run(transaction->commit()));
  pass(std::chrono::hours(24) - std::chrono::minutes(8));
  EXPECT_EQ(trash_rows_count(), 2U) << "a, which cannot be purged, and c, whose time has not come";
  EXPECT_EQ(run(store_->purge(std::nullopt)).error().code, Errc::corruption);
  EXPECT_EQ(trash_rows_count(), 1U);
}

TEST_F(TrashTest, AStartPurgesWhatHasExpiredMeanwhile) {
  create("disk");
  fill("disk", 1);
  ASSERT_TRUE(remove("disk"));
  run(store_->close());
  store_.reset();
  pass(std::chrono::hours(25));
  engine_.reset();
  open();
  pass(std::chrono::seconds(1));
  run(store_->wait_for_reclaim());
  EXPECT_EQ(rows_count(), 1U);
}

TEST_F(TrashTest, WhatIsRemovedAllTheTimeDoesNotKeepOldThingsThere) {
  retention_ = std::chrono::minutes(10);
  reopen();
  for (int i = 0; i < 60; ++i) {
    create("disk");
    ASSERT_TRUE(remove("disk"));
    pass(std::chrono::seconds(30));
  }
  // Those of the last ten minutes, and of the minute that it may take to find the others.
  EXPECT_LE(trash().size(), 22U);
}

TEST_F(TrashTest, ANewRetentionIsForWhatIsRemovedFromThenOn) {
  create("a");
  create("b");
  create("c");
  const auto first = remove("a").value();
  store_->set_trash_retention(std::chrono::minutes(5));
  const auto second = remove("b").value();
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->expires - first->trashed, std::chrono::hours(24));
  EXPECT_EQ(second->expires - second->trashed, std::chrono::minutes(5));
  store_->set_trash_retention(Duration::zero());
  EXPECT_FALSE(remove("c").value());
  pass(std::chrono::minutes(7));
  ASSERT_EQ(trash().size(), 1U);
  EXPECT_EQ(trash().front().name, "a");
}

TEST_F(TrashTest, WhatIsPurgedInPartIsNotRestored) {
  create("a");
  for (size_t i = 0; i <= limits::kMaxSnapshotsPerRemoval; ++i)
    ASSERT_TRUE(run(store_->snapshot({fmt::format("a@{}", i)}, {})));
  ASSERT_TRUE(run(store_->remove("a", {.with_snapshots = true})));
  InterposedEngine engine(*engine_);
  Store::Options options;
  options.volume_executors = {&loop_};
  options.trash_retention = retention_;
  const auto other = run(open_store(engine, loop_, options)).value();
  std::optional<Result<VolumeInfo>> restored;
  const std::function<Task<void>()> restore = [&]() -> Task<void> {
    restored = co_await store_->restore("a", "");
  };
  const std::function<Task<void>()> restore_before_the_next = [&]() -> Task<void> {
    engine.at_next_commit_of(KeySpace("").trash({1}).front(), InterposedEngine::Outcome::as_it_is, restore);
    co_return;
  };
  engine.at_next_commit_of(KeySpace("").trash({1}).front(), InterposedEngine::Outcome::as_it_is,
                           restore_before_the_next);
  EXPECT_TRUE(run(other->purge("a")));
  run(other->close());
  ASSERT_TRUE(restored);
  EXPECT_EQ(restored->error().code, Errc::busy);
}

TEST_F(TrashTest, NowAndATrashThatIsOffRemoveAtOnce) {
  create("a");
  EXPECT_FALSE(remove("a", {.now = true}).value());
  retention_ = Duration::zero();
  reopen();
  create("b");
  EXPECT_FALSE(remove("b").value());
  EXPECT_EQ(trash().size(), 0U);
  run(store_->wait_for_reclaim());
  EXPECT_EQ(rows_count(), 1U);
}

TEST_F(TrashTest, AVolumeInUseIsNotRemoved) {
  create("disk");
  const auto disk = open_disk("disk");
  EXPECT_EQ(run(store_->remove("disk", {})).error().code, Errc::busy);
}

TEST_F(TrashTest, ClonesLiveWhileTheirOriginalIsThereAndWhenItIsPurged) {
  create("disk");
  fill("disk", 3);
  ASSERT_TRUE(run(store_->snapshot({"disk@a"}, {})));
  ASSERT_TRUE(run(store_->clone("disk@a", "clone")));
  ASSERT_TRUE(remove("disk", {.with_snapshots = true}));
  EXPECT_EQ(content("clone"), 3);
  ASSERT_TRUE(run(store_->purge(std::nullopt)));
  run(store_->wait_for_reclaim());
  EXPECT_EQ(content("clone"), 3);
  let_go();
  expect_clean();
}

TEST_F(LabelTest, LabelsAreSetReplacedRemovedAndBounded) {
  create("disk");
  const auto disk = open_disk("disk");
  EXPECT_EQ(run(store_->change_labels("disk", {.set = {{"owner", "db"}, {"tier", "1"}}, .removed = {}}))
                .value()
                .labels,
            (Labels{{"owner", "db"}, {"tier", "1"}}));
  ASSERT_TRUE(run(store_->resize("disk", 32 << 20, false))) << "the open volume keeps what others changed";
  EXPECT_EQ(run(store_->change_labels("disk", {.set = {{"tier", "2"}}, .removed = {"owner", "none"}}))
                .value()
                .labels,
            (Labels{{"tier", "2"}}));
  EXPECT_EQ(run(store_->info("disk")).value().size_bytes, 32U << 20);
  for (const auto& [key, value] : Labels{{"", "x"}, {"a=b", "x"}, {std::string(256, 'k'), "x"}, {"k", "\n"}})
    EXPECT_EQ(run(store_->change_labels("disk", {.set = {{key, value}}, .removed = {}})).error().code,
              Errc::invalid)
        << key;
  Labels many;
  for (int i = 0; i < 64; ++i) many["key" + std::to_string(i)] = std::string(255, 'v');
  EXPECT_EQ(run(store_->change_labels("disk", {.set = many, .removed = {}})).error().code, Errc::too_large);
  EXPECT_TRUE(run(store_->change_labels("disk", {.set = many, .removed = {"tier"}})));
}

TEST_F(LabelTest, FiltersMatchKeysAndValues) {
  const Labels labels{{"owner", "db"}, {"tier", ""}};
  EXPECT_TRUE(labels_match(labels, {}));
  EXPECT_TRUE(labels_match(labels, {"owner", "tier="}));
  EXPECT_TRUE(labels_match(labels, {"owner=db"}));
  EXPECT_FALSE(labels_match(labels, {"owner=web"}));
  EXPECT_FALSE(labels_match(labels, {"owner=db", "none"}));
}

TEST_F(LabelTest, AClonesLabelsAndQuotaAreItsOwn) {
  create("disk", 8 * kBlock);
  ASSERT_TRUE(run(store_->change_labels("disk", {.set = {{"owner", "db"}}, .removed = {}})));
  ASSERT_TRUE(run(store_->snapshot({"disk@a"}, {})));
  const auto clone = run(store_->clone("disk@a", "clone")).value();
  EXPECT_EQ(clone.labels, Labels());
  EXPECT_EQ(clone.quota_bytes, 0U);
}

TEST_F(QuotaTest, OnlyWritesThatNeedMoreThanItAreRefused) {
  create("disk", 4 * kBlock);
  const auto disk = open_disk("disk");
  ASSERT_TRUE(write(*disk, 0, 1, 4));
  EXPECT_EQ(write(*disk, 4, 1).error().code, Errc::no_space);
  EXPECT_EQ(write(*disk, 2, 1, 4).error().code, Errc::no_space) << "a part of it would overwrite";
  EXPECT_TRUE(write(*disk, 0, 2, 4)) << "what is there is overwritten";
  EXPECT_TRUE(write(*disk, 4, 0, 8)) << "zeroes take no space";
  EXPECT_TRUE(
      run(disk->write_zeroes(8 * kBlock, kBlock, {.fua = false, .no_hole = true, .fast_only = false})));
  ASSERT_TRUE(run(disk->trim(0, kBlock, {})));
  EXPECT_TRUE(write(*disk, 9, 1));
  EXPECT_EQ(run(store_->info("disk")).value().used_bytes, 4U * kBlock);
}

TEST_F(QuotaTest, ItHoldsAcrossSnapshotsAndWhenItChanges) {
  create("disk");
  const auto disk = open_disk("disk");
  ASSERT_TRUE(write(*disk, 0, 1, 4));
  ASSERT_TRUE(run(store_->set_quota("disk", 2 * kBlock)));
  EXPECT_EQ(run(store_->info("disk")).value().quota_bytes, 2U * kBlock);
  ASSERT_TRUE(run(store_->snapshot({"disk@a"}, {})));
  EXPECT_TRUE(write(*disk, 0, 2, 4)) << "the volume uses these blocks already";
  EXPECT_EQ(write(*disk, 9, 2).error().code, Errc::no_space);
  ASSERT_TRUE(run(store_->set_quota("disk", 5 * kBlock)));
  EXPECT_TRUE(write(*disk, 9, 2));
  EXPECT_EQ(write(*disk, 10, 2).error().code, Errc::no_space);
  ASSERT_TRUE(run(store_->set_quota("disk", 0)));
  EXPECT_TRUE(write(*disk, 10, 2));
}

Task<void> write_into(block::Export& disk, uint64_t block, uint64_t& written_count, uint64_t& refused_count) {
  const std::vector<std::byte> bytes(kBlock, std::byte{1});
  const auto written = co_await disk.write(block * kBlock, bytes, {});
  if (written) {
    ++written_count;
  } else if (written.error().code == Errc::no_space) {
    ++refused_count;
  }
}

Task<void> write_many(block::Export& disk, uint64_t& written_count, uint64_t& refused_count) {
  TaskScope scope;
  for (uint64_t block = 0; block < 1000; ++block)
    scope.spawn(write_into(disk, block, written_count, refused_count));
  co_await scope.join();
}

TEST_F(QuotaTest, ManyWritesAtOnceFillItExactly) {
  create("disk", 300 * kBlock);
  const auto disk = open_disk("disk");
  uint64_t written_count = 0;
  uint64_t refused_count = 0;
  run(write_many(*disk, written_count, refused_count));
  EXPECT_EQ(written_count, 300U);
  EXPECT_EQ(refused_count, 700U);
  EXPECT_EQ(run(store_->info("disk")).value().used_bytes, 300U * kBlock);
}

}  // namespace
}  // namespace fdbnbd::volume
