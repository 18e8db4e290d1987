#include "async/range_lock.h"

#include "base/assert.h"

namespace fdbnbd {

RangeLock::~RangeLock() {
  ASSERT(size_ == 0);
}

bool RangeLock::enter(Guard& guard) {
  ASSERT(!guard.entered_ && guard.begin_ < guard.end_);
  guard.entered_ = true;
  for (const Guard* earlier = first_; earlier != nullptr; earlier = earlier->next_) {
    if (guard.conflicts_with(*earlier)) ++guard.blockers_count_;
  }
  guard.previous_ = last_;
  (last_ == nullptr ? first_ : last_->next_) = &guard;
  last_ = &guard;
  ++size_;
  return guard.blockers_count_ == 0;
}

void RangeLock::leave(Guard& guard) {
  ASSERT(guard.blockers_count_ == 0);
  for (Guard* later = guard.next_; later != nullptr; later = later->next_) {
    if (later->conflicts_with(guard) && --later->blockers_count_ == 0) runnable_.push_back(later->waiter_);
  }
  (guard.previous_ == nullptr ? first_ : guard.previous_->next_) = guard.next_;
  (guard.next_ == nullptr ? last_ : guard.next_->previous_) = guard.previous_;
  --size_;
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
