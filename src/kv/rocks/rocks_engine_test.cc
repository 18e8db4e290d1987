#include "kv/rocks/rocks_engine.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "kv/rocks/rocks_testing.h"

namespace fdbnbd::kv {
namespace {

namespace fs = std::filesystem;

// An engine in a directory of its own.
class TemporaryEngine final : public Engine {
 public:
  TemporaryEngine() : engine_(open_or_fail({.path = directory_.store()})) {}
  std::string_view name() const override { return engine_->name(); }
  Capabilities capabilities() const override { return engine_->capabilities(); }
  EngineStats stats() const override { return engine_->stats(); }
  std::unique_ptr<Transaction> begin(Executor& executor) override { return engine_->begin(executor); }
  Task<Result<void>> read(Executor& executor, const BulkRead& request, RowSink& sink) override {
    return engine_->read(executor, request, sink);
  }
  Task<Result<void>> sync(Executor& executor) override { return engine_->sync(executor); }

 private:
  TempDirectory directory_;
  std::unique_ptr<Engine> engine_;
};

std::unique_ptr<Engine> open_for_conformance(uint64_t) {
  return std::make_unique<TemporaryEngine>();
}

INSTANTIATE_TEST_SUITE_P(Rocks, EngineConformance,
                         testing::Values(ConformanceSubject{"RocksDB", open_for_conformance, false}),
                         conformance_subject_name);

void expect_failure(const RocksOptions& options, Errc code) {
  const auto engine = open_rocks_engine(options);
  ASSERT_FALSE(engine);
  EXPECT_EQ(engine.error().code, code) << engine.error().what;
  EXPECT_NE(engine.error().what.find(options.path), std::string::npos) << engine.error().what;
  EXPECT_EQ(engine.error().what.find('\n'), std::string::npos) << engine.error().what;
}

void write_file(const fs::path& path, std::string_view content) {
  std::ofstream(path, std::ios::binary) << content;
}

TEST(RocksOpen, FindsWhatWasStoredBefore) {
  const TempDirectory directory;
  RunLoop loop;
  const std::vector<KeyValue> rows = {{"I1", "record"}, {"D1", std::string(5000, 'x')}};
  for (int round = 0; round < 3; ++round) {
    const auto engine = open_or_fail({.path = directory.store()});
    for (const KeyValue& row : rows) {
      const auto found = loop.run(get_row(loop, *engine, row.key));
      ASSERT_TRUE(found);
      EXPECT_EQ(*found, round == 0 ? std::nullopt : std::optional(row.value));
    }
    ASSERT_TRUE(loop.run(put_rows(loop, *engine, rows)));
    EXPECT_GE(engine->stats().stored_bytes, 5000u);
    EXPECT_EQ(engine->stats().memory_bound_bytes, limits::kDefaultRocksMemoryBytes);
  }
}

TEST(RocksOpen, RefusesASecondOpener) {
  const TempDirectory directory;
  const auto engine = open_or_fail({.path = directory.store()});
  expect_failure({.path = directory.store()}, Errc::busy);
}

TEST(RocksOpen, SaysWhatIsMissingOrForbidden) {
  const TempDirectory directory;
  expect_failure({.path = directory.path() / "no" / "store"}, Errc::not_found);
  expect_failure({.path = directory.store(), .create_if_missing = false}, Errc::not_found);
  fs::create_directory(directory.store());
  expect_failure({.path = directory.store(), .create_if_missing = false}, Errc::not_found);
  write_file(directory.path() / "file", "no directory");
  expect_failure({.path = directory.path() / "file"}, Errc::invalid);
  expect_failure({.path = directory.store(), .memory_bytes = 1}, Errc::invalid);
}

// Opens a store as a user without rights to it, in a process of its own where this one is root.
bool opens_with(const std::string& path, Errc expected) {
  const pid_t child = fork();
  if (child == 0) {
    constexpr uid_t kNobody = 65534;
    if (geteuid() == 0 && setuid(kNobody) != 0) _exit(2);
    const auto engine = open_rocks_engine({.path = path});
    _exit(!engine && engine.error().code == expected ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(RocksOpen, NeedsADirectoryItMayWrite) {
  const TempDirectory directory;
  ASSERT_EQ(chmod(directory.path().c_str(), 0755), 0);
  fs::create_directory(directory.store());
  ASSERT_EQ(chmod(directory.store().c_str(), 0555), 0);
  EXPECT_TRUE(opens_with(directory.store(), Errc::permission));
  EXPECT_TRUE(opens_with(directory.store() + "/store", Errc::permission));
  ASSERT_EQ(chmod(directory.store().c_str(), 0700), 0);
}

TEST(RocksOpen, LeavesForeignFilesAlone) {
  const TempDirectory directory;
  fs::create_directory(directory.store());
  write_file(directory.path() / "store" / "holiday.jpg", "picture");
  expect_failure({.path = directory.store()}, Errc::invalid);
  EXPECT_TRUE(fs::exists(directory.path() / "store" / "holiday.jpg"));
  EXPECT_FALSE(fs::exists(directory.path() / "store" / "CURRENT"));
}

void make_store(const std::string& path) {
  RunLoop loop;
  const auto engine = open_or_fail({.path = path});
  ASSERT_TRUE(loop.run(put_rows(loop, *engine, {{"I1", "record"}, {"D1", std::string(5000, 'x')}})));
}

TEST(RocksOpen, NeverStartsAnewOverWhatIsLeftOfAStore) {
  const TempDirectory directory;
  make_store(directory.store());
  fs::remove(directory.path() / "store" / "CURRENT");
  expect_failure({.path = directory.store()}, Errc::corruption);
}

TEST(RocksOpen, ReportsADamagedManifest) {
  const TempDirectory directory;
  make_store(directory.store());
  for (const auto& entry : fs::directory_iterator(directory.store()))
    if (entry.path().filename().string().starts_with("MANIFEST")) write_file(entry.path(), "garbage");
  expect_failure({.path = directory.store()}, Errc::corruption);
}

TEST(RocksOpen, ReportsAMissingDataFile) {
  const TempDirectory directory;
  make_store(directory.store());
  // Opened again, so that the log is written out to files.
  open_or_fail({.path = directory.store()});
  std::vector<fs::path> data;
  for (const auto& entry : fs::directory_iterator(directory.store()))
    if (entry.path().extension() == ".sst") data.push_back(entry.path());
  ASSERT_FALSE(data.empty());
  fs::remove(data.front());
  expect_failure({.path = directory.store()}, Errc::corruption);
}

}  // namespace
}  // namespace fdbnbd::kv
