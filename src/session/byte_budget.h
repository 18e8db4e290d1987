#pragma once

#include <atomic>
#include <coroutine>
#include <cstdint>
#include <mutex>
#include <optional>
#include <utility>

#include "async/executor.h"
#include "session/session_limits.h"

namespace fdbnbd::session {

// The memory that requests of all connections may hold together. Two pools: the general one, first come first
// served, and a reserve for small requests only, so that a few large ones do not stop everybody else. A small
// request takes from the general pool where nobody waits for it, else from the reserve. Any thread.
class ByteBudget {
 public:
  explicit ByteBudget(const SessionLimits& limits);
  // Every lease is back and nobody waits.
  ~ByteBudget();
  ByteBudget(const ByteBudget&) = delete;
  ByteBudget& operator=(const ByteBudget&) = delete;

  enum class Size { small, large };
  enum class Pool : uint8_t { general, reserve };

  // A part of the budget, given back at its end.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept
        : budget_(std::exchange(other.budget_, nullptr)), bytes_(other.bytes_), pool_(other.pool_) {}
    Lease& operator=(Lease&& other) noexcept;
    ~Lease() { shrink_to(0); }

    uint64_t bytes() const { return budget_ == nullptr ? 0 : bytes_; }
    // Gives back all but `bytes`; nothing where it is not more than that.
    void shrink_to(uint64_t bytes);

   private:
    friend class ByteBudget;
    Lease(ByteBudget& budget, Pool pool, uint64_t bytes) : budget_(&budget), bytes_(bytes), pool_(pool) {}

    ByteBudget* budget_ = nullptr;
    uint64_t bytes_ = 0;
    Pool pool_ = Pool::general;
  };

  // `bytes` now, or nothing where they would have to be waited for. More than there ever is counts as all.
  std::optional<Lease> try_acquire(uint64_t bytes, Size size);

  // `co_await` it: the lease, in order of arrival among those of its size, or nothing after cancel().
  class Acquisition;

  uint64_t used_bytes() const { return used_bytes_.load(std::memory_order_relaxed); }
  // Whether anybody waits.
  bool contended() const { return waiting_count_.load(std::memory_order_relaxed) > 0; }

 private:
  struct Queue {
    Acquisition* first = nullptr;
    Acquisition* last = nullptr;
  };

  // All with mutex_ held.
  std::optional<Pool> place_for(uint64_t bytes, Size size, bool from_queue) const;
  bool fits(Pool pool, uint64_t bytes) const;
  void take(Pool pool, uint64_t bytes);
  Queue& queue_of(Size size) { return size == Size::small ? small_ : large_; }
  void enqueue(Acquisition& waiter);
  void dequeue(Acquisition& waiter);
  void grant_waiting();

  void give_back(Pool pool, uint64_t bytes);
  uint64_t clamp(uint64_t bytes, Size size) const;

  const uint64_t capacity_bytes_[2];  // by Pool
  std::mutex mutex_;
  uint64_t free_bytes_[2];  // by Pool; guarded by mutex_
  Queue small_;             // guarded by mutex_
  Queue large_;             // guarded by mutex_
  std::atomic<uint64_t> used_bytes_{0};
  std::atomic<uint32_t> waiting_count_{0};
};

class ByteBudget::Acquisition final : private Work {
 public:
  Acquisition(ByteBudget& budget, Executor& executor, uint64_t bytes, Size size);
  Acquisition(const Acquisition&) = delete;
  Acquisition& operator=(const Acquisition&) = delete;

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> waiter);
  std::optional<Lease> await_resume() { return std::move(lease_); }

  // Ends the wait without a lease, unless it has one already. On the executor's thread.
  void cancel();

 private:
  friend class ByteBudget;
  void run() noexcept override { waiter_.resume(); }

  ByteBudget& budget_;
  Executor& executor_;
  const uint64_t bytes_;
  const Size size_;
  std::optional<Lease> lease_;
  std::coroutine_handle<> waiter_;
  Acquisition* previous_ = nullptr;
  Acquisition* next_ = nullptr;
  bool queued_ = false;  // guarded by the budget's mutex
};

}  // namespace fdbnbd::session
