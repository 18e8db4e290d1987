#include <gtest/gtest.h>

#include <map>
#include <string>

#include "async/sim_loop.h"
#include "kv/memory/memory_engine.h"
#include "volume/keys.h"
#include "volume/records.h"
#include "volume/store.h"

// Each test damages a store by hand; check finds it, and repair mends it or leaves all as it is.

namespace fdbnbd::volume {
namespace {

constexpr uint32_t kBlock = 4096;
constexpr uint64_t kExtentBlocks = limits::kBlocksPerExtent;
constexpr LayerId kStranger{77};

class RepairTest : public testing::Test {
 protected:
  RepairTest() : disk_(kv::make_memory_disk()) { open(); }
  ~RepairTest() override { run(store_->close()); }

  void open() {
    kv::MemoryOptions options;
    options.disk = disk_;
    options.capabilities = {
        .shared_between_hosts = false, .commits_in_flight = 4, .commits_are_durable = false};
    engine_ = kv::open_memory_engine(options).value();
    Store::Options store_options;
    store_options.volume_executors = {&loop_};
    store_ = run(open_store(*engine_, loop_, store_options)).value();
  }

  template <typename T>
  T run(Task<T> task) {
    return loop_.run(std::move(task));
  }
  void run(Task<void> task) { loop_.run(std::move(task)); }
  void settle() {
    while (loop_.step()) {
    }
  }

  void create(const std::string& name) {
    ASSERT_TRUE(run(store_->create(
        name, {.size_bytes = 64 << 20, .block_bytes = kBlock, .compression = Compression::none})));
  }
  std::shared_ptr<block::Export> open_disk(const std::string& name) {
    return run(store_->open(loop_, name)).value();
  }
  void write(const std::string& name, uint64_t block, uint8_t fill, uint64_t blocks_count = 1) {
    {
      const auto disk = open_disk(name);
      ASSERT_TRUE(run(
          disk->write(block * kBlock, std::vector<std::byte>(blocks_count * kBlock, std::byte{fill}), {})));
    }
    settle();
  }
  // The first byte of the block.
  int content(const std::string& name, uint64_t block) {
    std::vector<std::byte> bytes(kBlock);
    int value = 0;
    {
      const auto disk = open_disk(name);
      const auto segments = run(disk->read(block * kBlock, bytes));
      value = !segments ? -1 : segments->front().is_hole ? 0 : static_cast<int>(bytes.front());
    }
    settle();
    return value;
  }
  Result<void> snap(const std::string& name) { return run(store_->snapshot({name}, {})); }

