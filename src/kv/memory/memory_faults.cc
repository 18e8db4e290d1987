#include "kv/memory/memory_faults.h"

#include "base/assert.h"

namespace fdbnbd::kv {

void MemoryFaults::fail_next_commits(CommitFault fault, uint32_t count) {
  const std::lock_guard lock(mutex_);
  next_faults_.insert(next_faults_.end(), count, fault);
}

void MemoryFaults::fail_commits_randomly(CommitFault fault, uint32_t per_million) {
  const std::lock_guard lock(mutex_);
  per_million_[static_cast<size_t>(fault)] = per_million;
}

void MemoryFaults::fail_next_sync() {
  const std::lock_guard lock(mutex_);
  fail_sync_ = true;
}

void MemoryFaults::set_full(bool full) {
  const std::lock_guard lock(mutex_);
  full_ = full;
}

void MemoryFaults::set_unreadable(std::string_view key, bool unreadable) {
  const std::lock_guard lock(mutex_);
  if (unreadable) {
    unreadable_.emplace(key);
  } else if (const auto found = unreadable_.find(key); found != unreadable_.end()) {
    unreadable_.erase(found);
  }
}

void MemoryFaults::set_unavailable(bool unavailable) {
  const std::lock_guard lock(mutex_);
  unavailable_ = unavailable;
}

void MemoryFaults::set_latency(Duration min, Duration max) {
  ASSERT(min <= max);
  const std::lock_guard lock(mutex_);
  min_latency_ = min;
  max_latency_ = max;
}

std::optional<CommitFault> MemoryFaults::take_commit_fault() {
  const std::lock_guard lock(mutex_);
  if (!next_faults_.empty()) {
    const CommitFault fault = next_faults_.front();
    next_faults_.pop_front();
    return fault;
  }
  for (size_t i = 0; i < per_million_.size(); ++i)
    if (per_million_[i] > 0 && random_.below(1'000'000) < per_million_[i]) return static_cast<CommitFault>(i);
  return std::nullopt;
}

bool MemoryFaults::take_sync_fault() {
  const std::lock_guard lock(mutex_);
  return std::exchange(fail_sync_, false);
}

bool MemoryFaults::full() const {
  const std::lock_guard lock(mutex_);
  return full_;
}

bool MemoryFaults::unavailable() const {
  const std::lock_guard lock(mutex_);
  return unavailable_;
}

bool MemoryFaults::is_unreadable(std::string_view key) const {
  const std::lock_guard lock(mutex_);
  return !unreadable_.empty() && unreadable_.contains(key);
}

Duration MemoryFaults::draw_latency() {
  const std::lock_guard lock(mutex_);
  const auto span_ns = static_cast<uint64_t>((max_latency_ - min_latency_).count());
  if (span_ns == 0) return min_latency_;
  return min_latency_ + Duration(static_cast<Duration::rep>(random_.below(span_ns + 1)));
}

uint64_t MemoryFaults::draw(uint64_t bound) {
  const std::lock_guard lock(mutex_);
  return random_.below(bound);
}

}  // namespace fdbnbd::kv
