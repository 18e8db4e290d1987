#include <gtest/gtest.h>

#include "async/sim_loop.h"
#include "kv/memory/memory_engine.h"
#include "volume/store.h"

namespace fdbnbd::volume {
namespace {

constexpr uint32_t kBlock = 4096;

class GroupTest : public testing::Test {
 protected:
  GroupTest() {
    engine_ = kv::open_memory_engine().value();
    Store::Options options;
    options.volume_executors = {&loop_};
    store_ = run(open_store(*engine_, loop_, options)).value();
    for (const char* name : {"a", "b", "c"}) {
      EXPECT_TRUE(run(store_->create(
          name, {.size_bytes = 1 << 20, .block_bytes = kBlock, .compression = Compression::none})));
    }
  }
  ~GroupTest() override { run(store_->close()); }

  template <typename T>
  T run(Task<T> task) {
    return loop_.run(std::move(task));
  }
  void run(Task<void> task) { loop_.run(std::move(task)); }
  static Task<void> turn(Executor& executor) { co_await sleep_for(executor, Duration(1)); }

  void fill(const std::string& name, uint8_t value) {
    {
      const auto disk = run(store_->open(loop_, name)).value();
      ASSERT_TRUE(run(disk->write(0, std::vector<std::byte>(kBlock, std::byte{value}), {})));
    }
    run(turn(loop_));
  }
  int content(const std::string& name) {
    std::vector<std::byte> bytes(kBlock);
    {
      const auto disk = run(store_->open(loop_, name)).value();
      EXPECT_TRUE(run(disk->read(0, bytes)));
    }
    run(turn(loop_));
    return static_cast<int>(bytes.front());
  }
  std::vector<std::string> members() { return run(store_->list_groups()).value().at(0).members; }
  std::vector<std::string> snapshots() {
    std::vector<std::string> names;
    const GroupInfo group = run(store_->list_groups()).value().at(0);
    for (const SnapshotInfo& snapshot : group.snapshots) names.push_back(snapshot.name);
    return names;
  }
  Result<void> create(const std::string& name, std::vector<std::string> volumes) {
    return run(store_->create_group(name, std::move(volumes)));
  }
  Result<void> change(std::vector<std::string> added, std::vector<std::string> removed) {
    return run(store_->change_group("g", {.added = std::move(added), .removed = std::move(removed)}));
  }

  using Names = std::vector<std::string>;
  SimLoop loop_{1};
  std::unique_ptr<kv::MemoryEngine> engine_;
  std::unique_ptr<Store> store_;
};

TEST_F(GroupTest, MembersComeAndGoAndKeepTheirPlaceWhenTheyAreRenamed) {
  ASSERT_TRUE(create("g", {"b"}));
  EXPECT_EQ(create("g", {}).error().code, Errc::exists);
  EXPECT_EQ(create("x@y", {}).error().code, Errc::invalid);
  EXPECT_EQ(create("h", {"none"}).error().code, Errc::not_found);
  ASSERT_TRUE(change({"a", "b"}, {}));
  EXPECT_EQ(members(), (Names{"a", "b"}));
  ASSERT_TRUE(run(store_->rename("b", "renamed")));
  EXPECT_EQ(members(), (Names{"a", "renamed"}));
  ASSERT_TRUE(change({"c"}, {"a"}));
  EXPECT_EQ(members(), (Names{"c", "renamed"}));
  ASSERT_TRUE(run(store_->remove_group("g")));
  EXPECT_EQ(run(store_->remove_group("g")).error().code, Errc::not_found);
  EXPECT_TRUE(run(store_->list_groups()).value().empty());
}

TEST_F(GroupTest, AVolumeInTheTrashIsNoMemberUntilItIsBack) {
  ASSERT_TRUE(create("g", {"a", "b", "c"}));
  ASSERT_TRUE(run(store_->remove("a", {})));
  ASSERT_TRUE(run(store_->remove("c", {.now = true})));
  EXPECT_EQ(members(), Names{"b"});
  ASSERT_TRUE(run(store_->snapshot_group("g@1")));
  EXPECT_EQ(snapshots(), Names{"1"});
  ASSERT_TRUE(run(store_->restore("a", "")));
  EXPECT_EQ(members(), (Names{"a", "b"}));
  EXPECT_EQ(snapshots(), Names()) << "one of them has none";
  EXPECT_EQ(run(store_->rollback_group("g@1")).error().code, Errc::not_found);
}

TEST_F(GroupTest, RollbackTakesAllVolumesBackOrNone) {
  ASSERT_TRUE(create("g", {"a", "b"}));
  fill("a", 1);
  fill("b", 2);
  ASSERT_TRUE(run(store_->snapshot_group("g@1")));
  EXPECT_EQ(run(store_->snapshot_group("g@1")).error().code, Errc::exists);
  EXPECT_EQ(snapshots(), Names{"1"});
  fill("a", 3);
  fill("b", 4);
  {
    const auto disk = run(store_->open(loop_, "b")).value();
    EXPECT_EQ(run(store_->rollback_group("g@1")).error().code, Errc::busy);
  }
  run(turn(loop_));
  EXPECT_EQ(content("a"), 3);
  ASSERT_TRUE(run(store_->rollback_group("g@1")));
  EXPECT_EQ(content("a"), 1);
  EXPECT_EQ(content("b"), 2);
  EXPECT_EQ(run(store_->check(std::nullopt, nullptr)).value().findings_count, 0U);
}

TEST_F(GroupTest, SnapshotsOfSeveralInstantsAreNoneOfTheGroup) {
  ASSERT_TRUE(create("g", {"a", "b"}));
  ASSERT_TRUE(run(store_->snapshot({"a@x"}, {})));
  run(turn(loop_));
  ASSERT_TRUE(run(store_->snapshot({"b@x"}, {})));
  EXPECT_EQ(snapshots(), Names());
  EXPECT_EQ(run(store_->rollback_group("g@x")).error().code, Errc::invalid);
  EXPECT_EQ(run(store_->rollback_group("none@x")).error().code, Errc::not_found);
  ASSERT_TRUE(create("h", {}));
  EXPECT_EQ(run(store_->snapshot_group("h@x")).error().code, Errc::invalid);
}

}  // namespace
}  // namespace fdbnbd::volume
