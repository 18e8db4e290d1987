#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "async/sim_loop.h"
#include "kv/memory/memory_engine.h"
#include "volume/interposed_engine_testing.h"
#include "volume/keys.h"
#include "volume/records.h"
#include "volume/store.h"

// Verbs whose transaction ends with an unknown result, or meets that of another process: each tells what it
// has done itself, and takes nobody else's work for its own.

namespace fdbnbd::volume {
namespace {

constexpr uint32_t kBlock = 4096;
using Outcome = InterposedEngine::Outcome;

class VerbsInDoubt : public testing::Test {
 protected:
  struct Server {
    std::unique_ptr<kv::MemoryEngine> memory;
    std::unique_ptr<InterposedEngine> engine;
    std::unique_ptr<Store> store;
  };

  VerbsInDoubt() : ours_(start()), theirs_(start()) {
    for (const char* name : {"a", "b"}) create(name);
  }
  ~VerbsInDoubt() override {
    for (Server* server : {&ours_, &theirs_}) run(server->store->close());
    EXPECT_TRUE(ours_.engine->has_happened());
  }

  Server start() {
    Server server;
    kv::MemoryOptions options;
    options.disk = disk_;
    options.capabilities = {.shared_between_hosts = true, .commits_in_flight = 4};
    server.memory = kv::open_memory_engine(options).value();
    server.engine = std::make_unique<InterposedEngine>(*server.memory);
    Store::Options store_options;
    store_options.volume_executors = {&loop_};
    store_options.seed = ++servers_count_;
    server.store = run(open_store(*server.engine, loop_, store_options)).value();
    return server;
  }
  template <typename T>
  T run(Task<T> task) {
    return loop_.run(std::move(task));
  }
  void run(Task<void> task) { loop_.run(std::move(task)); }

  void create(const std::string& name) {
    ASSERT_TRUE(run(ours_.store->create(
        name, {.size_bytes = 16 << 20, .block_bytes = kBlock, .compression = Compression::none})));
  }
  Result<void> snap(const std::string& name) { return run(ours_.store->snapshot({name}, {})); }

  static Task<void> do_rename(Store& store, std::string name, std::string new_name) {
    EXPECT_TRUE((co_await store.rename(std::move(name), std::move(new_name))).has_value());
  }
  static Task<void> do_create(Store& store, std::string name) {
    EXPECT_TRUE((co_await store.create(std::move(name), {.size_bytes = 1 << 20})).has_value());
  }
  static Task<void> do_remove(Store& store, std::string name, RemoveOptions options) {
    EXPECT_TRUE((co_await store.remove(std::move(name), options)).has_value());
  }
  static Task<void> do_snapshot(Store& store, std::string name) {
    std::vector<std::string> names{std::move(name)};
    EXPECT_TRUE((co_await store.snapshot(std::move(names), std::nullopt)).has_value());
  }
  static Task<void> do_remove_group(Store& store, std::string name) {
    EXPECT_TRUE((co_await store.remove_group(std::move(name))).has_value());
  }
  static Task<void> do_create_group(Store& store, std::string name, std::vector<std::string> volumes) {
    EXPECT_TRUE((co_await store.create_group(std::move(name), std::move(volumes))).has_value());
  }
  static Task<void> do_restore(Store& store, std::string name, std::string new_name) {
    EXPECT_TRUE((co_await store.restore(std::move(name), std::move(new_name))).has_value());
  }
  static Task<void> restore_and_remove(Store& store, Executor& executor, std::string name) {
    EXPECT_TRUE((co_await store.restore(name, "")).has_value());
    co_await sleep_for(executor, std::chrono::seconds(1));
    EXPECT_TRUE((co_await store.remove(std::move(name), {})).has_value());
  }
  static Task<void> do_label(Store& store, std::string name, std::string value) {
    LabelChange change{.set = {{"k", std::move(value)}}, .removed = {}};
    EXPECT_TRUE((co_await store.change_labels(std::move(name), std::move(change))).has_value());
  }

  // At our next commit that changes a key of this type.
  void plan(char key_type, Outcome outcome, std::function<Task<void>()> act = {}) {
    ours_.engine->at_next_commit_of(key_type, outcome, std::move(act));
  }
  Store& ours() { return *ours_.store; }
  Store& theirs() { return *theirs_.store; }

