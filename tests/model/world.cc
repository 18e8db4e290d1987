#include "world.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "base/checked_math.h"
#include "base/limits.h"

namespace fdbnbd::model {

namespace {

constexpr uint64_t kMaxVolumeBytes = 12 * limits::kMiB;

}  // namespace

World::World(Executor& executor, EngineSource source, Parameters parameters)
    : executor_(executor), source_(std::move(source)), parameters_(parameters), random_(parameters.seed) {}

void World::difference(const std::string& what) {
  if (!failed()) difference_ = fmt::format("after {} operations: {}", operations_done_, what);
}

Task<bool> World::run() {
  block_bytes_ = 4096U << random_.below(3);
  const uint64_t size_bytes = 512 * (1 + random_.below(kMaxVolumeBytes / 512));
  if (!co_await open_store()) co_return false;
  static constexpr volume::Compression kCompressions[] = {volume::Compression::none, volume::Compression::lz4,
                                                          volume::Compression::zstd};
  const auto created = co_await store_->create(name_, {.size_bytes = size_bytes,
                                                       .block_bytes = block_bytes_,
                                                       .compression = kCompressions[random_.below(3)]});
  if (!created) difference("create: " + created.error().what);
  model_resize(size_bytes);
  while (!failed() && operations_done_ < parameters_.operations_count) {
    const auto connections_count = 1 + random_.below(8);
    while (sessions_.size() < connections_count) {
      auto session = co_await store_->open(executor_, name_);
      if (!session) {
        difference("open: " + session.error().what);
        break;
      }
      sessions_.push_back(std::move(*session));
    }
    if (failed()) break;
    if (parameters_.kind == Kind::crash) {
      co_await crash_round();
    } else {
      co_await round();
    }
  }
  sessions_.clear();
  co_await close_store();
  if (failed()) fmt::print(stderr, "DIFFERENCE {}\n", difference_);
  co_return !failed();
}

Task<bool> World::open_store() {
  auto engine = source_.open();
  if (!engine) {
    difference("opening the engine: " + engine.error().what);
    co_return false;
  }
  engine_ = *engine;
  volume::Store::Options options;
  options.key_prefix = source_.key_prefix;
  options.volume_executors = {&executor_};
  options.seed = random_.next() | 1;
  auto store = co_await volume::open_store(*engine_, executor_, std::move(options));
  if (!store) {
    difference("opening the store: " + store.error().what);
    co_return false;
  }
  store_ = std::move(*store);
  co_return true;
}

Task<void> World::close_store() {
  if (store_) co_await store_->close();
  store_.reset();
  source_.close();
}

Task<void> World::round() {
  if (parameters_.kind == Kind::faults) source_.set_faults(!random_.one_in(4));
  TaskScope scope;
  uint64_t limit_bytes = bytes_.size();
  if (random_.one_in(6)) {
    // A resize while requests run below what it changes.
    const uint64_t new_size = 512 * (1 + random_.below(kMaxVolumeBytes / 512));
    const uint64_t kept = round_down(std::min<uint64_t>(new_size, bytes_.size()), block_bytes_);
    scope.spawn(resize_meanwhile(new_size));
    limit_bytes = kept;
  }
  if (limit_bytes > 0) {
    for (size_t i = 0; i < sessions_.size(); ++i)
      scope.spawn(connection(1 + random_.below(200), limit_bytes));
  }
  co_await scope.join();
  if (parameters_.kind == Kind::faults) source_.set_faults(false);
  if (!failed()) co_await quiet_moment();
}

Task<void> World::resize_meanwhile(uint64_t size_bytes) {
  model_resize(size_bytes);
  const auto resized = co_await store_->resize(name_, size_bytes, true);
  if (!resized) {
    difference("resize: " + resized.error().what);
  } else if (resized->size_bytes != size_bytes) {
    difference("resize: another size came back");
  }
}

Task<void> World::crash_round() {
  co_await verify_all();
  const auto flushed = co_await sessions_[0]->flush();
  if (!flushed) difference("flush: " + flushed.error().what);
  if (failed()) co_return;
  changes_.assign(states_.size(), {});
  base_ = bytes_;
  noting_changes_ = true;
  crashed_ = false;
  TaskScope scope;
  for (size_t i = 0; i < sessions_.size(); ++i)
    scope.spawn(connection(1 + random_.below(150), bytes_.size()));
  scope.spawn(crash_soon());
  co_await scope.join();
  noting_changes_ = false;
  sessions_.clear();
  co_await close_store();
  if (failed() || !co_await open_store()) co_return;
  auto session = co_await store_->open(executor_, name_);
  if (!session) {
    difference("open after a crash: " + session.error().what);
    co_return;
  }
  sessions_.push_back(std::move(*session));
  co_await verify_after_crash();
  co_await verify_all();
}

Task<void> World::crash_soon() {
  co_await sleep_for(executor_, std::chrono::microseconds(random_.below(20'000)));
  crashed_ = true;
  const bool power_loss = random_.one_in(2);
  if (!power_loss) {
    // Nothing acknowledged may be lost when only the process dies.
    for (auto& block : changes_) {
      for (Change& change : block) change.flushed = change.acknowledged;
    }
  }
  source_.crash(power_loss);
}

Task<void> World::verify_after_crash() {
  // Each block must hold one of its contents since the last one that had to survive.
  std::vector<std::byte> bytes(bytes_.size());
  const auto read = co_await sessions_[0]->read(0, bytes);
  if (!read) {
    difference("read after a crash: " + read.error().what);
    co_return;
  }
  uint64_t at = 0;
  for (const block::ReadSegment& segment : *read) {
    if (segment.is_hole) std::memset(bytes.data() + at, 0, segment.length_bytes);
    at += segment.length_bytes;
  }
  for (uint64_t block = 0; block < states_.size(); ++block) {
    auto& history = changes_[block];
    if (history.empty()) continue;
    std::optional<size_t> last_flushed;
    for (size_t i = 0; i < history.size(); ++i) {
      if (history[i].flushed) last_flushed = i;
    }
    const auto* found = reinterpret_cast<const uint8_t*>(bytes.data()) + block * block_bytes_;
    const uint64_t length = std::min<uint64_t>(block_bytes_, bytes_.size() - block * block_bytes_);
    bool allowed = !last_flushed && std::equal(found, found + length,
                                               base_.begin() + static_cast<ptrdiff_t>(block * block_bytes_));
    for (size_t i = last_flushed.value_or(0); i < history.size() && !allowed; ++i) {
      allowed = std::equal(history[i].content.begin(), history[i].content.end(), found);
    }
    if (!allowed) {
      difference(fmt::format("after a crash block {} holds none of its {} allowed contents", block,
                             history.size() - last_flushed.value_or(0)));
      co_return;
    }
  }
  std::memcpy(bytes_.data(), bytes.data(), bytes.size());
  // What became of allocated zeroes is not known; the status tells, and the contents have been compared.
  const auto status = co_await sessions_[0]->block_status(0, bytes_.size(), UINT32_MAX);
  if (!status) {
    difference("status after a crash: " + status.error().what);
    co_return;
  }
  at = 0;
  for (const block::StatusExtent& extent : *status) {
    const State state = !extent.is_zero ? State::data : extent.is_hole ? State::absent : State::zero;
    for (uint64_t block = at / block_bytes_; block * block_bytes_ < at + extent.length_bytes; ++block)
      states_[block] = state;
    at += extent.length_bytes;
  }
}

Task<void> World::connection(uint64_t operations_count, uint64_t limit_bytes) {
  for (uint64_t i = 0; i < operations_count && !failed() && !crashed_; ++i) {
    ++operations_done_;
    const uint64_t offset = random_.below(limit_bytes);
    uint64_t longest = 0;
    switch (random_.below(8)) {
      case 0:
        longest = 64;
        break;
      case 1:
        longest = 400'000;
        break;
      case 2:
        longest = limit_bytes;
        break;
      default:
        longest = 4 * block_bytes_;
        break;
    }
    uint64_t from = offset;
    uint64_t length = 1 + random_.below(std::min(longest, limit_bytes - offset));
    if (random_.one_in(2)) {  // as most clients do
      from = round_down(offset, block_bytes_);
      length = std::min(round_up(length, block_bytes_), limit_bytes - from);
    }
    const uint64_t kind = random_.below(100);
    if (kind < 35) {
      co_await do_read(from, length);
    } else if (kind < 75) {
      co_await do_write(from, std::min<uint64_t>(length, 600'000));
    } else if (kind < 93) {
      co_await do_clear(from, length);
    } else {
      co_await do_flush();
    }
    if (random_.one_in(4)) co_await reschedule(executor_);
  }
}

Task<void> World::do_read(uint64_t offset, uint64_t length) {
  block::Export& disk = *sessions_[random_.below(sessions_.size())];
  std::vector<std::byte> bytes(length, std::byte{0xee});
  const std::vector<uint8_t> expected(bytes_.begin() + static_cast<ptrdiff_t>(offset),
                                      bytes_.begin() + static_cast<ptrdiff_t>(offset + length));
  const auto segments = co_await disk.read(offset, bytes);
  if (!segments) {
    if (!crashed_) difference(fmt::format("read of {} at {}: {}", length, offset, segments.error().what));
    co_return;
  }
  if (noting_changes_) co_return;  // with requests that fail in a crash, order is not all
  uint64_t at = 0;
  bool last_is_hole = false;
  for (const block::ReadSegment& segment : *segments) {
    if (at > 0 && segment.is_hole == last_is_hole) difference("neighbouring segments of a read are alike");
    last_is_hole = segment.is_hole;
    if (segment.is_hole) std::memset(bytes.data() + at, 0, segment.length_bytes);
    at += segment.length_bytes;
  }
  if (at != length) {
    difference(fmt::format("a read of {} bytes has segments of {}", length, at));
  } else if (std::memcmp(bytes.data(), expected.data(), length) != 0) {
    const auto wrong = std::ranges::mismatch(
        expected, bytes, [](uint8_t a, std::byte b) { return a == static_cast<uint8_t>(b); });
    difference(fmt::format("read of {} at {} differs at {}", length, offset,
                           offset + static_cast<uint64_t>(wrong.in1 - expected.begin())));
  }
}

Task<void> World::do_write(uint64_t offset, uint64_t length) {
  block::Export& disk = *sessions_[random_.below(sessions_.size())];
  const std::vector<std::byte> data = random_bytes(length);
  const bool fua = random_.one_in(8);
  model_write(offset, data);
  const auto changes = note_changes(offset, length);
  const Result<void> result = co_await disk.write(offset, data, {.fua = fua});
  acknowledge(changes, result);
  if (result && fua && !crashed_ && noting_changes_) {
    for (const auto& [block, index] : changes) changes_[block][index].flushed = true;
  }
}

Task<void> World::do_clear(uint64_t offset, uint64_t length) {
  block::Export& disk = *sessions_[random_.below(sessions_.size())];
  if (random_.one_in(2)) {
    model_clear(offset, length, State::absent);
    const auto changes = note_changes(offset, length);
    acknowledge(changes, co_await disk.trim(offset, length, {}));
    co_return;
  }
  const bool no_hole = random_.one_in(2);
  model_clear(offset, length, no_hole ? State::zero : State::absent);
  const auto changes = note_changes(offset, length);
  acknowledge(changes, co_await disk.write_zeroes(
                           offset, length,
                           {.fua = random_.one_in(8), .no_hole = no_hole, .fast_only = random_.one_in(2)}));
}

Task<void> World::do_flush() {
  block::Export& disk = *sessions_[random_.below(sessions_.size())];
  std::vector<std::pair<uint64_t, size_t>> covered;
  if (noting_changes_) {
    for (uint64_t block = 0; block < changes_.size(); ++block) {
      for (size_t i = 0; i < changes_[block].size(); ++i) {
        if (changes_[block][i].acknowledged) covered.emplace_back(block, i);
      }
    }
  }
  const Result<void> result = co_await disk.flush();
  if (crashed_) co_return;
  if (!result) {
    difference("flush: " + result.error().what);
    co_return;
  }
  for (const auto& [block, index] : covered) changes_[block][index].flushed = true;
}

std::vector<std::byte> World::random_bytes(uint64_t length) {
  std::vector<std::byte> data(length);
  switch (random_.below(4)) {
    case 0:
      break;  // zeroes
    case 1:   // compresses well
      std::ranges::fill(data, static_cast<std::byte>(1 + random_.below(255)));
      break;
    case 2:  // zeroes but for a little
      data[random_.below(length)] = std::byte{1};
      break;
    default:
      for (size_t i = 0; i < length; i += 8) {
        const uint64_t word = random_.next();
        std::memcpy(data.data() + i, &word, std::min<size_t>(8, length - i));
      }
  }
  return data;
}

void World::model_write(uint64_t offset, const std::vector<std::byte>& data) {
  std::memcpy(bytes_.data() + offset, data.data(), data.size());
  for (uint64_t block = offset / block_bytes_; block * block_bytes_ < offset + data.size(); ++block) {
    const auto begin = bytes_.begin() + static_cast<ptrdiff_t>(block * block_bytes_);
    const auto end = bytes_.begin() +
                     static_cast<ptrdiff_t>(std::min<uint64_t>((block + 1) * block_bytes_, bytes_.size()));
    states_[block] =
        std::all_of(begin, end, [](uint8_t byte) { return byte == 0; }) ? State::absent : State::data;
  }
}

void World::model_clear(uint64_t offset, uint64_t length, State target) {
  const uint64_t end = offset + length;
  std::memset(bytes_.data() + offset, 0, length);
  for (uint64_t block = offset / block_bytes_; block * block_bytes_ < end; ++block) {
    const uint64_t block_begin = block * block_bytes_;
    const uint64_t block_end = std::min<uint64_t>(block_begin + block_bytes_, bytes_.size());
    const bool whole = offset <= block_begin && block_end <= end;
    const bool is_zero = std::all_of(bytes_.begin() + static_cast<ptrdiff_t>(block_begin),
                                     bytes_.begin() + static_cast<ptrdiff_t>(block_end),
                                     [](uint8_t byte) { return byte == 0; });
    if (whole || target == State::zero) {
      if (is_zero) states_[block] = target;
    } else if (is_zero && states_[block] == State::data) {
      states_[block] = State::absent;
    }
  }
}

void World::model_resize(uint64_t size_bytes) {
  if (size_bytes < bytes_.size()) {
    model_clear(size_bytes, bytes_.size() - size_bytes, State::absent);
  }
  bytes_.resize(size_bytes);
  states_.resize(divide_up(size_bytes, block_bytes_));
}

std::vector<std::pair<uint64_t, size_t>> World::note_changes(uint64_t offset, uint64_t length) {
  std::vector<std::pair<uint64_t, size_t>> noted;
  if (!noting_changes_) return noted;
  for (uint64_t block = offset / block_bytes_; block * block_bytes_ < offset + length; ++block) {
    const auto begin = bytes_.begin() + static_cast<ptrdiff_t>(block * block_bytes_);
    const auto end = bytes_.begin() +
                     static_cast<ptrdiff_t>(std::min<uint64_t>((block + 1) * block_bytes_, bytes_.size()));
    changes_[block].push_back({.content = {begin, end}});
    noted.emplace_back(block, changes_[block].size() - 1);
  }
  return noted;
}

void World::acknowledge(const std::vector<std::pair<uint64_t, size_t>>& changes, const Result<void>& result) {
  if (!result) {
    if (!crashed_) difference("a change failed: " + result.error().what);
    return;
  }
  if (crashed_) return;
  for (const auto& [block, index] : changes) changes_[block][index].acknowledged = true;
}

Task<void> World::quiet_moment() {
  switch (random_.below(8)) {
    case 0:
      co_await verify_all();
      break;
    case 1:  // all clients leave and come back
      sessions_.clear();
      break;
    case 2: {
      const std::string new_name = name_ == "disk" ? "other name" : "disk";
      const auto renamed = co_await store_->rename(name_, new_name);
      if (!renamed) difference("rename: " + renamed.error().what);
      name_ = new_name;
      break;
    }
    case 3: {  // the server restarts
      if (!random_.one_in(4)) break;
      sessions_.clear();
      co_await close_store();
      if (!co_await open_store()) co_return;
      auto session = co_await store_->open(executor_, name_);
      if (!session) {
        difference("open after a restart: " + session.error().what);
        co_return;
      }
      sessions_.push_back(std::move(*session));
      co_await verify_all();
      break;
    }
    default:
      break;
  }
}

Task<void> World::verify_all() {
  co_await do_read(0, bytes_.size());
  const auto status = co_await sessions_[0]->block_status(0, bytes_.size(), UINT32_MAX);
  if (!status) {
    difference("status: " + status.error().what);
    co_return;
  }
  uint64_t at = 0;
  for (const block::StatusExtent& extent : *status) {
    const State state = !extent.is_zero ? State::data : extent.is_hole ? State::absent : State::zero;
    for (uint64_t block = at / block_bytes_; block * block_bytes_ < at + extent.length_bytes; ++block) {
      if (states_[block] != state) {
        difference(fmt::format("status of block {} is {} instead of {}", block, static_cast<int>(state),
                               static_cast<int>(states_[block])));
        co_return;
      }
    }
    at += extent.length_bytes;
  }
  if (at != bytes_.size()) difference(fmt::format("status tells {} of {} bytes", at, bytes_.size()));
  const auto info = co_await store_->info(name_);
  const auto used = static_cast<uint64_t>(std::ranges::count(states_, State::data)) * block_bytes_;
  if (!info) {
    difference("info: " + info.error().what);
  } else if (info->used_bytes != used || info->size_bytes != bytes_.size()) {
    difference(fmt::format("used {} of {} bytes instead of {} of {}", info->used_bytes, info->size_bytes,
                           used, bytes_.size()));
  }
  const auto report = co_await store_->check(std::nullopt, nullptr);
  if (!report) {
    difference("check: " + report.error().what);
  } else if (report->findings_count > 0) {
    difference(
        fmt::format("check: offset {}: {}", report->findings[0].offset_bytes, report->findings[0].what));
  } else if (report->blocks_count * block_bytes_ != used) {
    difference(fmt::format("check read {} blocks, {} bytes are used", report->blocks_count, used));
  }
}

}  // namespace fdbnbd::model
