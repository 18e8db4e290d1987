#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "base/random.h"
#include "kv/rocks/rocks_testing.h"

// Damaged files: what can still be read is read, and what cannot is named.

namespace fdbnbd::kv {
namespace {

namespace fs = std::filesystem;

constexpr size_t kRows = 40;

std::string row_key(size_t number) {
  char digits[16];
  std::snprintf(digits, sizeof digits, "%04zu", number);
  return std::string("D") + digits;
}

// Values that can be found in a file.
std::string row_value(size_t number, size_t bytes) {
  Random random(number + 1);
  std::string value(bytes, '\0');
  for (char& byte : value) byte = static_cast<char>(random.next());
  return value;
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream content;
  content << in.rdbuf();
  return content.str();
}

// A store whose rows are in data files, none in the log.
void make_store(const std::string& path, size_t value_bytes) {
  RunLoop loop;
  {
    const auto engine = open_or_fail({.path = path});
    std::vector<KeyValue> rows;
    for (size_t i = 0; i < kRows; ++i) rows.push_back({row_key(i), row_value(i, value_bytes)});
    ASSERT_TRUE(loop.run(put_rows(loop, *engine, rows)));
  }
  open_or_fail({.path = path});
}

// Where the value of a row is stored: file and offset.
std::pair<fs::path, size_t> find_value(const std::string& store, const std::string& value) {
  for (const auto& entry : fs::directory_iterator(store)) {
    if (entry.path().extension() != ".blob" && entry.path().extension() != ".sst") continue;
    const size_t offset = read_file(entry.path()).find(value);
    if (offset != std::string::npos) return {entry.path(), offset};
  }
  ADD_FAILURE() << "the value is in no data file";
  return {};
}

void flip(const fs::path& path, size_t offset) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekg(static_cast<std::streamoff>(offset));
  const char byte = static_cast<char>(file.get() ^ 0x10);
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(byte);
}

class Rows final : public RowSink {
 public:
  void on_range_row(size_t, std::string_view key, std::string_view value) override {
    EXPECT_TRUE(delivered.emplace(key, value).second) << key << " was delivered twice";
  }
  void on_point_row(size_t index, std::string_view value) override { points[index] = value; }
  void on_unreadable_range_row(size_t, std::string_view key) override { unreadable.emplace(key); }
  void on_unreadable_point(size_t index) override { unreadable_points.insert(index); }

  std::map<std::string, std::string> delivered;
  std::set<std::string> unreadable;
  std::map<size_t, std::string> points;
  std::set<size_t> unreadable_points;
};

// Reads every row as a point and in a range. `damaged` must be named, or come with another value for its
// reader's checksum to find; all others must be as they were stored.
void expect_damage(Engine& engine, const std::set<size_t>& damaged, size_t value_bytes) {
  RunLoop loop;
  for (const bool background : {false, true}) {
    std::vector<std::string> keys;
    for (size_t i = 0; i < kRows; ++i) keys.push_back(row_key(i));
    BulkRead request;
    request.points.assign(keys.begin(), keys.end());
    request.ranges = {{"D", "E"}};
    request.background = background;
    Rows rows;
    const auto read = loop.run(engine.read(loop, request, rows));
    ASSERT_TRUE(read) << read.error().what;
    for (size_t i = 0; i < kRows; ++i) {
      const std::string value = row_value(i, value_bytes);
      if (damaged.contains(i)) {
        EXPECT_TRUE(rows.unreadable.contains(keys[i]) ||
                    (rows.delivered.contains(keys[i]) && rows.delivered[keys[i]] != value))
            << "row " << i << " in a range";
        EXPECT_TRUE(rows.unreadable_points.contains(i) ||
                    (rows.points.contains(i) && rows.points[i] != value))
            << "row " << i << " as a point";
      } else {
        EXPECT_EQ(rows.delivered[keys[i]], value) << "row " << i << " in a range";
        EXPECT_EQ(rows.points[i], value) << "row " << i << " as a point";
      }
    }
  }
}

TEST(RocksDamage, AFlippedByteOfAValueIsThatRowsAlone) {
  for (const size_t value_bytes : {12, 100, 4106, 65546}) {
    SCOPED_TRACE(value_bytes);
    const TempDirectory directory;
    make_store(directory.store(), value_bytes);
    // First, middle and last bytes; first, neighbouring and last rows.
    std::set<size_t> damaged;
    for (const size_t row : {size_t{0}, size_t{7}, size_t{8}, size_t{20}, kRows - 1}) {
      const auto [path, offset] = find_value(directory.store(), row_value(row, value_bytes));
      ASSERT_FALSE(path.empty());
      flip(path, offset + row * (value_bytes - 1) / (kRows - 1));
      damaged.insert(row);
      const auto engine = open_or_fail({.path = directory.store()});
      ASSERT_NE(engine, nullptr);
      expect_damage(*engine, damaged, value_bytes);
    }
  }
}

TEST(RocksDamage, ARowThatCannotBeReadCanBeReplacedAndCleared) {
  constexpr size_t kBytes = 4106;
  const TempDirectory directory;
  make_store(directory.store(), kBytes);
  for (const size_t row : {5, 6, 7}) {
    const auto [path, offset] = find_value(directory.store(), row_value(row, kBytes));
    flip(path, offset);
  }
  RunLoop loop;
  const auto engine = open_or_fail({.path = directory.store()});
  const auto found = loop.run(get_row(loop, *engine, row_key(5)));
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code, Errc::corruption);
  ASSERT_TRUE(loop.run(put_rows(loop, *engine, {{row_key(5), row_value(5, kBytes)}})));
  const auto clearing = engine->begin(loop);
  clearing->clear_range({row_key(6), row_key(8)});
  ASSERT_TRUE(loop.run(clearing->commit()));
  ASSERT_TRUE(loop.run(
      put_rows(loop, *engine, {{row_key(6), row_value(6, kBytes)}, {row_key(7), row_value(7, kBytes)}})));
  expect_damage(*engine, {}, kBytes);
}