  std::vector<std::string> names() {
    std::vector<std::string> names;
    const auto volumes = run(ours().list_volumes()).value();
    for (const auto& volume : volumes) names.push_back(volume.name);
    return names;
  }
  uint64_t id_of(const std::string& name) { return run(ours().info(name)).value().id; }
  std::vector<std::string> members() { return run(ours().list_groups()).value().at(0).members; }
  FenceRecord fence_of(const std::string& name) {
    const std::string key = KeySpace("").fence(VolumeId{id_of(name)});
    const auto transaction = ours_.memory->begin(loop_);
    return FenceRecord::decode(run(transaction->get(key, kv::Isolation::snapshot)).value().value()).value();
  }
  size_t rows_count(char type) {
    const auto transaction = ours_.memory->begin(loop_);
    const std::string begin(1, type);
    const std::string end(1, static_cast<char>(type + 1));
    return run(transaction->get_range({begin, end}, {}, kv::Isolation::snapshot)).value().rows.size();
  }
  void expect_clean() {
    const auto report = run(ours().check(std::nullopt, nullptr)).value();
    EXPECT_EQ(report.findings_count, 0U)
        << report.findings.front().volume << ": " << report.findings.front().what;
  }

  SimLoop loop_{1};
  std::shared_ptr<kv::MemoryDisk> disk_ = kv::make_memory_disk();
  uint64_t servers_count_ = 0;
  Server ours_;
  Server theirs_;
};

// Whatever the verb, of several attempts one happens, and its success is told.

TEST_F(VerbsInDoubt, EveryVerbThatHasHappenedSucceeds) {
  plan('V', Outcome::unknown_applied);
  EXPECT_TRUE(run(ours().create("c", {.size_bytes = 1 << 20})));
  plan('N', Outcome::unknown_applied);
  EXPECT_TRUE(snap("a@1"));
  plan('V', Outcome::unknown_applied);
  EXPECT_TRUE(run(ours().clone("a@1", "d")));
  plan('V', Outcome::unknown_applied);
  EXPECT_TRUE(run(ours().rename("d", "e")));
  plan('G', Outcome::unknown_applied);
  EXPECT_TRUE(run(ours().create_group("g", {"a", "b"})));
  plan('G', Outcome::unknown_applied);
  EXPECT_TRUE(run(ours().change_group("g", {.added = {"c"}, .removed = {"b"}})));
  EXPECT_EQ(members(), (std::vector<std::string>{"a", "c"}));
  plan('N', Outcome::unknown_applied);
  EXPECT_TRUE(run(ours().snapshot_group("g@2")));
  plan('F', Outcome::unknown_applied);
  EXPECT_TRUE(run(ours().rollback_group("g@2")));
  plan('F', Outcome::unknown_applied);
  EXPECT_TRUE(run(ours().rollback("a@1", false)));
  plan('G', Outcome::unknown_applied);
  EXPECT_TRUE(run(ours().remove_group("g")));
  plan('N', Outcome::unknown_applied);
  EXPECT_TRUE(run(ours().remove("a@1", {})));
  plan('I', Outcome::unknown_applied);
  EXPECT_TRUE(run(ours().change_labels("a", {.set = {{"k", "v"}}, .removed = {}})));
  plan('V', Outcome::unknown_applied);
  EXPECT_TRUE(run(ours().remove("b", {})));
  plan('V', Outcome::unknown_applied);
  EXPECT_TRUE(run(ours().restore("b", "")));
  plan('V', Outcome::unknown_applied);
  EXPECT_TRUE(run(ours().remove("b", {})));
  plan('X', Outcome::unknown_applied);
  EXPECT_TRUE(run(ours().purge("b")));
  plan('L', Outcome::unknown_applied);
  EXPECT_TRUE(run(ours().flatten("e", nullptr)));
  EXPECT_EQ(names(), (std::vector<std::string>{"a", "c", "e"}));
  run(ours().wait_for_reclaim());
  expect_clean();
}

TEST_F(VerbsInDoubt, EveryVerbThatHasNotHappenedHappens) {
  plan('V', Outcome::unknown_not_applied);
  EXPECT_TRUE(run(ours().create("c", {.size_bytes = 1 << 20})));
  plan('N', Outcome::unknown_not_applied);
  EXPECT_TRUE(snap("a@1"));
  plan('V', Outcome::unknown_not_applied);
  EXPECT_TRUE(run(ours().clone("a@1", "d")));
  plan('G', Outcome::unknown_not_applied);
  EXPECT_TRUE(run(ours().create_group("g", {"a", "b"})));
  plan('F', Outcome::unknown_not_applied);
  EXPECT_TRUE(run(ours().rollback("a@1", false)));
  plan('V', Outcome::unknown_not_applied);
  EXPECT_TRUE(run(ours().remove("b", {})));
  plan('X', Outcome::unknown_not_applied);
  EXPECT_TRUE(run(ours().purge("b")));
  EXPECT_EQ(names(), (std::vector<std::string>{"a", "c", "d"}));
  run(ours().wait_for_reclaim());
  expect_clean();
}

TEST_F(VerbsInDoubt, ALockIsBrokenOnce) {
  const auto disk = run(theirs().open(loop_, "a")).value();
  const FenceRecord held = fence_of("a");
  plan('F', Outcome::unknown_applied);
  EXPECT_TRUE(run(ours().break_lock("a")));
  EXPECT_EQ(fence_of("a").epoch, held.epoch + 1);
  EXPECT_TRUE(fence_of("a").is_free());
}

// What others do meanwhile.

TEST_F(VerbsInDoubt, AVolumeThatWasRenamedMeanwhileIsNotMadeAnew) {
  plan('V', Outcome::unknown_applied, [this] { return do_rename(theirs(), "c", "d"); });
  EXPECT_EQ(run(ours().create("c", {.size_bytes = 1 << 20})).error().code, Errc::not_found)
      << "it is there, but not under that name";
  EXPECT_EQ(names(), (std::vector<std::string>{"a", "b", "d"}));
  expect_clean();
}

TEST_F(VerbsInDoubt, ARenameDoesNotClaimAnothersVolume) {
  const uint64_t id = id_of("a");
  plan('V', Outcome::as_it_is, [this] { return do_rename(theirs(), "a", "c"); });
  EXPECT_EQ(run(ours().rename("a", "c")).error().code, Errc::exists);
  EXPECT_EQ(id_of("c"), id);
}

TEST_F(VerbsInDoubt, ARemovalDoesNotTakeAnothersForItsOwn) {
  plan('V', Outcome::as_it_is, [this] { return do_remove(theirs(), "a", {}); });
  EXPECT_EQ(run(ours().remove("a", {})).error().code, Errc::not_found);
  ASSERT_EQ(run(ours().list_trash()).value().size(), 1U);
}

TEST_F(VerbsInDoubt, ARemovalOfWhatWasRenamedMeanwhileFails) {
  plan('V', Outcome::unknown_not_applied, [this] { return do_rename(theirs(), "a", "c"); });
  EXPECT_EQ(run(ours().remove("a", {})).error().code, Errc::not_found);
  EXPECT_EQ(names(), (std::vector<std::string>{"b", "c"}));
}

TEST_F(VerbsInDoubt, ARemovalSparesTheVolumeThatGotTheNameMeanwhile) {
  for (const Outcome outcome : {Outcome::unknown_applied, Outcome::as_it_is}) {
    if (outcome == Outcome::as_it_is) {
      plan('V', outcome, [this] { return do_rename(theirs(), "a", "c"); });
    } else {
      plan('V', outcome, [this] { return do_create(theirs(), "a"); });
    }
    const auto removed = run(ours().remove("a", {}));
    EXPECT_EQ(removed.has_value(), outcome == Outcome::unknown_applied);
  }
  EXPECT_EQ(names(), (std::vector<std::string>{"b", "c"}));
}

TEST_F(VerbsInDoubt, ARemovalOfASnapshotDoesNotTakeAnothersForItsOwn) {
  ASSERT_TRUE(snap("a@1"));
  plan('N', Outcome::as_it_is, [this] { return do_remove(theirs(), "a@1", {}); });
  EXPECT_EQ(run(ours().remove("a@1", {})).error().code, Errc::not_found);
}

TEST_F(VerbsInDoubt, ASnapshotThatHasHappenedSucceedsThoughItsVolumeWasRenamed) {
  plan('N', Outcome::unknown_applied, [this] { return do_rename(theirs(), "a", "c"); });
  EXPECT_TRUE(snap("a@1"));
  EXPECT_EQ(run(ours().info("c")).value().snapshots.size(), 1U);
}

TEST_F(VerbsInDoubt, ASnapshotIsNotTakenTwiceWhereItWasRemovedMeanwhile) {
  plan('N', Outcome::unknown_applied, [this] { return do_remove(theirs(), "a@1", {}); });
  EXPECT_TRUE(snap("a@1"));
  EXPECT_EQ(run(ours().info("a")).value().snapshots.size(), 0U);
}

TEST_F(VerbsInDoubt, ASnapshotOfThatNameFromSomebodyElseIsNotOurs) {
  plan('N', Outcome::unknown_not_applied, [this] { return do_snapshot(theirs(), "a@1"); });
  EXPECT_EQ(snap("a@1").error().code, Errc::exists);
}

TEST_F(VerbsInDoubt, AGroupFromSomebodyElseIsNotOurs) {
  plan('G', Outcome::unknown_not_applied, [this] { return do_create_group(theirs(), "g", {"b"}); });
  EXPECT_EQ(run(ours().create_group("g", {"a"})).error().code, Errc::exists);
  EXPECT_EQ(members(), std::vector<std::string>{"b"});
}

TEST_F(VerbsInDoubt, AGroupThatWasRemovedMeanwhileIsNotMadeAgain) {
  plan('G', Outcome::unknown_applied, [this] { return do_remove_group(theirs(), "g"); });
  EXPECT_TRUE(run(ours().create_group("g", {"a"})));
  EXPECT_EQ(run(ours().list_groups()).value().size(), 0U);
}

TEST_F(VerbsInDoubt, ARemovalOfAGroupDoesNotTakeAnothersForItsOwn) {
  ASSERT_TRUE(run(ours().create_group("g", {"a"})));
  plan('G', Outcome::as_it_is, [this] { return do_remove_group(theirs(), "g"); });
  EXPECT_EQ(run(ours().remove_group("g")).error().code, Errc::not_found);
}

TEST_F(VerbsInDoubt, ARestoreThatWasUndoneMeanwhileIsNotDoneAgain) {
  ASSERT_TRUE(run(ours().remove("a", {})));
  plan('V', Outcome::unknown_applied, [this] { return do_rename(theirs(), "a", "c"); });
  EXPECT_EQ(run(ours().restore("a", "")).error().code, Errc::not_found) << "not under that name";
  EXPECT_EQ(names(), (std::vector<std::string>{"b", "c"}));
}

TEST_F(VerbsInDoubt, ALabelIsNotSetAgainOverALaterOne) {
  plan('I', Outcome::unknown_applied, [this] { return do_label(theirs(), "a", "later"); });
  const auto changed = run(ours().change_labels("a", {.set = {{"k", "sooner"}}, .removed = {}}));
  ASSERT_TRUE(changed);
  EXPECT_EQ(changed->labels.at("k"), "later");
}

// import-diff.

class ImportInDoubt : public VerbsInDoubt {
 protected:
  // The import of a snapshot 2 into "a", with a block for it.
  ImportInDoubt() {
    EXPECT_TRUE(snap("a@1"));
    import_.volume = "a";
    import_.partial = "a.importing";
    import_.from = SnapshotRef{"1", run(ours().info("a")).value().snapshots.front().id};
    import_.to = SnapshotRef{"2", 77};
    import_.options.size_bytes = 16 << 20;
    import_.partial_id = run(ours().begin_import(import_)).value().id;
    write(ours(), "a.importing", 2, 2);
  }

