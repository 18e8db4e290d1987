#include "volume/store.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "async/sim_loop.h"
#include "kv/memory/memory_engine.h"
#include "volume/records.h"

namespace fdbnbd::volume {
namespace {

class StoreTest : public testing::Test {
 protected:
  StoreTest() : disk_(kv::make_memory_disk()) { open(); }
  ~StoreTest() override {
    if (store_) run(store_->close());
  }

  void open() {
    kv::MemoryOptions options;
    options.disk = disk_;
    options.capabilities.commits_can_be_in_doubt = can_be_in_doubt_;
    engine_ = kv::open_memory_engine(options).value();
    Store::Options store_options;
    store_options.volume_executors = {&loop_};
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

  Result<VolumeInfo> create(const std::string& name, uint64_t size_bytes = 1 << 20) {
    return run(store_->create(
        name, {.size_bytes = size_bytes, .block_bytes = 4096, .compression = Compression::lz4}));
  }
  std::vector<kv::KeyValue> rows(const std::string& begin, const std::string& end) {
    auto transaction = engine_->begin(loop_);
    return run(transaction->get_range({begin, end}, {}, kv::Isolation::snapshot)).value().rows;
  }
  void put(const std::string& key, const std::string& value) {
    auto transaction = engine_->begin(loop_);
    transaction->set(key, value);
    ASSERT_TRUE(run(transaction->commit()));
  }

  SimLoop loop_{1};
  bool can_be_in_doubt_ = false;  // commits, as in a store that several servers share
  std::shared_ptr<kv::MemoryDisk> disk_;
  std::unique_ptr<kv::MemoryEngine> engine_;
  std::unique_ptr<Store> store_;
};

TEST_F(StoreTest, VolumesAreMadeListedRenamedResizedAndRemoved) {
  ASSERT_TRUE(create("b"));
  ASSERT_TRUE(create("a", 512));
  EXPECT_EQ(create("a").error().code, Errc::exists);
  auto volumes = run(store_->list_volumes()).value();
  ASSERT_EQ(volumes.size(), 2U);
  EXPECT_EQ(volumes[0].name, "a");
  EXPECT_EQ(volumes[0].size_bytes, 512U);
  EXPECT_EQ(run(store_->rename("a", "b")).error().code, Errc::exists);
  ASSERT_TRUE(run(store_->rename("a", "c")));
  EXPECT_EQ(run(store_->info("a")).error().code, Errc::not_found);
  EXPECT_EQ(run(store_->resize("c", 4096, false)).value().size_bytes, 4096U);
  EXPECT_EQ(run(store_->resize("c", 512, false)).error().code, Errc::invalid);
  EXPECT_EQ(run(store_->resize("c", 512, true)).value().size_bytes, 512U);
  reopen();
  EXPECT_EQ(run(store_->info("c")).value().size_bytes, 512U);
  ASSERT_TRUE(run(store_->remove("b", {.now = true})));
  EXPECT_EQ(run(store_->remove("b", {.now = true})).error().code, Errc::not_found);
  EXPECT_EQ(run(store_->list_volumes()).value().size(), 1U);
}

// What sanitizers see: a verb does not touch a volume that its last user has just let go.
TEST_F(StoreTest, VerbsAndTheEndOfASessionDoNotMeet) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SimLoop loop(seed);
    const auto engine = kv::open_memory_engine({.seed = seed}).value();
    Store::Options options;
    options.volume_executors = {&loop};
    const auto store = loop.run(open_store(*engine, loop, options)).value();
    ASSERT_TRUE(loop.run(
        store->create("a", {.size_bytes = 1 << 20, .block_bytes = 4096, .compression = Compression::lz4})));
    auto disk = loop.run(store->open(loop, "a")).value();
    disk.reset();
    for (uint64_t i = 0; i < seed % 20; ++i) loop.step();
    ASSERT_TRUE(loop.run(store->rename("a", "b"))) << seed;
    ASSERT_TRUE(loop.run(store->info("b"))) << seed;
    loop.run(store->close());
  }
}

TEST_F(StoreTest, ImpossibleSizesAndBlockSizesAreRefused) {
  for (const uint64_t size :
       {uint64_t{0}, uint64_t{511}, uint64_t{513}, limits::kMaxVolumeBytes + 512, UINT64_MAX}) {
    EXPECT_EQ(create("x", size).error().code, Errc::invalid) << size;
  }
  EXPECT_TRUE(create("largest", limits::kMaxVolumeBytes));
  for (const uint32_t block : {0U, 1U, 512U, 2048U, 4097U, 131072U}) {
    EXPECT_EQ(
        run(store_->create("x", {.size_bytes = 4096, .block_bytes = block, .compression = Compression::none}))
            .error()
            .code,
        Errc::invalid);
  }
}

TEST_F(StoreTest, TheLargestVolumeHoldsDataAtItsEnd) {
  ASSERT_TRUE(create("largest", limits::kMaxVolumeBytes));
  auto disk = run(store_->open(loop_, "largest")).value();
  const std::vector<std::byte> data(1024, std::byte{9});
  ASSERT_TRUE(run(disk->write(limits::kMaxVolumeBytes - 1024, data, {})));
  std::vector<std::byte> back(1024);
  ASSERT_TRUE(run(disk->read(limits::kMaxVolumeBytes - 1024, back)));
  EXPECT_EQ(back, data);
  EXPECT_EQ(run(store_->check(std::nullopt, nullptr)).value().findings_count, 0U);
}

TEST_F(StoreTest, AVolumeInUseIsNotRemoved) {
  ASSERT_TRUE(create("disk"));
  auto disk = run(store_->open(loop_, "disk")).value();
  EXPECT_EQ(run(store_->info("disk")).value().sessions_count, 1U);
  EXPECT_EQ(run(store_->remove("disk", {.now = true})).error().code, Errc::busy);
  disk.reset();
  while (loop_.step()) {
  }
  EXPECT_TRUE(run(store_->remove("disk", {.now = true})));
}

TEST_F(StoreTest, TheEmptyNameIsTheOnlyVolume) {
  EXPECT_EQ(run(store_->open(loop_, "")).error().code, Errc::not_found);
  ASSERT_TRUE(create("disk"));
  EXPECT_EQ(run(store_->describe(loop_, "")).value().name, "disk");
  ASSERT_TRUE(create("other"));
  EXPECT_EQ(run(store_->open(loop_, "")).error().code, Errc::not_found);
}

TEST_F(StoreTest, RemovedVolumesLeaveNothingBehind) {
  ASSERT_TRUE(create("disk", uint64_t{1} << 40));
  auto disk = run(store_->open(loop_, "disk")).value();
  const std::vector<std::byte> data(65536, std::byte{9});
  for (uint64_t i = 0; i < 20; ++i) ASSERT_TRUE(run(disk->write(i << 30, data, {})));
  disk.reset();
  while (loop_.step()) {
  }
  ASSERT_TRUE(run(store_->remove("disk", {.now = true})));
  run(store_->wait_for_reclaim());
  const auto left = rows(std::string(1, '\0'), "\xff");
  ASSERT_EQ(left.size(), 1U) << "only the store's header";
  EXPECT_EQ(left[0].key, "S");
}

TEST_F(StoreTest, ReclaimGoesOnAfterARestart) {
  ASSERT_TRUE(create("disk"));
  auto disk = run(store_->open(loop_, "disk")).value();
  ASSERT_TRUE(run(disk->write(0, std::vector<std::byte>(65536, std::byte{9}), {})));
  disk.reset();
  while (loop_.step()) {
  }
  // Everything fails from the removal's commit on, as when the process dies there.
  Store& store = *store_;
  EXPECT_TRUE(run(store.remove("disk", {.now = true})));
  engine_->crash({});
  run(store.close());
  store_.reset();
  engine_.reset();
  open();
  run(store_->wait_for_reclaim());
  EXPECT_EQ(rows(std::string(1, '\0'), "\xff").size(), 1U);
}

TEST_F(StoreTest, ACheckCountsTheFindingsThatItDoesNotKeep) {
  ASSERT_TRUE(create("disk", 64 << 20));
  const KeySpace keys("");
  const LayerId layer{*keys.id_of(rows("L", "M").at(0).key)};
  const uint64_t strays_count = kMaxCheckFindings + 50;
  auto transaction = engine_->begin(loop_);
  for (uint64_t block = 0; block < strays_count; ++block)
    transaction->set(keys.block(layer, Striping{1}, block), "damaged");
  ASSERT_TRUE(run(transaction->commit()));
  const CheckReport report = run(store_->check("disk", nullptr)).value();
  EXPECT_EQ(report.findings.size(), kMaxCheckFindings);
  EXPECT_EQ(report.findings_count, strays_count);
}

TEST_F(StoreTest, UsageIsExactAlsoAfterACrash) {
  ASSERT_TRUE(create("disk"));
  auto disk = run(store_->open(loop_, "disk")).value();
  ASSERT_TRUE(run(disk->write(0, std::vector<std::byte>(5 * 4096, std::byte{9}), {})));
  engine_->crash({});
  disk.reset();
  run(store_->close());
  store_.reset();
  engine_.reset();
  open();
  EXPECT_EQ(run(store_->info("disk")).value().used_bytes, 5U * 4096);
  EXPECT_EQ(run(store_->list_volumes()).value()[0].used_bytes, 5U * 4096);
}

TEST_F(StoreTest, AStoreOfANewerFormatIsNotTouched) {
  StoreHeader header;
  header.format_version = kFormatVersion + 1;
  put("S", header.encode());
  Store::Options options;
  options.volume_executors = {&loop_};
  EXPECT_EQ(run(open_store(*engine_, loop_, options)).error().code, Errc::newer_format);
}

TEST_F(StoreTest, SomethingElsesDataIsNotTakenForAnEmptyStore) {
  auto other = kv::open_memory_engine().value();
  auto transaction = other->begin(loop_);
  transaction->set("Anything", "1");
  ASSERT_TRUE(run(transaction->commit()));
  Store::Options options;
  options.volume_executors = {&loop_};
  EXPECT_EQ(run(open_store(*other, loop_, options)).error().code, Errc::corruption);
}

TEST_F(StoreTest, OneDamagedVolumeDoesNotHideTheOthersAndCheckFindsIt) {
  ASSERT_TRUE(create("bad"));
  ASSERT_TRUE(create("good"));
  const uint64_t bad_id = run(store_->info("bad")).value().id;
  const KeySpace keys("");
  put(keys.volume(VolumeId{bad_id}), "Irubbish");
  const auto volumes = run(store_->list_volumes()).value();
  ASSERT_EQ(volumes.size(), 1U);
  EXPECT_EQ(volumes[0].name, "good");
  EXPECT_EQ(run(store_->open(loop_, "bad")).error().code, Errc::corruption);
  const auto report = run(store_->check(std::nullopt, nullptr)).value();
  ASSERT_GE(report.findings_count, 1U);
  EXPECT_EQ(report.findings[0].volume, "bad");
}

TEST_F(StoreTest, CheckFindsOrphansInTheGraph) {
  ASSERT_TRUE(create("disk"));
  const KeySpace keys("");
  put(keys.volume(VolumeId{77}), VolumeRecord{}.encode());
  put(keys.layer(LayerId{88}), LayerRecord{}.encode());
  put(keys.name("dangling"), NameRecord{VolumeId{99}}.encode());
  const auto report = run(store_->check(std::nullopt, nullptr)).value();
  std::string all;
  for (const auto& finding : report.findings) all += finding.volume + ": " + finding.what + "\n";
  EXPECT_NE(all.find("(id 000000000000004d) without a name"), std::string::npos) << all;
  EXPECT_NE(all.find("layer 0000000000000058 belongs to no volume"), std::string::npos) << all;
  EXPECT_NE(all.find("dangling: its volume record is missing"), std::string::npos) << all;
}

TEST_F(StoreTest, UnknownResultsOfMetadataCommitsAreSettled) {
  can_be_in_doubt_ = true;
  reopen();
  using enum kv::CommitFault;
  for (const auto fault : {unknown_applied, unknown_not_applied}) {
    engine_->faults().fail_next_commits(fault);
    ASSERT_TRUE(create("disk"));
    engine_->faults().fail_next_commits(fault);
    ASSERT_TRUE(run(store_->rename("disk", "other")));
    engine_->faults().fail_next_commits(fault, 2);
    ASSERT_TRUE(run(store_->resize("other", 2 << 20, false)));
    engine_->faults().fail_next_commits(fault);
    ASSERT_TRUE(run(store_->remove("other", {.now = true})));
    EXPECT_TRUE(run(store_->list_volumes()).value().empty());
  }
  run(store_->wait_for_reclaim());
}

TEST_F(StoreTest, AThousandVolumesAreListedWithTheirUsage) {
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(create(fmt::format("volume {}", i)));
  EXPECT_EQ(run(store_->list_volumes()).value().size(), 1000U);
  EXPECT_EQ(run(store_->list(loop_)).value().size(), 1000U);
}

}  // namespace
}  // namespace fdbnbd::volume
