#include "kv/rocks/reclaimer.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/log.h"

namespace fdbnbd::kv {

namespace {

// Clears come in crowds: what comes within this time is compacted together.
constexpr auto kGatherTime = std::chrono::seconds(2);
// After a failure; the disk may be full.
constexpr auto kRetryDelay = std::chrono::seconds(5);
constexpr auto kMemoryPoll = std::chrono::milliseconds(20);
constexpr int kMemoryPolls = 500;

}  // namespace

Reclaimer::~Reclaimer() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Reclaimer::note_cleared(const RangePart& part) {
  const std::lock_guard lock(mutex_);
  add(part.begin, part.end);
  changed_.notify_one();
}

void Reclaimer::add(std::string begin, std::string end) {
  if (end_.empty()) {
    begin_ = std::move(begin);
    end_ = std::move(end);
  } else {
    begin_ = std::min(begin_, begin);
    end_ = std::max(end_, end);
  }
}

void Reclaimer::work() {
  pthread_setname_np(pthread_self(), "rocks reclaim");
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !end_.empty(); });
    changed_.wait_for(lock, kGatherTime, [this] { return stopping_.load(); });
    if (stopping_) return;
    const std::string begin = std::exchange(begin_, {});
    const std::string end = std::exchange(end_, {});
    lock.unlock();
    const bool done = reclaim(begin, end);
    lock.lock();
    if (done) continue;
    add(begin, end);
    changed_.wait_for(lock, kRetryDelay, [this] { return stopping_.load(); });
  }
}

bool Reclaimer::reclaim(const std::string& begin, const std::string& end) {
  if (!write_out_memory()) return false;
  rocksdb::CompactRangeOptions options;
  options.exclusive_manual_compaction = false;
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForceOptimized;
  options.max_subcompactions = 1;
  options.canceled = &stopping_;
  // It would wait in vain where compactions fail, and could not be told to stop.
  options.allow_write_stall = true;
  const rocksdb::Slice begin_slice = begin;
  const rocksdb::Slice end_slice = end;
  // It writes out memory itself where rows of the range were written meanwhile, waits for that and the whole
  // compaction, and cannot be told otherwise; writes would have to wait if the log were held. So one that
  // meets a full disk between here and there may still be torn while this begins another log.
  if (is_log_torn()) return false;
  const rocksdb::Status done =
      store_.db().CompactRange(options, store_.family(Family::bulk), &begin_slice, &end_slice);
  if (!done.ok() && !stopping_)
    log::debug("store {}: space is not reclaimed now: {}", store_.path(), done.ToString());
  return done.ok();
}

bool Reclaimer::is_log_torn() {
  const std::lock_guard lock(store_.log_mutex());
  return store_.files().is_torn();
}

bool Reclaimer::write_out_memory() {
  rocksdb::FlushOptions options;
  options.allow_write_stall = true;
  // Waited for below, as writes go on meanwhile.
  options.wait = false;
  rocksdb::Status flushed;
  {
    // Writing out memory begins another log, which a torn one does not allow.
    const std::lock_guard lock(store_.log_mutex());
    if (store_.files().is_torn()) return false;
    flushed = store_.db().Flush(options, store_.family(Family::bulk));
  }
  if (!flushed.ok()) {
    log::debug("store {}: space is not reclaimed now: {}", store_.path(), flushed.ToString());
    return false;
  }
  for (int i = 0; i < kMemoryPolls; ++i) {
    uint64_t left_count = 0;
    if (!store_.db().GetIntProperty(store_.family(Family::bulk),
                                    rocksdb::DB::Properties::kNumImmutableMemTable, &left_count) ||
        left_count == 0)
      return true;
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, kMemoryPoll, [this] { return stopping_.load(); })) return false;
  }
  return false;
}

}  // namespace fdbnbd::kv
