#include "kv/rocks/rocks_reader.h"

#include <rocksdb/metadata.h>
#include <rocksdb/sst_file_reader.h>

#include <algorithm>
#include <array>
#include <memory>
#include <set>
#include <vector>

#include "base/assert.h"
#include "base/limits.h"
#include "kv/mutations.h"
#include "kv/rocks/rocks_errors.h"

namespace fdbnbd::kv {

namespace {

// Points that are read together: enough for RocksDB to profit, few enough to bound their values' memory.
constexpr size_t kPointsPerTurn = 64;
// Points that occupy a reading thread at a time, before others get their turn.
constexpr size_t kPointsPerPart = 256;
// Bytes that background work reads with one iterator, which keeps files and memtables alive meanwhile.
constexpr uint64_t kBackgroundBytesPerTurn = 8 * limits::kMiB;
// What get_range() returns at most at a time.
constexpr uint64_t kRangeResultBytes = 4 * limits::kMiB;
constexpr std::string_view kReading = "reading the store";

rocksdb::Slice slice(std::string_view text) {
  return {text.data(), text.size()};
}

std::string_view view(const rocksdb::Slice& bytes) {
  return {bytes.data(), bytes.size()};
}

// Whether this row cannot be read, while others may well be: damage, or a bad place of the disk.
bool is_row_damage(const rocksdb::Status& status) {
  return status.IsCorruption() || status.IsIOError();
}

// Rows of one range in one family, past those that cannot be read.
class RangeScan {
 public:
  RangeScan(const RocksStore& store, const RangePart& part, size_t range_index, bool background,
            RowSink& sink)
      : store_(store),
        family_(store.family(part.family)),
        end_(part.end),
        end_slice_(end_),
        range_index_(range_index),
        background_(background),
        sink_(sink),
        next_(part.begin) {}

  Result<void> run() {
    while (!done_) {
      const rocksdb::Status status = scan();
      if (status.ok()) continue;
      if (!is_row_damage(status)) return tl::unexpected(error_of(status, kReading));
      RETURN_IF_ERROR(pass_damage());
    }
    return {};
  }

 private:
  rocksdb::ReadOptions options() const {
    rocksdb::ReadOptions options;
    options.iterate_upper_bound = &end_slice_;
    options.fill_cache = !background_;
    return options;
  }

  // Delivers rows from next_ on, and moves next_ behind them: to the end, or the first failure, or for a
  // turn.
  rocksdb::Status scan() {
    const std::unique_ptr<rocksdb::Iterator> row(store_.db().NewIterator(options(), family_));
    uint64_t bytes = 0;
    std::string last_key;
    for (row->Seek(next_); row->Valid(); row->Next()) {
      sink_.on_range_row(range_index_, view(row->key()), view(row->value()));
      last_key.assign(row->key().data(), row->key().size());
      bytes += row->value().size();
      if (background_ && bytes >= kBackgroundBytesPerTurn) break;
    }
    if (!last_key.empty()) next_ = key_after(last_key);
    if (!row->Valid()) done_ = row->status().ok();
    return row->status();
  }

  // Whether what holds the keys from next_ on is undamaged, so that only values can be damaged.
  rocksdb::Status verify_tables() {
    rocksdb::ColumnFamilyMetaData family;
    store_.db().GetColumnFamilyMetaData(family_, &family);
    for (const auto& level : family.levels) {
      for (const auto& table : level.files) {
        if (table.largestkey < next_ || table.smallestkey >= end_ || verified_tables_.contains(table.name))
          continue;
        rocksdb::SstFileReader reader{rocksdb::Options()};
        rocksdb::Status status = reader.Open(table.db_path + table.name);
        if (status.ok()) status = reader.VerifyChecksum();
        if (!status.ok()) return status;
        verified_tables_.insert(table.name);
      }
    }
    return rocksdb::Status::OK();
  }

  // The first row from next_ on could not be read. An iterator that verifies nothing tells its key; the row
  // itself is then asked for alone, verified, so that nothing damaged is delivered from here. Of a damaged
  // table no key is told: RocksDB ends the process when such an iterator meets what makes no sense.
  Result<void> pass_damage() {
    if (const rocksdb::Status tables = verify_tables(); !tables.ok())
      return fail(Errc::corruption, "reading the store: a table is damaged: " + tables.ToString());
    rocksdb::ReadOptions unverified = options();
    unverified.verify_checksums = false;
    unverified.fill_cache = false;
    const std::unique_ptr<rocksdb::Iterator> row(store_.db().NewIterator(unverified, family_));
    row->Seek(next_);
    if (!row->Valid()) {
      // Nothing behind the damage can be found. What is missing is missed by the caller.
      if (!row->status().ok()) return tl::unexpected(error_of(row->status(), kReading));
      done_ = true;
      return {};
    }
    const std::string key = row->key().ToString();
    // Unverified keys may be anything.
    if (key < next_) return fail(Errc::corruption, "reading the store: its keys are out of order");
    next_ = key_after(key);
    rocksdb::PinnableSlice value;
    const rocksdb::Status status = store_.db().Get(rocksdb::ReadOptions(), family_, key, &value);
    if (status.ok()) {
      sink_.on_range_row(range_index_, key, view(value));
    } else if (is_row_damage(status)) {
      sink_.on_unreadable_range_row(range_index_, key);
    } else if (!status.IsNotFound()) {
      return tl::unexpected(error_of(status, kReading));
    }
    return {};
  }

