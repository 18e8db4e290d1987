#include "session/byte_budget.h"

#include <algorithm>

#include "base/assert.h"

namespace fdbnbd::session {

namespace {

constexpr size_t index(ByteBudget::Pool pool) {
  return static_cast<size_t>(pool);
}

constexpr uint64_t reserve_of(const SessionLimits& limits) {
  return std::min(limits.reserved_for_small_bytes, limits.process_bytes / 2);
}

}  // namespace

ByteBudget::ByteBudget(const SessionLimits& limits)
    : capacity_bytes_{limits.process_bytes - reserve_of(limits), reserve_of(limits)},
      free_bytes_{capacity_bytes_[0], capacity_bytes_[1]} {}

ByteBudget::~ByteBudget() {
  ASSERT(used_bytes() == 0 && !contended());
}

ByteBudget::Lease& ByteBudget::Lease::operator=(Lease&& other) noexcept {
  if (this != &other) {
    shrink_to(0);
    budget_ = std::exchange(other.budget_, nullptr);
    bytes_ = other.bytes_;
    pool_ = other.pool_;
  }
  return *this;
}

void ByteBudget::Lease::shrink_to(uint64_t bytes) {
  if (budget_ == nullptr || bytes >= bytes_) return;
  budget_->give_back(pool_, bytes_ - bytes);
  bytes_ = bytes;
  if (bytes == 0) budget_ = nullptr;
}

uint64_t ByteBudget::clamp(uint64_t bytes, Size size) const {
  const uint64_t most =
      size == Size::small ? std::max(capacity_bytes_[0], capacity_bytes_[1]) : capacity_bytes_[0];
  return std::min(bytes, most);
}

bool ByteBudget::fits(Pool pool, uint64_t bytes) const {
  return bytes <= free_bytes_[index(pool)];
}

std::optional<ByteBudget::Pool> ByteBudget::place_for(uint64_t bytes, Size size, bool from_queue) const {
  // Somebody who came earlier goes first; a small one may pass a large one only by way of the reserve.
  if (size == Size::large) {
    if ((from_queue || large_.first == nullptr) && fits(Pool::general, bytes)) return Pool::general;
    return std::nullopt;
  }
  if (!from_queue && small_.first != nullptr) return std::nullopt;
  if (large_.first == nullptr && fits(Pool::general, bytes)) return Pool::general;
  if (fits(Pool::reserve, bytes)) return Pool::reserve;
  return std::nullopt;
}

void ByteBudget::take(Pool pool, uint64_t bytes) {
  free_bytes_[index(pool)] -= bytes;
  used_bytes_.fetch_add(bytes, std::memory_order_relaxed);
}

std::optional<ByteBudget::Lease> ByteBudget::try_acquire(uint64_t bytes, Size size) {
  bytes = clamp(bytes, size);
  const std::lock_guard lock(mutex_);
  const auto pool = place_for(bytes, size, false);
  if (!pool) return std::nullopt;
  take(*pool, bytes);
  return Lease(*this, *pool, bytes);
}

void ByteBudget::give_back(Pool pool, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  free_bytes_[index(pool)] += bytes;
  ASSERT(free_bytes_[index(pool)] <= capacity_bytes_[index(pool)]);
  used_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  if (small_.first != nullptr || large_.first != nullptr) grant_waiting();
}

void ByteBudget::grant_waiting() {
  for (const Size size : {Size::large, Size::small}) {
    Queue& queue = queue_of(size);
    while (Acquisition* const waiter = queue.first) {
      const auto pool = place_for(waiter->bytes_, size, true);
      if (!pool) break;
      take(*pool, waiter->bytes_);
      dequeue(*waiter);
      waiter->lease_.emplace(Lease(*this, *pool, waiter->bytes_));
      waiter->executor_.post(*waiter);
    }
  }
}

void ByteBudget::enqueue(Acquisition& waiter) {
  Queue& queue = queue_of(waiter.size_);
  waiter.queued_ = true;
  waiter.previous_ = queue.last;
  (queue.last == nullptr ? queue.first : queue.last->next_) = &waiter;
  queue.last = &waiter;
  waiting_count_.fetch_add(1, std::memory_order_relaxed);
}

void ByteBudget::dequeue(Acquisition& waiter) {
  Queue& queue = queue_of(waiter.size_);
  (waiter.previous_ == nullptr ? queue.first : waiter.previous_->next_) = waiter.next_;
  (waiter.next_ == nullptr ? queue.last : waiter.next_->previous_) = waiter.previous_;
  waiter.previous_ = waiter.next_ = nullptr;
  waiter.queued_ = false;
  waiting_count_.fetch_sub(1, std::memory_order_relaxed);
}

ByteBudget::Acquisition::Acquisition(ByteBudget& budget, Executor& executor, uint64_t bytes, Size size)
    : budget_(budget), executor_(executor), bytes_(budget.clamp(bytes, size)), size_(size) {}

bool ByteBudget::Acquisition::await_suspend(std::coroutine_handle<> waiter) {
  waiter_ = waiter;
  const std::lock_guard lock(budget_.mutex_);
  if (const auto pool = budget_.place_for(bytes_, size_, false)) {
    budget_.take(*pool, bytes_);
    lease_.emplace(Lease(budget_, *pool, bytes_));
    return false;
  }
  budget_.enqueue(*this);
  return true;
}

void ByteBudget::Acquisition::cancel() {
  const std::lock_guard lock(budget_.mutex_);
  if (!queued_) return;
  budget_.dequeue(*this);
  executor_.post(*this);
  // Those behind it may fit where it did not.
  budget_.grant_waiting();
}

}  // namespace fdbnbd::session
