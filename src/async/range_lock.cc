#include "async/range_lock.h"

#include "base/assert.h"

namespace fdbnbd {

RangeLock::~RangeLock() {
  ASSERT(size_ == 0);
}

bool RangeLock::has_neighbours(const Guard& guard) const {
  if (guard.is_long() || long_count_ > 0) return size_ > 0;
  for (uint64_t piece = guard.first_piece(); piece < guard.end_piece(); ++piece)
    if (near_[piece % kCountersCount] > 0) return true;
  return false;
}

void RangeLock::count(const Guard& guard, int change) {
  size_ += change;
  if (guard.is_long()) {
    long_count_ += change;
    return;
  }
  for (uint64_t piece = guard.first_piece(); piece < guard.end_piece(); ++piece)
    near_[piece % kCountersCount] += change;
}

bool RangeLock::enter(Guard& guard) {
  ASSERT(!guard.entered_ && guard.begin_ < guard.end_);
  guard.entered_ = true;
  if (has_neighbours(guard)) {
    for (const Guard* earlier = first_; earlier != nullptr; earlier = earlier->next_)
      if (guard.conflicts_with(*earlier)) ++guard.blockers_count_;
  }
  guard.previous_ = last_;
  (last_ == nullptr ? first_ : last_->next_) = &guard;
  last_ = &guard;
  count(guard, 1);
  if (guard.blockers_count_ == 0) return true;
  ++waiting_count_;
  return false;
}

void RangeLock::leave(Guard& guard) {
  ASSERT(guard.blockers_count_ == 0);
  for (Guard* later = guard.next_; later != nullptr && waiting_count_ > 0; later = later->next_) {
    if (!later->conflicts_with(guard) || --later->blockers_count_ > 0) continue;
    --waiting_count_;
    runnable_.push_back(later->waiter_);
  }
  (guard.previous_ == nullptr ? first_ : guard.previous_->next_) = guard.next_;
  (guard.next_ == nullptr ? last_ : guard.next_->previous_) = guard.previous_;
  count(guard, -1);
  guard.entered_ = false;
  if (resuming_) return;
  resuming_ = true;
  while (!runnable_.empty()) {
    const auto waiter = runnable_.front();
    runnable_.pop_front();
    waiter.resume();
  }
  resuming_ = false;
}

}  // namespace fdbnbd
