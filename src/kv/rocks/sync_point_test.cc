#include "kv/rocks/sync_point.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "kv/rocks/rocks_engine.h"
#include "kv/rocks/rocks_testing.h"

namespace fdbnbd::kv {
namespace {

namespace fs = std::filesystem;

// A store of which everything was synced and nothing written out of the log: as a process leaves it that is
// killed.
class SyncPointTest : public testing::Test {
 protected:
  SyncPointTest() {
    const auto engine = open_or_fail({.path = directory_.store()});
    for (int i = 0; i < kRowsCount; ++i)
      EXPECT_TRUE(
          loop_.run(put_rows(loop_, *engine, {{"D" + std::to_string(1000 + i), std::string(10'000, 'x')}})));
    EXPECT_TRUE(loop_.run(engine->sync(loop_)));
    // Not flushed by anybody.
    EXPECT_TRUE(loop_.run(put_rows(loop_, *engine, {{"Dlast", std::string(10'000, 'y')}})));
    fs::copy(directory_.store(), killed_);
    for (const auto& entry : fs::directory_iterator(killed_))
      if (entry.path().extension() == ".log" && fs::file_size(entry.path()) > 0) log_ = entry.path();
  }

  void flip_byte(uint64_t at) {
    std::fstream file(log_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at));
    const auto byte = static_cast<char>(file.get() ^ 1);
    file.seekp(static_cast<std::streamoff>(at));
    file.put(byte);
  }

  static constexpr int kRowsCount = 20;
  RunLoop loop_;
  TempDirectory directory_;
  const std::string killed_ = (directory_.path() / "killed").string();
  fs::path log_;
};

TEST_F(SyncPointTest, AnUndamagedLogIsTaken) {
  const auto engine = open_or_fail({.path = killed_});
  ASSERT_NE(engine, nullptr);
  EXPECT_TRUE(loop_.run(get_row(loop_, *engine, "D1019")).value().has_value());
  EXPECT_TRUE(loop_.run(get_row(loop_, *engine, "Dlast")).value().has_value());
}

TEST_F(SyncPointTest, DamageInASyncedPartIsCorruptionAndNotSilence) {
  for (const uint64_t at : {uint64_t{5}, uint64_t{60'000}, uint64_t{180'000}}) {
    flip_byte(at);
    const auto engine = open_rocks_engine({.path = killed_});
    ASSERT_FALSE(engine) << at;
    EXPECT_EQ(engine.error().code, Errc::corruption);
    EXPECT_NE(engine.error().what.find(log_.filename().string()), std::string::npos) << engine.error().what;
    flip_byte(at);
  }
  EXPECT_TRUE(open_rocks_engine({.path = killed_}));
}

TEST_F(SyncPointTest, ALogThatWasCutInASyncedPartIsCorruption) {
  fs::resize_file(log_, 100'000);
  EXPECT_EQ(open_rocks_engine({.path = killed_}).error().code, Errc::corruption);
}

TEST_F(SyncPointTest, ATornEndThatNobodyFlushedIsTaken) {
  fs::resize_file(log_, fs::file_size(log_) - 100);
  const auto engine = open_or_fail({.path = killed_});
  ASSERT_NE(engine, nullptr);
  EXPECT_TRUE(loop_.run(get_row(loop_, *engine, "D1019")).value().has_value());
  EXPECT_FALSE(loop_.run(get_row(loop_, *engine, "Dlast")).value().has_value());
}

TEST_F(SyncPointTest, WithoutTheFileTheLogIsTakenUpToTheDamage) {
  flip_byte(60'000);
  fs::remove(fs::path(killed_) / "SYNC_POINT");
  const auto engine = open_or_fail({.path = killed_});
  ASSERT_NE(engine, nullptr);
  EXPECT_TRUE(loop_.run(get_row(loop_, *engine, "D1000")).value().has_value());
  EXPECT_FALSE(loop_.run(get_row(loop_, *engine, "D1019")).value().has_value());
}

}  // namespace
}  // namespace fdbnbd::kv