  const RocksStore& store_;
  rocksdb::ColumnFamilyHandle* const family_;
  const std::string end_;
  const rocksdb::Slice end_slice_;
  const size_t range_index_;
  const bool background_;
  RowSink& sink_;
  std::string next_;
  bool done_ = false;
  std::set<std::string> verified_tables_;  // names of files
};

// The points `indices` of `request`, all of one family.
Result<void> read_points(const RocksStore& store, const BulkRead& request, std::span<const size_t> indices,
                         Family family, RowSink& sink) {
  std::array<rocksdb::Slice, kPointsPerTurn> keys;
  std::array<rocksdb::PinnableSlice, kPointsPerTurn> values;
  std::array<rocksdb::Status, kPointsPerTurn> statuses;
  rocksdb::ReadOptions options;
  options.fill_cache = !request.background;
  while (!indices.empty()) {
    const size_t count = std::min(indices.size(), kPointsPerTurn);
    for (size_t i = 0; i < count; ++i) keys[i] = slice(request.points[indices[i]]);
    if (count == 1) {
      statuses[0] = store.db().Get(options, store.family(family), keys[0], &values[0]);
    } else {
      const bool sorted = std::is_sorted(request.points.begin(), request.points.end());
      store.db().MultiGet(options, store.family(family), count, keys.data(), values.data(), statuses.data(),
                          sorted);
    }
    for (size_t i = 0; i < count; ++i) {
      const size_t index = indices[i];
      if (statuses[i].ok()) {
        sink.on_point_row(index, view(values[i]));
      } else if (is_row_damage(statuses[i])) {
        sink.on_unreadable_point(index);
      } else if (!statuses[i].IsNotFound()) {
        return tl::unexpected(error_of(statuses[i], kReading));
      }
      values[i].Reset();
    }
    indices = indices.subspan(count);
  }
  return {};
}

}  // namespace

Result<std::optional<std::string>> read_row(const RocksStore& store, const rocksdb::Snapshot* snapshot,
                                            std::string_view key) {
  rocksdb::ReadOptions options;
  options.snapshot = snapshot;
  std::string value;
  const rocksdb::Status status = store.db().Get(options, store.family_of(key), slice(key), &value);
  if (status.ok()) return value;
  if (status.IsNotFound()) return std::nullopt;
  return tl::unexpected(error_of(status, kReading));
}

Result<RangeResult> read_rows(const RocksStore& store, const rocksdb::Snapshot* snapshot, KeyRange range,
                              RangeOptions options) {
  ASSERT(options.rows_limit > 0);
  RangeResult result;
  uint64_t bytes = 0;
  std::vector<RangePart> parts = store.router().split(range);
  if (options.reverse) std::reverse(parts.begin(), parts.end());
  for (const RangePart& part : parts) {
    const rocksdb::Slice begin = part.begin;
    const rocksdb::Slice end = part.end;
    rocksdb::ReadOptions read;
    read.snapshot = snapshot;
    read.iterate_lower_bound = &begin;
    read.iterate_upper_bound = &end;
    const std::unique_ptr<rocksdb::Iterator> row(store.db().NewIterator(read, store.family(part.family)));
    // The upper bound is exclusive for both directions.
    if (options.reverse) {
      row->SeekToLast();
    } else {
      row->SeekToFirst();
    }
    while (row->Valid()) {
      if (result.rows.size() == options.rows_limit || bytes >= kRangeResultBytes) {
        result.more = true;
        return result;
      }
      result.rows.push_back({row->key().ToString(), row->value().ToString()});
      bytes += row->key().size() + row->value().size();
      if (options.reverse) {
        row->Prev();
      } else {
        row->Next();
      }
    }
    if (!row->status().ok()) return tl::unexpected(error_of(row->status(), kReading));
  }
  return result;
}

Result<void> read_bulk(const RocksStore& store, const BulkRead& request, BulkPart part, RowSink& sink) {
  std::array<std::vector<size_t>, kFamiliesCount> points;
  for (size_t i = part.first_point; i < part.first_point + part.points_count; ++i)
    points[static_cast<size_t>(store.router().family_of(request.points[i]))].push_back(i);
  for (const Family family : {Family::meta, Family::bulk})
    RETURN_IF_ERROR(read_points(store, request, points[static_cast<size_t>(family)], family, sink));
  for (size_t i = part.first_range; i < part.first_range + part.ranges_count; ++i)
    for (const RangePart& range : store.router().split(request.ranges[i]))
      RETURN_IF_ERROR(RangeScan(store, range, i, request.background, sink).run());
  return {};
}

BulkPart next_part(const BulkRead& request, BulkPart after) {
  BulkPart part{.first_point = after.first_point + after.points_count,
                .first_range = after.first_range + after.ranges_count};
  part.points_count = std::min(request.points.size() - part.first_point, kPointsPerPart);
  if (part.points_count < kPointsPerPart && part.first_range < request.ranges.size()) part.ranges_count = 1;
  return part;
}

}  // namespace fdbnbd::kv