  std::map<std::string, std::string> rows() {
    auto transaction = engine_->begin(loop_);
    std::map<std::string, std::string> all;
    const auto found = run(transaction->get_range({std::string_view("\0", 1), "\xff"},
                                                  {.rows_limit = 100'000}, kv::Isolation::snapshot))
                           .value();
    for (const kv::KeyValue& row : found.rows) all.emplace(row.key, row.value);
    return all;
  }
  // Without what opening and closing a volume changes.
  std::map<std::string, std::string> lasting_rows() {
    auto all = rows();
    std::erase_if(all, [](const auto& row) { return row.first[0] == 'F' || row.first[0] == 'U'; });
    return all;
  }
  void set(const std::string& key, const std::string& value) {
    auto transaction = engine_->begin(loop_);
    transaction->set(key, value);
    ASSERT_TRUE(run(transaction->commit()));
  }
  void clear(const std::string& key) {
    auto transaction = engine_->begin(loop_);
    transaction->clear(key);
    ASSERT_TRUE(run(transaction->commit()));
  }
  // The first row of the type.
  std::pair<std::string, std::string> row_of(char type) {
    const auto all = rows();
    const auto found = all.lower_bound(std::string(1, type));
    if (found == all.end()) return {};
    return {found->first, found->second};
  }
  LayerId top_of(const std::string& name) {
    const auto all = rows();
    const auto id = NameRecord::decode(all.at(keys_.name(name))).value().volume;
    return FenceRecord::decode(all.at(keys_.fence(id))).value().top_layer;
  }
  LayerRecord record_of(LayerId layer) { return LayerRecord::decode(rows().at(keys_.layer(layer))).value(); }

  CheckReport check() { return run(store_->check(std::nullopt, nullptr)).value(); }
  CheckReport repair() {
    const CheckReport report = run(store_->repair(nullptr)).value();
    run(store_->wait_for_reclaim());
    settle();
    return report;
  }
  void expect_mended() {
    EXPECT_GT(check().findings_count, 0U);
    const CheckReport report = repair();
    EXPECT_GT(report.mended_count, 0U);
    for (const CheckFinding& finding : report.findings) EXPECT_TRUE(finding.is_mended) << finding.what;
    EXPECT_EQ(report.findings_count, report.mended_count);
    const CheckReport again = check();
    EXPECT_EQ(again.findings_count, 0U) << again.findings.front().what;
  }
  void expect_left() {
    const auto before = lasting_rows();
    EXPECT_GT(check().findings_count, 0U);
    const CheckReport report = repair();
    EXPECT_EQ(report.mended_count, 0U) << report.findings.back().what;
    EXPECT_GT(report.findings_count, 0U);
    EXPECT_TRUE(lasting_rows() == before);
  }

  const KeySpace keys_{""};
  SimLoop loop_{1};
  std::shared_ptr<kv::MemoryDisk> disk_;
  std::unique_ptr<kv::MemoryEngine> engine_;
  std::unique_ptr<Store> store_;
};

TEST_F(RepairTest, AWholeStoreIsLeftAsItIs) {
  create("disk");
  write("disk", 0, 1, 2000);
  ASSERT_TRUE(snap("disk@a"));
  write("disk", 5, 2);
  const auto before = lasting_rows();
  const CheckReport report = repair();
  EXPECT_EQ(report.findings_count, 0U);
  EXPECT_TRUE(lasting_rows() == before);
}

TEST_F(RepairTest, ALayerThatNobodyNamesIsReclaimed) {
  create("disk");
  write("disk", 0, 1, 4);
  const auto before = lasting_rows();
  set(keys_.layer(kStranger), LayerRecord{}.encode());
  set(keys_.block(kStranger, {}, 3), row_of('D').second);
  set(keys_.bitmap(kStranger, 0), row_of('B').second);
  expect_mended();
  EXPECT_TRUE(lasting_rows() == before);
}

TEST_F(RepairTest, ALayerThatOnlyItsChildrenNameIsMergedIntoThem) {
  create("disk");
  write("disk", 0, 1, 4);
  ASSERT_TRUE(snap("disk@a"));
  write("disk", 1, 2);
  clear(row_of('N').first);
  expect_mended();
  EXPECT_EQ(content("disk", 0), 1);
  EXPECT_EQ(content("disk", 1), 2);
  EXPECT_EQ(record_of(top_of("disk")).parent, LayerId{});
}

TEST_F(RepairTest, BlocksOfNoLayerAreReclaimed) {
  create("disk");
  write("disk", 0, 1, 4);
  const auto before = lasting_rows();
  set(keys_.block(kStranger, {}, 3), row_of('D').second);
  set(keys_.bitmap(LayerId{78}, 9), row_of('B').second);
  expect_mended();
  EXPECT_TRUE(lasting_rows() == before);
}

TEST_F(RepairTest, ChildRecordsFollowFromTheLayers) {
  create("disk");
  write("disk", 0, 1, 4);
  ASSERT_TRUE(snap("disk@a"));
  const auto before = lasting_rows();
  set(keys_.child(top_of("disk"), kStranger), ChildRecord{}.encode());
  clear(row_of('C').first);
  set(keys_.child(record_of(top_of("disk")).parent, kStranger), "damaged");
  expect_mended();
  EXPECT_TRUE(lasting_rows() == before);
}

TEST_F(RepairTest, AUsageRecordThatIsWrongGoes) {
  create("disk");
  write("disk", 0, 1, 4);
  ASSERT_TRUE(snap("disk@a"));
  // Of a volume opening it writes the record anew.
  const std::string key = keys_.usage(record_of(top_of("disk")).parent);
  for (const std::string& value : {UsageRecord{7}.encode(), std::string("damaged")}) {
    set(key, value);
    expect_mended();
    EXPECT_FALSE(rows().contains(key));
    EXPECT_EQ(run(store_->info("disk@a")).value().used_bytes, 4U * kBlock);
  }
  set(keys_.usage(kStranger), UsageRecord{7}.encode());
  expect_mended();
}

TEST_F(RepairTest, JobsThatLeadNowhereGoAndThoseThatLackAreMade) {
  create("disk");
  const auto before = lasting_rows();
  set(keys_.job(JobId{5}), JobRecord{.kind = JobKind::merge_layer, .layer = LayerId{5}}.encode());
  set(keys_.job(JobId{6}), "damaged");
  expect_mended();
  EXPECT_TRUE(lasting_rows() == before);
  LayerRecord deleting;
  deleting.state = LayerState::deleting;
  set(keys_.layer(kStranger), deleting.encode());
  expect_mended();
  EXPECT_TRUE(lasting_rows() == before);
  LayerRecord unnamed;
  unnamed.state = LayerState::unnamed;
  set(keys_.layer(kStranger), unnamed.encode());
  expect_mended();
  EXPECT_TRUE(lasting_rows() == before);
}

TEST_F(RepairTest, ABitmapThatIsMissingIsDerivedFromTheBlocks) {
  create("disk");
  write("disk", 0, 1, 4);
  write("disk", 2 * kExtentBlocks, 2, 3);
  write("disk", 5 * kExtentBlocks, 3, 3);
  ASSERT_TRUE(snap("disk@a"));
  write("disk", 7 * kExtentBlocks, 4, 3);
  clear(keys_.bitmap(record_of(top_of("disk")).parent, 2));
  clear(keys_.bitmap(top_of("disk"), 7));
  EXPECT_EQ(content("disk", 2 * kExtentBlocks), 0);
  expect_mended();
  EXPECT_EQ(content("disk", 0), 1);
  EXPECT_EQ(content("disk", 2 * kExtentBlocks + 2), 2);
  EXPECT_EQ(content("disk@a", 2 * kExtentBlocks + 2), 2);
  EXPECT_EQ(content("disk", 2 * kExtentBlocks + 3), 0);
  EXPECT_EQ(content("disk", 7 * kExtentBlocks), 4);
  EXPECT_EQ(run(store_->info("disk")).value().used_bytes, 13U * kBlock);
}

TEST_F(RepairTest, ABitmapThatMayHaveHiddenWhatIsBelowIsLeft) {
  create("disk");
  write("disk", 0, 1, 4);
  ASSERT_TRUE(snap("disk@a"));
  write("disk", 1, 2);
  clear(keys_.bitmap(top_of("disk"), 0));
  clear(keys_.usage(top_of("disk")));
  expect_left();
}

TEST_F(RepairTest, ABitmapIsNotDerivedFromABlockThatDoesNotVerify) {
  create("disk");
  write("disk", 0, 1, 4);
  clear(keys_.bitmap(top_of("disk"), 0));
  clear(keys_.usage(top_of("disk")));
  set(row_of('D').first, "damaged");
  expect_left();
}

TEST_F(RepairTest, AVolumeInUseIsLeft) {
  create("disk");
  write("disk", 0, 1, 4);
  clear(keys_.bitmap(top_of("disk"), 0));
  const auto disk = open_disk("disk");
  const CheckReport report = repair();
  EXPECT_EQ(report.mended_count, 0U);
  EXPECT_NE(report.findings.back().what.find("in use"), std::string::npos) << report.findings.back().what;
}

TEST_F(RepairTest, WhatAVolumeWithoutItsNameHasIsLeft) {
  create("disk");
  write("disk", 0, 1, 4);
  set(keys_.layer(kStranger), LayerRecord{}.encode());
  clear(keys_.name("disk"));
  expect_left();
}

TEST_F(RepairTest, TheBlocksOfALayerWhoseRecordIsLostAreLeft) {
  create("disk");
  write("disk", 0, 1, 4);
  ASSERT_TRUE(snap("disk@a"));
  write("disk", 1, 2);
  clear(keys_.layer(record_of(top_of("disk")).parent));
  clear(keys_.usage(top_of("disk")));
  const auto before = rows();
  repair();
  const auto after = rows();
  for (const auto& [key, value] : before) {
    if (key[0] == 'D' || key[0] == 'B' || key[0] == 'C') EXPECT_TRUE(after.contains(key));
  }
}

TEST_F(RepairTest, ADamagedRecordThatMayNameALayerKeepsEveryLayer) {
  create("disk");
  write("disk", 0, 1, 4);
  ASSERT_TRUE(snap("disk@a"));
  write("disk", 1, 2);
  set(row_of('N').first, "damaged");
  expect_left();
}

}  // namespace
}  // namespace fdbnbd::volume