  void write(Store& store, const std::string& name, uint64_t block, uint8_t fill) {
    const auto disk = run(store.open(loop_, name)).value();
    ASSERT_TRUE(run(disk->write(block * kBlock, std::vector<std::byte>(kBlock, std::byte{fill}), {})));
  }
  int content(const std::string& name, uint64_t block) {
    const auto disk = run(ours().open(loop_, name)).value();
    std::vector<std::byte> bytes(kBlock);
    const auto segments = run(disk->read(block * kBlock, bytes)).value();
    return segments.front().is_hole ? 0 : static_cast<int>(bytes.front());
  }
  static Task<void> pass(Executor& executor, Duration duration) { co_await sleep_for(executor, duration); }
  static Task<void> wake_and_write(kv::FaultPlan& faults, block::Export& disk, bool& is_written) {
    faults.set_unavailable(false);
    const std::vector<std::byte> data(kBlock, std::byte{9});
    is_written = (co_await disk.write(9 * kBlock, data, {})).has_value();
  }
  static Task<void> remove_and_begin(Store& store, DiffImport import) {
    EXPECT_TRUE((co_await store.remove(import.partial, {.now = true})).has_value());
    import.to = SnapshotRef{"3", 78};
    EXPECT_TRUE((co_await store.begin_import(std::move(import))).has_value());
  }

