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
  if (end_.empty()) {
    begin_ = part.begin;
    end_ = part.end;
    changed_.notify_one();
  } else {
    begin_ = std::min(begin_, part.begin);
    end_ = std::max(end_, part.end);
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
    reclaim(begin, end);
    lock.lock();
  }
}

void Reclaimer::reclaim(const std::string& begin, const std::string& end) {
  rocksdb::CompactRangeOptions options;
  options.exclusive_manual_compaction = false;
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForceOptimized;
  options.max_subcompactions = 1;
  options.canceled = &stopping_;
  const rocksdb::Slice begin_slice = begin;
  const rocksdb::Slice end_slice = end;
  const rocksdb::Status done =
      store_.db().CompactRange(options, store_.family(Family::bulk), &begin_slice, &end_slice);
  if (!done.ok() && !stopping_)
    log::debug("store {}: space is not reclaimed now: {}", store_.path(), done.ToString());
}

}  // namespace fdbnbd::kv
