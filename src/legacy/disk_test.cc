#include "legacy/disk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <sstream>

#include "async/sim_loop.h"
#include "kv/memory/memory_engine.h"
#include "legacy/directory.h"
#include "legacy/tuple.h"

// tests/fdb/older_disks.py has written tests/golden/older_disks_v1.txt with models of the older servers.

namespace fdbnbd::legacy {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kKiB = 1ULL << 10;
constexpr uint64_t kGiB = 1ULL << 30;
constexpr WallTime kNow{std::chrono::milliseconds(1'700'000'100'000)};

struct Extent {
  uint64_t offset_bytes;
  uint64_t length_bytes;
  uint32_t crc;
};

struct ExpectedDisk {
  std::string layout;
  std::string name;
  uint64_t size_bytes = 0;
  std::vector<Extent> extents;
};

std::string from_hex(const std::string& hex) {
  std::string bytes;
  if (hex == "-") return bytes;
  for (size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

class LegacyDisk : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ifstream file(FDBNBD_GOLDEN_DIR "/older_disks_v1.txt");
    ASSERT_TRUE(file);
    std::map<std::string, std::string> rows;
    for (std::string line; std::getline(file, line);) {
      std::istringstream words(line);
      std::string kind;
      words >> kind;
      if (kind == "row") {
        std::string key;
        std::string value;
        words >> key >> value;
        rows[from_hex(key)] = from_hex(value);
      } else if (kind == "disk") {
        ExpectedDisk disk;
        std::string name;
        words >> disk.layout >> disk.size_bytes >> name;
        disk.name = from_hex(name);
        disks_.push_back(disk);
      } else {
        Extent extent{};
        words >> extent.offset_bytes >> extent.length_bytes >> extent.crc;
        disks_.back().extents.push_back(extent);
      }
    }
    kv::MemoryOptions options;
    options.capabilities.range_reply_bytes = 5000;  // several ranges for each read
    engine_ = std::move(*kv::open_memory_engine(options));
    for (const auto& [key, value] : rows) set(key, value);
  }

  void set(std::string key, std::string value) {
    ASSERT_TRUE(loop_.run(commit(*engine_, loop_, std::move(key), std::move(value))));
  }
  static Task<Result<kv::Version>> commit(kv::Engine& engine, Executor& executor, std::string key,
                                          std::string value) {
    const auto transaction = engine.begin(executor);
    transaction->set(key, value);
    co_return co_await transaction->commit();
  }

  Result<std::unique_ptr<Disk>> open(const std::string& layout, const std::string& name) {
    if (layout == "py") return loop_.run(open_py_disk(*engine_, loop_, name));
    return loop_.run(open_array_disk(*engine_, loop_, name, kNow));
  }

  std::string prefix_of(std::vector<std::string> path) {
    return **loop_.run(find_directory(*engine_, loop_, std::move(path)));
  }

  // Everything on the disk, found and read in pieces of `piece_bytes`, is in the extents, and they are whole.
  void expect_contents(Disk& disk, const ExpectedDisk& expected, uint64_t piece_bytes) {
    std::vector<std::string> found(expected.extents.size());
    uint64_t offset_bytes = 0;
    while (true) {
      const auto next = loop_.run(disk.find_data(loop_, offset_bytes));
      ASSERT_TRUE(next) << next.error().what;
      ASSERT_GE(*next, offset_bytes);
      offset_bytes = *next;
      if (offset_bytes == disk.size_bytes()) break;
      std::vector<std::byte> piece(std::min(piece_bytes, disk.size_bytes() - offset_bytes), std::byte{0xaa});
      const auto any = loop_.run(disk.read(loop_, offset_bytes, piece));
      ASSERT_TRUE(any) << any.error().what;
      for (size_t i = 0; i < piece.size(); ++i) {
        const uint64_t at = offset_bytes + i;
        const auto extent = std::ranges::find_if(expected.extents, [at](const Extent& candidate) {
          return at >= candidate.offset_bytes && at - candidate.offset_bytes < candidate.length_bytes;
        });
        if (extent == expected.extents.end()) {
          ASSERT_EQ(piece[i], std::byte{0}) << at;
        } else {
          ASSERT_TRUE(*any);
          std::string& bytes = found[static_cast<size_t>(extent - expected.extents.begin())];
          ASSERT_EQ(bytes.size(), at - extent->offset_bytes);
          bytes += static_cast<char>(piece[i]);
        }
      }
      offset_bytes += piece.size();
    }
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i].size(), expected.extents[i].length_bytes) << expected.extents[i].offset_bytes;
      EXPECT_EQ(
          ::crc32(0, reinterpret_cast<const Bytef*>(found[i].data()), static_cast<uInt>(found[i].size())),
          expected.extents[i].crc)
          << expected.extents[i].offset_bytes;
    }
  }

  SimLoop loop_{1};
  std::unique_ptr<kv::MemoryEngine> engine_;
  std::vector<ExpectedDisk> disks_;
};