TEST(RocksDamage, WritesGoOnWhenCompactionsMeetIt) {
  constexpr size_t kBytes = 4106;
  const TempDirectory directory;
  make_store(directory.store(), kBytes);
  const auto [path, offset] = find_value(directory.store(), row_value(3, kBytes));
  flip(path, offset + 1);
  RunLoop loop;
  const auto engine = open_or_fail({.path = directory.store(), .memory_bytes = limits::kMinRocksMemoryBytes});
  // Everything but the damaged row is overwritten, again and again, so that compactions want to move it.
  std::string value(64 * 1024, 'v');
  for (uint64_t round = 0; round < 1500; ++round) {
    std::vector<KeyValue> rows;
    Random random(round);
    for (char& byte : value) byte = static_cast<char>(byte + 1);
    const std::string other = "D0003" + std::to_string(round % 97);
    rows.push_back({other, value});
    const auto committed = loop.run(put_rows(loop, *engine, rows));
    ASSERT_TRUE(committed) << committed.error().what;
  }
  std::vector<std::string> keys;
  for (size_t i = 0; i < kRows; ++i) keys.push_back(row_key(i));
  BulkRead request;
  request.points.assign(keys.begin(), keys.end());
  Rows rows;
  ASSERT_TRUE(loop.run(engine->read(loop, request, rows)));
  EXPECT_EQ(rows.unreadable_points, std::set<size_t>{3});
  EXPECT_EQ(rows.points.size(), kRows - 1);
}

// Any byte of any data file: the store never dies of it, and never delivers a row that its checksum
// would not catch, under another key, or an old value in place of a newer one.
TEST(RocksDamage, NoFlippedByteOfAnIndexOrKeyDeliversAWrongRow) {
  constexpr size_t kBytes = 300;
  const TempDirectory directory;
  make_store(directory.store(), kBytes);
  std::vector<fs::path> tables;
  for (const auto& entry : fs::directory_iterator(directory.store()))
    if (entry.path().extension() == ".sst") tables.push_back(entry.path());
  ASSERT_FALSE(tables.empty());
  const std::string original = read_file(tables.front());
  Random random(1);
  for (int round = 0; round < 25; ++round) {
    const size_t offset = random.below(original.size());
    SCOPED_TRACE("byte " + std::to_string(offset) + " of " + std::to_string(original.size()));
    flip(tables.front(), offset);
    const auto opened = open_rocks_engine({.path = directory.store()});
    if (opened) {
      RunLoop loop;
      BulkRead request;
      request.ranges = {{"D", "E"}};
      Rows rows;
      const auto read = loop.run((*opened)->read(loop, request, rows));
      if (!read) EXPECT_EQ(read.error().code, Errc::corruption) << read.error().what;
      for (const auto& [key, value] : rows.delivered) {
        const size_t number = static_cast<size_t>(std::stoul(key.substr(1)));
        EXPECT_EQ(key, row_key(number));
        EXPECT_EQ(value, row_value(number, kBytes));
      }
    } else {
      EXPECT_EQ(opened.error().code, Errc::corruption) << opened.error().what;
    }
    std::ofstream(tables.front(), std::ios::binary) << original;
  }
}

}  // namespace
}  // namespace fdbnbd::kv
