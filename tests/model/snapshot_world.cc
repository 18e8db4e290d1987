#include "snapshot_world.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/checked_math.h"
#include "base/limits.h"
#include "kv/retry.h"
#include "volume/live_exports.h"

namespace fdbnbd::model {

namespace {

constexpr size_t kMaxSnapshots = 5;  // of one volume

bool is_zero(const uint8_t* bytes, size_t length) {
  return std::all_of(bytes, bytes + length, [](uint8_t byte) { return byte == 0; });
}

}  // namespace

SnapshotWorld::SnapshotWorld(Executor& executor, EngineSource source, Parameters parameters)
    : executor_(executor), source_(std::move(source)), parameters_(parameters), random_(parameters.seed) {}

void SnapshotWorld::difference(const std::string& what) {
  if (!failed()) difference_ = fmt::format("after {} operations: {}", operations_done_, what);
}

Task<bool> SnapshotWorld::run() {
  block_bytes_ = 4096U << random_.below(3);
  if (!co_await open_store()) co_return false;
  while (!failed() && operations_done_ < parameters_.operations_count) {
    if (disks_.empty()) co_await create_volume();
    co_await open_sessions();
    if (!failed()) co_await round();
    for (uint64_t i = random_.below(4); i > 0 && !failed(); --i)
      co_await (random_.one_in(8) ? verb_and_crash() : verb());
    if (!failed() && random_.one_in(3)) co_await verify_all();
    if (!failed() && random_.one_in(20)) {  // the server restarts
      co_await close_store();
      if (!co_await open_store()) break;
    }
  }
  if (!failed()) co_await verify_all();
  if (!failed()) co_await end_with_nothing();
  if (store_) co_await close_store();
  if (failed()) fmt::print(stderr, "DIFFERENCE {}\n", difference_);
  co_return !failed();
}

Task<bool> SnapshotWorld::open_store() {
  auto engine = source_.open();
  if (!engine) {
    difference("opening the engine: " + engine.error().what);
    co_return false;
  }
  engine_.emplace(**engine);
  store_options_.volume_executors = {&executor_};
  store_options_.key_prefix = source_.key_prefix;
  store_options_.seed = random_.next() | 1;
  // Where several share the store, one that has crashed would be waited for.
  store_options_.ownership.takeover = crashed_ ? volume::Takeover::force : volume::Takeover::when_free;
  crashed_ = false;
  auto store = co_await volume::open_store(*engine_, executor_, store_options_);
  if (!store) {
    difference("opening the store: " + store.error().what);
    co_return false;
  }
  store_ = std::move(*store);
  co_return true;
}

Task<void> SnapshotWorld::close_store() {
  for (auto& [name, disk] : disks_) disk.session.reset();
  open_snapshots_.clear();
  co_await store_->close();
  store_.reset();
  engine_.reset();
  source_.close();
}

Task<void> SnapshotWorld::open_sessions() {
  for (auto& [name, disk] : disks_) {
    if (disk.session || random_.one_in(4)) continue;
    auto session = co_await store_->open(executor_, name);
    if (!session) {
      difference(fmt::format("open {}: {}", name, session.error().what));
      co_return;
    }
    disk.session = std::move(*session);
  }
  if (open_snapshots_.size() > 3) open_snapshots_.erase(open_snapshots_.begin());
  Disk* disk = any_disk();
  if (disk == nullptr || disk->snapshots.empty() || random_.one_in(2)) co_return;
  const auto chosen =
      std::next(disk->snapshots.begin(), static_cast<ptrdiff_t>(random_.below(disk->snapshots.size())));
  const std::string full_name = disk->name + '@' + chosen->first;
  auto session = co_await store_->open(executor_, full_name);
  if (!session) {
    difference(fmt::format("open {}: {}", full_name, session.error().what));
    co_return;
  }
  open_snapshots_.push_back({full_name, std::move(*session), chosen->second});
}

SnapshotWorld::Disk* SnapshotWorld::any_disk() {
  if (disks_.empty()) return nullptr;
  return &std::next(disks_.begin(), static_cast<ptrdiff_t>(random_.below(disks_.size())))->second;
}

uint64_t SnapshotWorld::blocks_count(const Bytes& bytes) const {
  return divide_up(bytes.size(), block_bytes_);
}

SnapshotWorld::Bytes SnapshotWorld::block_of(const Bytes& bytes, uint64_t block) const {
  const auto begin = bytes.begin() + static_cast<ptrdiff_t>(block * block_bytes_);
  const auto end =
      bytes.begin() + static_cast<ptrdiff_t>(std::min<uint64_t>((block + 1) * block_bytes_, bytes.size()));
  return {begin, end};
}

uint64_t SnapshotWorld::used_bytes(const Bytes& bytes) const {
  uint64_t used = 0;
  for (uint64_t offset = 0; offset < bytes.size(); offset += block_bytes_) {
    const uint64_t length = std::min<uint64_t>(block_bytes_, bytes.size() - offset);
    used += is_zero(bytes.data() + offset, length) ? 0 : block_bytes_;
  }
  return used;
}

void SnapshotWorld::begin_round(Disk& disk) {
  disk.base = disk.bytes;
  disk.changes.assign(blocks_count(disk.bytes), {});
}

Task<void> SnapshotWorld::round() {
  in_crash_round_ = random_.one_in(parameters_.kind == Kind::crash ? 3 : 10);
  crashed_ = false;
  taken_.clear();
  for (auto& [name, disk] : disks_) begin_round(disk);
  if (in_crash_round_) co_await flush();
  if (parameters_.kind == Kind::faults) source_.set_faults(!random_.one_in(4));
  if (in_crash_round_) crash_at_some_call(loses_power());
  {
    TaskScope scope;
    for (uint64_t i = random_.below(6); i > 0; --i) scope.spawn(writer(1 + random_.below(60)));
    if (!random_.one_in(3)) scope.spawn(take_snapshots(1 + random_.below(3)));
    scope.spawn(read_snapshots(random_.below(60)));
    co_await scope.join();
  }
  if (in_crash_round_) engine_->die();
  if (parameters_.kind == Kind::faults) source_.set_faults(false);
  if (failed()) co_return;
  if (in_crash_round_) {
    co_await after_crash();
  } else {
    co_await adopt_snapshots();
  }
  for (auto& [name, disk] : disks_) {
    disk.base.clear();
    disk.changes.clear();
  }
}

Task<void> SnapshotWorld::flush() {
  if (disks_.empty()) co_return;
  // One flush is for the whole store.
  auto session = co_await store_->open(executor_, disks_.begin()->first);
  Result<void> flushed;
  if (session) {
    flushed = co_await (*session)->flush();
  } else {
    flushed = propagate(session);
  }
  if (!flushed) difference("flush: " + flushed.error().what);
}

Task<void> SnapshotWorld::writer(uint64_t requests_count) {
  for (uint64_t i = 0; i < requests_count && !failed() && !crashed_; ++i) {
    Disk* disk = any_disk();
    if (disk != nullptr && disk->session) co_await change_once(*disk);
    if (random_.one_in(4)) co_await reschedule(executor_);
  }
}

Task<void> SnapshotWorld::change_once(Disk& disk) {
  ++operations_done_;
  const uint64_t limit = disk.bytes.size();
  uint64_t offset = random_.below(limit);
  const uint64_t longest = random_.one_in(8) ? limit : 6 * block_bytes_;
  uint64_t length = 1 + random_.below(std::min(longest, limit - offset));
  if (!random_.one_in(3)) {
    offset = round_down(offset, block_bytes_);
    length = std::min(round_up(length, block_bytes_), limit - offset);
  }
  const bool is_write = !random_.one_in(4);
  if (is_write) length = std::min<uint64_t>(length, 300'000);
  std::vector<std::byte> data(length);
  if (is_write && !random_.one_in(8)) {
    const uint64_t word = random_.next() | 1;
    for (size_t i = 0; i < length; i += 8)
      std::memcpy(data.data() + i, &word, std::min<size_t>(8, length - i));
  }
  // Requests that overlap take effect in the order of the calls.
  std::memcpy(disk.bytes.data() + offset, data.data(), length);
  std::vector<std::pair<uint64_t, size_t>> noted;
  for (uint64_t block = offset / block_bytes_; block * block_bytes_ < offset + length; ++block) {
    Change& change = disk.changes[block].emplace_back();
    change.content = block_of(disk.bytes, block);
    change.called_at = ++tick_;
    noted.emplace_back(block, disk.changes[block].size() - 1);
  }
  const bool fua = random_.one_in(8);
  Result<void> result;
  if (is_write) {
    result = co_await disk.session->write(offset, data, {.fua = fua});
  } else if (random_.one_in(2)) {
    result = co_await disk.session->trim(offset, length, {.fua = fua});
  } else {
    result = co_await disk.session->write_zeroes(
        offset, length, {.fua = fua, .no_hole = random_.one_in(2), .fast_only = false});
  }
  if (!result) {
    if (!crashed_) difference("a change failed: " + result.error().what);
    co_return;
  }
  if (crashed_) co_return;
  ++tick_;
  for (const auto& [block, index] : noted) {
    disk.changes[block][index].acknowledged_at = tick_;
    disk.changes[block][index].flushed = disk.changes[block][index].flushed || fua;
  }
}

Task<SnapshotWorld::Bytes> SnapshotWorld::read_disk(block::Export& disk, std::string name) {
  Bytes bytes(disk.info().size_bytes);
  const auto segments =
      co_await disk.read(0, MutableByteView(reinterpret_cast<std::byte*>(bytes.data()), bytes.size()));
  if (!segments) {
    if (!crashed_) difference(fmt::format("read of {}: {}", name, segments.error().what));
    co_return bytes;
  }
  uint64_t at = 0;
  for (const block::ReadSegment& segment : *segments) {
    if (segment.is_hole) std::memset(bytes.data() + at, 0, segment.length_bytes);
    at += segment.length_bytes;
  }
  co_return bytes;
}

// At any time, also while the layers below are merged.
Task<void> SnapshotWorld::read_snapshots(uint64_t requests_count) {
  for (uint64_t i = 0; i < requests_count && !failed() && !crashed_ && !open_snapshots_.empty(); ++i) {
    ++operations_done_;
    const OpenSnapshot& snapshot = open_snapshots_[random_.below(open_snapshots_.size())];
    const uint64_t offset = random_.below(snapshot.bytes->size());
    const uint64_t length = 1 + random_.below(std::min<uint64_t>(snapshot.bytes->size() - offset, 200'000));
    std::vector<std::byte> bytes(length);
    const auto segments = co_await snapshot.session->read(offset, bytes);
    if (crashed_) co_return;
    if (!segments) {
      difference(fmt::format("read of {}: {}", snapshot.name, segments.error().what));
      co_return;
    }
    uint64_t at = 0;
    for (const block::ReadSegment& segment : *segments) {
      if (segment.is_hole) std::memset(bytes.data() + at, 0, segment.length_bytes);
      at += segment.length_bytes;
    }
    if (std::memcmp(bytes.data(), snapshot.bytes->data() + offset, length) != 0)
      difference(fmt::format("{} has changed between {} and {}", snapshot.name, offset, offset + length));
  }
}

Task<void> SnapshotWorld::take_snapshots(uint64_t count) {
  for (uint64_t i = 0; i < count && !failed() && !crashed_; ++i) {
    for (uint64_t steps = random_.below(40); steps > 0 && !crashed_; --steps) co_await reschedule(executor_);
    if (crashed_) co_return;
    ++operations_done_;
    Taken taken;
    std::vector<std::string> names;
    const std::string snapshot_name = fmt::format("s{}", ++names_count_);
    for (const auto& [name, disk] : disks_) {
      if (disk.snapshots.size() + taken_.size() >= kMaxSnapshots || random_.one_in(3)) continue;
      taken.names.emplace_back(name, snapshot_name);
      names.push_back(name + '@' + snapshot_name);
    }
    if (names.empty()) co_return;
    taken.called_at = ++tick_;
    taken_.push_back(taken);
    const size_t index = taken_.size() - 1;
    const Result<void> result = co_await store_->snapshot(names, {});
    if (crashed_) co_return;
    if (!result) {
      difference("snap: " + result.error().what);
      co_return;
    }
    taken_[index].done_at = ++tick_;
  }
}

void SnapshotWorld::crash_at_some_call(bool power_loss) {
  const uint64_t call = 1 + random_.below(uint64_t{1} << random_.below(10));
  engine_->die_at(call, random_.one_in(2), [this, power_loss] {
    crashed_ = true;
    if (!power_loss) {
      // Nothing acknowledged may be lost when only the process dies.
      for (auto& [name, disk] : disks_) {
        for (auto& block : disk.changes) {
          for (Change& change : block) change.flushed = change.acknowledged_at.has_value();
        }
      }
    }
    if (source_.crash) source_.crash(power_loss);
  });
}

bool SnapshotWorld::loses_power() {
  return parameters_.kind == Kind::crash && random_.one_in(2);
}

bool SnapshotWorld::is_allowed(const Disk& disk, uint64_t block, const uint8_t* content,
                               std::optional<uint64_t> from_tick, uint64_t to_tick) const {
  const auto& history = disk.changes[block];
  const auto equals = [&](const Bytes& expected) {
    return std::equal(expected.begin(), expected.end(), content);
  };
  std::optional<size_t> certain;
  for (size_t i = 0; i < history.size(); ++i) {
    const bool is_certain = from_tick
                                ? history[i].acknowledged_at && *history[i].acknowledged_at <= *from_tick
                                : history[i].flushed;
    if (is_certain) certain = i;
  }
  if (!certain && equals(block_of(disk.base, block))) return true;
  for (size_t i = certain.value_or(0); i < history.size(); ++i) {
    if (history[i].called_at <= to_tick && equals(history[i].content)) return true;
  }
  return false;
}

// What a snapshot of this round holds is known once it has been read; it is what it may be.
Task<void> SnapshotWorld::adopt_snapshots() {
  for (const Taken& taken : taken_) {
    size_t found_count = 0;
    for (const auto& [volume_name, snapshot_name] : taken.names) {
      Disk& disk = disks_.at(volume_name);
      const std::string full_name = volume_name + '@' + snapshot_name;
      auto session = co_await store_->open(executor_, full_name);
      if (!session && session.error().code == Errc::not_found && !taken.done_at) continue;
      if (!session) {
        difference(fmt::format("open {}: {}", full_name, session.error().what));
        co_return;
      }
      ++found_count;
      auto bytes = std::make_shared<Bytes>(co_await read_disk(**session, full_name));
      if (failed()) co_return;
      if (bytes->size() != disk.base.size()) {
        difference(fmt::format("{} has {} bytes", full_name, bytes->size()));
        co_return;
      }
      for (uint64_t block = 0; block < disk.changes.size(); ++block) {
        if (is_allowed(disk, block, bytes->data() + block * block_bytes_, taken.called_at,
                       taken.done_at.value_or(UINT64_MAX)))
          continue;
        difference(fmt::format("block {} of {} holds none of its allowed contents", block, full_name));
        co_return;
      }
      disk.snapshots[snapshot_name] = std::move(bytes);
    }
    if (found_count != 0 && found_count != taken.names.size()) {
      difference(fmt::format("{} of {} snapshots of one instant are there", found_count, taken.names.size()));
      co_return;
    }
  }
}

Task<void> SnapshotWorld::adopt_contents(Disk& disk) {
  auto session = co_await store_->open(executor_, disk.name);
  if (!session) {
    difference("open after a crash: " + session.error().what);
    co_return;
  }
  Bytes bytes = co_await read_disk(**session, disk.name);
  if (failed()) co_return;
  for (uint64_t block = 0; block < disk.changes.size(); ++block) {
    if (is_allowed(disk, block, bytes.data() + block * block_bytes_, std::nullopt, UINT64_MAX)) continue;
    difference(
        fmt::format("after a crash block {} of {} holds none of its allowed contents", block, disk.name));
    co_return;
  }
  disk.bytes = std::move(bytes);
}

Task<void> SnapshotWorld::after_crash() {
  co_await close_store();
  if (!co_await open_store()) co_return;
  for (auto& [name, disk] : disks_) {
    co_await adopt_contents(disk);
    if (failed()) co_return;
  }
  co_await adopt_snapshots();
  if (!failed()) co_await verify_all();
}

Task<void> SnapshotWorld::verify_disk(std::string name, const Bytes& expected) {
  const std::string wrong = co_await compare_bytes(name, expected);
  if (!wrong.empty()) difference(wrong);
  if (failed()) co_return;
  auto session = co_await store_->open(executor_, name);
  if (!session) {
    difference(fmt::format("open {}: {}", name, session.error().what));
    co_return;
  }
  const auto status = co_await (*session)->block_status(0, expected.size(), UINT32_MAX);
  if (!status) {
    difference(fmt::format("status of {}: {}", name, status.error().what));
    co_return;
  }
  uint64_t at = 0;
  for (const block::StatusExtent& extent : *status) {
    if (extent.is_zero && !is_zero(expected.data() + at, extent.length_bytes))
      difference(fmt::format("status of {} calls data at {} zero", name, at));
    at += extent.length_bytes;
  }
  const auto info = co_await store_->info(name);
  if (!info) {
    difference(fmt::format("info of {}: {}", name, info.error().what));
  } else if (info->used_bytes != used_bytes(expected) || info->size_bytes != expected.size()) {
    difference(fmt::format("{} uses {} of {} bytes instead of {} of {}", name, info->used_bytes,
                           info->size_bytes, used_bytes(expected), expected.size()));
  }
}

// The same as whoever only reads the store sees it.
Task<void> SnapshotWorld::verify_live(std::string name, const Bytes& expected) {
  volume::LiveExports exports(*engine_, executor_, *store_, store_options_);
  auto session = co_await exports.open(executor_, name);
  if (!session) {
    difference(fmt::format("open {} to read: {}", name, session.error().what));
    co_return;
  }
  const Bytes bytes = co_await read_disk(**session, name);
  if (!failed() && bytes != expected)
    difference(fmt::format("{} is another one to whoever only reads", name));
}

Task<void> SnapshotWorld::verify_all() {
  if (random_.one_in(3)) co_await store_->wait_for_reclaim();
  const auto volumes = co_await store_->list_volumes();
  if (!volumes || volumes->size() != disks_.size()) difference("the list of volumes differs");
  for (const auto& [name, disk] : disks_) {
    if (failed()) co_return;
    co_await verify_disk(name, disk.bytes);
    if (failed()) co_return;
    co_await verify_live(name, disk.bytes);
    for (const auto& [snapshot_name, bytes] : disk.snapshots) {
      if (failed()) co_return;
      co_await verify_disk(name + '@' + snapshot_name, *bytes);
    }
    if (!failed()) co_await verify_diff(disk);
    const auto info = co_await store_->info(name);
    if (info && info->snapshots.size() != disk.snapshots.size())
      difference(fmt::format("{} has {} snapshots instead of {}", name, info->snapshots.size(),
                             disk.snapshots.size()));
  }
  const auto report = co_await store_->check(std::nullopt, nullptr);
  if (!report) {
    difference("check: " + report.error().what);
  } else if (report->findings_count > 0) {
    difference(fmt::format("check: {} offset {}: {}", report->findings[0].volume,
                           report->findings[0].offset_bytes, report->findings[0].what));
  }
}

// What differs is in a range of its kind, and what is told as zero is zero.
Task<void> SnapshotWorld::verify_diff(const Disk& disk) {
  const auto any_snapshot = [&] {
    return std::next(disk.snapshots.begin(), static_cast<ptrdiff_t>(random_.below(disk.snapshots.size())));
  };
  std::string name = disk.name;
  std::optional<std::string> from;
  const Bytes* after = &disk.bytes;
  Bytes before;
  if (!disk.snapshots.empty() && random_.one_in(2)) {
    const auto chosen = any_snapshot();
    name += '@' + chosen->first;
    after = chosen->second.get();
  }
  if (!disk.snapshots.empty() && !random_.one_in(4)) {
    const auto chosen = any_snapshot();
    from = chosen->first;
    before = *chosen->second;
  }
  before.resize(after->size());
  const auto page = co_await store_->diff(name, from, 0, nullptr);
  if (!page) {
    difference(fmt::format("diff of {}: {}", name, page.error().what));
    co_return;
  }
  uint64_t at = 0;
  const auto is_equal = [&](uint64_t end) {
    return std::equal(before.begin() + static_cast<ptrdiff_t>(at),
                      before.begin() + static_cast<ptrdiff_t>(end),
                      after->begin() + static_cast<ptrdiff_t>(at));
  };
  for (const volume::DiffRange& range : page->ranges) {
    if (range.offset_bytes < at || !range_fits(range.offset_bytes, range.length_bytes, after->size())) {
      difference(fmt::format("diff of {} has a range out of place at {}", name, range.offset_bytes));
      co_return;
    }
    if (!is_equal(range.offset_bytes))
      difference(fmt::format("diff of {} from {} misses bytes in {} to {}", name, from.value_or("nothing"),
                             at, range.offset_bytes));
    at = range.offset_bytes + range.length_bytes;
    if (range.kind == volume::DiffKind::zero &&
        !is_zero(after->data() + range.offset_bytes, range.length_bytes))
      difference(fmt::format("diff of {} calls data at {} zero", name, range.offset_bytes));
  }
  if (page->end_bytes != after->size() || !is_equal(after->size()))
    difference(fmt::format("diff of {} from {} misses bytes behind {}", name, from.value_or("nothing"), at));
  if (from && name.ends_with('@' + *from) && !page->ranges.empty())
    difference(fmt::format("diff of {} with itself is not empty", name));
}

// All space comes back, but for that of receipts, which go when the store is closed or after a day.
Task<void> SnapshotWorld::end_with_nothing() {
  while (!disks_.empty() && !failed()) co_await verb_remove_volume();
  // What crashes have left there.
  const auto purged = co_await store_->purge(std::nullopt);
  if (!purged) difference("trash purge: " + purged.error().what);
  co_await store_->wait_for_reclaim();
  const std::string begin = source_.key_prefix + '\0';
  const std::string end = source_.key_prefix + '\x7f';
  auto read = [&](kv::Transaction& transaction) {
    return transaction.get_range({begin, end}, {}, kv::Isolation::snapshot);
  };
  const auto rows = co_await kv::transact<kv::RangeResult>(*engine_, executor_, random_, read);
  if (!rows) {
    difference("reading what is left: " + rows.error().what);
    co_return;
  }
  const auto is_no_receipt = [this](const kv::KeyValue& row) {
    return row.key[source_.key_prefix.size()] != 'R';
  };
  const auto left_count = std::ranges::count_if(rows->rows, is_no_receipt);
  if (left_count != 1) difference(fmt::format("{} rows are left of nothing", left_count));
}

}  // namespace fdbnbd::model