  DiffImport import_;
};

TEST_F(ImportInDoubt, WhatHasHappenedSucceeds) {
  plan('N', Outcome::unknown_applied);
  const auto finished = run(ours().finish_import(import_));
  ASSERT_TRUE(finished) << finished.error().what;
  EXPECT_EQ(finished->snapshots.size(), 2U);
  EXPECT_EQ(content("a", 2), 2);
}

TEST_F(ImportInDoubt, WhatHasNotHappenedIsNotTakenForDone) {
  plan('N', Outcome::unknown_not_applied,
       [this] { return do_remove(theirs(), "a.importing", {.now = true}); });
  EXPECT_EQ(run(ours().finish_import(import_)).error().code, Errc::not_found);
  EXPECT_EQ(run(ours().info("a")).value().snapshots.size(), 1U);
}

TEST_F(ImportInDoubt, AnotherImportIsNotTakenForThisOne) {
  plan('N', Outcome::unknown_not_applied, [this] { return remove_and_begin(theirs(), import_); });
  EXPECT_FALSE(run(ours().finish_import(import_)));
  EXPECT_EQ(run(ours().info("a")).value().snapshots.size(), 1U);
}

TEST_F(ImportInDoubt, ASilentHolderThatWakesUpLosesNoWriteThatItAnswers) {
  const auto disk = run(theirs().open(loop_, "a")).value();
  // No sign of life comes from there any more.
  theirs_.memory->faults().set_unavailable(true);
  bool is_written = false;
  plan('N', Outcome::as_it_is, [&] { return wake_and_write(theirs_.memory->faults(), *disk, is_written); });
  const auto finished = run(ours().finish_import(import_));
  ASSERT_TRUE(finished) << finished.error().what;
  EXPECT_FALSE(is_written) << "it was answered, and is in no volume and no snapshot";
  EXPECT_EQ(content("a", 2), 2);
}

TEST_F(ImportInDoubt, AHolderThatIsAliveKeepsItsVolume) {
  const auto disk = run(theirs().open(loop_, "a")).value();
  EXPECT_EQ(run(ours().finish_import(import_)).error().code, Errc::busy);
  EXPECT_EQ(content("a.importing", 2), 2) << "and what was gathered stays";
}

// The trash.

TEST_F(VerbsInDoubt, APurgeSparesWhatWasRestoredMeanwhile) {
  for (const Outcome outcome : {Outcome::as_it_is, Outcome::unknown_not_applied}) {
    ASSERT_TRUE(run(ours().remove("a", {})));
    plan('X', outcome, [this] { return do_restore(theirs(), "a", ""); });
    EXPECT_EQ(run(ours().purge("a")).error().code, Errc::not_found) << "it lives";
    EXPECT_EQ(names(), (std::vector<std::string>{"a", "b"}));
  }
  expect_clean();
}

TEST_F(VerbsInDoubt, APurgeSparesWhatWasRestoredAndRemovedAgainMeanwhile) {
  ASSERT_TRUE(run(ours().remove("a", {})));
  plan('X', Outcome::as_it_is, [this] { return restore_and_remove(theirs(), loop_, "a"); });
  EXPECT_EQ(run(ours().purge("a")).error().code, Errc::not_found);
  EXPECT_EQ(run(ours().list_trash()).value().size(), 1U);
}

TEST_F(VerbsInDoubt, APurgeOfAllGoesOnWhereOneWasRestored) {
  ASSERT_TRUE(run(ours().remove("a", {})));
  ASSERT_TRUE(run(ours().remove("b", {})));
  plan('X', Outcome::as_it_is, [this] { return do_restore(theirs(), "a", ""); });
  EXPECT_TRUE(run(ours().purge(std::nullopt)));
  EXPECT_EQ(names(), std::vector<std::string>{"a"});
  EXPECT_EQ(run(ours().list_trash()).value().size(), 0U);
}

// What is left.

TEST_F(VerbsInDoubt, ReceiptsGo) {
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(snap("a@" + std::to_string(i)));
  EXPECT_LE(rows_count('R'), limits::kMaxReceiptsKept);
  run(ours_.store->close());
  run(theirs_.store->close());
  EXPECT_EQ(rows_count('R'), 0U);
  ours_ = start();
  theirs_ = start();
}

}  // namespace
}  // namespace fdbnbd::volume