TEST_F(LegacyDisk, EveryDiskOfTheOlderServersIsReadAsTheyShowIt) {
  ASSERT_GE(disks_.size(), 9U);
  for (const ExpectedDisk& expected : disks_) {
    SCOPED_TRACE(expected.layout + " " + expected.name);
    auto disk = open(expected.layout, expected.name);
    ASSERT_TRUE(disk) << disk.error().what;
    EXPECT_EQ((*disk)->size_bytes(), expected.size_bytes);
    for (const uint64_t piece_bytes : {uint64_t{1000}, uint64_t{65536}})
      expect_contents(**disk, expected, piece_bytes);
  }
}

TEST_F(LegacyDisk, WhatIsNotStoredIsKnownWithoutReadingIt) {
  auto disk = open("py", "example");
  ASSERT_TRUE(disk);
  EXPECT_EQ(*loop_.run((*disk)->find_data(loop_, 5)), 5U);  // inside a block
  EXPECT_EQ(*loop_.run((*disk)->find_data(loop_, 3 * kKiB)), 255 * kKiB);
  EXPECT_EQ(*loop_.run((*disk)->find_data(loop_, 257 * kKiB + 1)), 65535 * kKiB);
  std::vector<std::byte> bytes(4096, std::byte{1});
  EXPECT_EQ(*loop_.run((*disk)->read(loop_, 100 * kKiB, bytes)), false);
  EXPECT_EQ(bytes, std::vector<std::byte>(4096));
  EXPECT_EQ(*loop_.run((*disk)->read(loop_, 254 * kKiB, bytes)), true);

  auto big = open("array", "big");
  ASSERT_TRUE(big);
  EXPECT_EQ(*loop_.run((*big)->find_data(loop_, 2 * kGiB + 4096)), 3 * kGiB);
  EXPECT_EQ(*loop_.run((*big)->find_data(loop_, 4 * kGiB + 64 * kKiB)), 5 * kGiB);
}

TEST_F(LegacyDisk, AReadAcrossTwoGibibytesHasBothSides) {
  auto disk = open("array", "big");
  ASSERT_TRUE(disk);
  std::vector<std::byte> whole(8192);
  ASSERT_TRUE(loop_.run((*disk)->read(loop_, 2 * kGiB - 4096, whole)));
  const auto big = std::ranges::find(disks_, "big", &ExpectedDisk::name);
  const auto extent = std::ranges::find(big->extents, 2 * kGiB - 2048, &Extent::offset_bytes);
  EXPECT_EQ(::crc32(0, reinterpret_cast<const Bytef*>(whole.data()) + 2048, 3072), extent->crc);
}

TEST_F(LegacyDisk, TheUserIsWarnedOfDisksThatTheJavaServerHasMixedUp) {
  EXPECT_THAT((*open("array", "big"))->warning(), AllOf(HasSubstr("big"), HasSubstr("4 GiB")));
  EXPECT_EQ((*open("array", "volume"))->warning(), "");
  EXPECT_EQ((*open("py", "example"))->warning(), "");
}

TEST_F(LegacyDisk, AMissingOneIsNotFoundAndTheOthersAreNamed) {
  const auto py = open("py", "exampl");
  ASSERT_FALSE(py);
  EXPECT_EQ(py.error().code, Errc::not_found);
  EXPECT_THAT(py.error().what, AllOf(HasSubstr("exampl"), HasSubstr("there are empty, example")));
  const auto array = open("array", "nothing");
  ASSERT_FALSE(array);
  EXPECT_EQ(array.error().code, Errc::not_found);
  EXPECT_THAT(array.error().what, HasSubstr("there are big, empty, snapshot, snapshot of it, volume"));
}

TEST_F(LegacyDisk, ADamagedBlockIsNamed) {
  std::string key;
  for (const char* string : {"dev", "example", "blocks"}) append_bytes(key, string);
  const std::string prefix = key;
  append_integer(key, 255);
  std::vector<std::byte> bytes(64 * kKiB);
  for (const std::string& value :
       {std::string("no zlib"), std::string(), std::string("\x78\x9c\x03\0\0\0\0\x01", 8)}) {
    set(key, value);
    auto disk = open("py", "example");
    const auto read = loop_.run((*disk)->read(loop_, 224 * kKiB, bytes));
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code, Errc::corruption);
    EXPECT_THAT(read.error().what, AllOf(HasSubstr("example"), HasSubstr("block 255 ")));
  }
  set(prefix + "\x15\x05" + "more", "");
  EXPECT_EQ(loop_.run((*open("py", "example"))->read(loop_, 0, bytes)).error().code, Errc::corruption);

  std::string version = prefix_of({"com.sampullara.fdb.array", "volume", "data"});
  append_integer(version, 3);
  append_integer(version, 1'700'000'000'000);
  set(version, "short");
  const auto read = loop_.run((*open("array", "volume"))->read(loop_, 0, bytes));
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, Errc::corruption);
  EXPECT_THAT(read.error().what, AllOf(HasSubstr("volume"), HasSubstr("block 3 ")));
}

TEST_F(LegacyDisk, AVolumeThatAServerHoldsIsBusy) {
  std::string lease = prefix_of({"com.sampullara.fdb.array", "volume", "metadata"});
  append_bytes(lease, "lease");
  const auto lease_at = [](std::chrono::milliseconds age) {
    const int64_t at_ms = (kNow.time_since_epoch() - age) / std::chrono::milliseconds(1);
    std::string value;
    for (int shift = 56; shift >= 0; shift -= 8) value += static_cast<char>(at_ms >> shift);
    return value;
  };
  set(lease, lease_at(std::chrono::seconds(59)));
  EXPECT_EQ(open("array", "volume").error().code, Errc::busy);
  EXPECT_TRUE(open("array", "snapshot"));  // what its parent's server writes now does not reach it
  set(lease, lease_at(std::chrono::seconds(-5)));
  EXPECT_EQ(open("array", "volume").error().code, Errc::busy);
  set(lease, lease_at(std::chrono::seconds(60)));
  EXPECT_TRUE(open("array", "volume"));
}

TEST_F(LegacyDisk, SizesThatMakeNoSenseAreRefused) {
  std::string block_size;
  for (const char* string : {"dev", "example", "meta", "block_size"}) append_bytes(block_size, string);
  for (const auto& [value, code] : std::map<std::string, Errc>{{"0", Errc::not_supported},
                                                               {"1048577", Errc::not_supported},
                                                               {"-1", Errc::corruption},
                                                               {"many", Errc::corruption}}) {
    set(block_size, value);
    EXPECT_EQ(open("py", "example").error().code, code) << value;
  }
  const std::string metadata = prefix_of({"com.sampullara.fdb.array", "big", "metadata"});
  std::string key = metadata;
  append_text(key, "block_size");
  set(key, std::string("\0\0\x03\xe8", 4));  // 1000: no power of two, and beyond 2 GiB
  EXPECT_EQ(open("array", "big").error().code, Errc::not_supported);
  set(key, "\1");
  EXPECT_EQ(open("array", "big").error().code, Errc::corruption);
}

TEST_F(LegacyDisk, SnapshotsOfOneAnotherEndWithAnError) {
  std::string parent = prefix_of({"com.sampullara.fdb.array", "volume", "metadata"});
  std::string time = parent;
  append_text(parent, "parent");
  append_text(time, "parent_timestamp");
  std::string path;
  append_text(path, "com.sampullara.fdb.array");
  append_text(path, "snapshot");
  set(parent, path);
  set(time, "\x15\x05");
  EXPECT_EQ(open("array", "volume").error().code, Errc::not_supported);
  std::string gone;
  append_text(gone, "gone");
  set(parent, gone);
  EXPECT_EQ(open("array", "volume").error().code, Errc::corruption);
}

TEST_F(LegacyDisk, FailuresOfTheStoreReachTheCaller) {
  auto disk = open("array", "volume");
  ASSERT_TRUE(disk);
  engine_->crash({});
  std::vector<std::byte> bytes(4096);
  EXPECT_EQ(loop_.run((*disk)->read(loop_, 0, bytes)).error().code, Errc::io);
  EXPECT_EQ(loop_.run((*disk)->find_data(loop_, 0)).error().code, Errc::io);
}

}  // namespace
}  // namespace fdbnbd::legacy
