#pragma once

#include <array>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <deque>

namespace fdbnbd {

// Locks on ranges [begin, end) of one space, shared or exclusive, in order of arrival: a request waits for
// every earlier one that overlaps it and conflicts with it, granted or not, so nobody starves. All on one
// thread.
//
// Cost: one pass over the granted and waiting ranges for each request that has one of them near it, and for
// each release while somebody waits; they are bounded by limits::kMaxRequestsPerVolume.
class RangeLock {
 public:
  enum class Mode : uint8_t { shared, exclusive };

  RangeLock() = default;
  RangeLock(const RangeLock&) = delete;
  RangeLock& operator=(const RangeLock&) = delete;
  ~RangeLock();

  // A granted lock; releases when destroyed. May resume waiters inside the release, so release last.
  class [[nodiscard]] Guard {
   public:
    // In the awaiting coroutine's frame. `begin` < `end`.
    Guard(RangeLock& lock, uint64_t begin, uint64_t end, Mode mode)
        : lock_(lock), begin_(begin), end_(end), mode_(mode) {}
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    ~Guard() { release(); }

    // `co_await guard.acquire()`, once.
    auto acquire() {
      struct Awaiter {
        bool await_ready() const { return guard.lock_.enter(guard); }
        void await_suspend(std::coroutine_handle<> waiter) const noexcept { guard.waiter_ = waiter; }
        void await_resume() const noexcept {}
        Guard& guard;
      };
      return Awaiter{*this};
    }

    // Gives the lock back before the guard ends.
    void release() {
      if (entered_) lock_.leave(*this);
    }

   private:
    friend class RangeLock;
    bool conflicts_with(const Guard& other) const {
      return begin_ < other.end_ && other.begin_ < end_ &&
             (mode_ == Mode::exclusive || other.mode_ == Mode::exclusive);
    }

    uint64_t first_piece() const { return begin_ / kPieceLength; }
    uint64_t end_piece() const { return (end_ - 1) / kPieceLength + 1; }
    bool is_long() const { return end_piece() - first_piece() > kMaxPieces; }

    RangeLock& lock_;
    const uint64_t begin_;
    const uint64_t end_;
    const Mode mode_;
    bool entered_ = false;
    size_t blockers_count_ = 0;  // earlier conflicting requests that are not released yet
    std::coroutine_handle<> waiter_;
    Guard* previous_ = nullptr;
    Guard* next_ = nullptr;
  };

  // Granted and waiting requests.
  size_t size() const { return size_; }

 private:
  // A filter of where the requests are: pieces of the space, of which several share a counter.
  static constexpr uint64_t kPieceLength = 64;
  static constexpr size_t kCountersCount = 512;
  static constexpr uint64_t kMaxPieces = 8;  // of a range that has its pieces counted

  bool enter(Guard& guard);
  void leave(Guard& guard);
  // False where no request can overlap `guard`.
  bool has_neighbours(const Guard& guard) const;
  void count(const Guard& guard, int change);

  // All requests in order of arrival.
  Guard* first_ = nullptr;
  Guard* last_ = nullptr;
  size_t size_ = 0;
  size_t waiting_count_ = 0;
  size_t long_count_ = 0;  // with more than kMaxPieces
  std::array<uint32_t, kCountersCount> near_{};
  // Granted by a release and not resumed yet. Only the outermost release resumes, so a long queue of requests
  // that end at once does not nest on the stack.
  std::deque<std::coroutine_handle<>> runnable_;
  bool resuming_ = false;
};

}  // namespace fdbnbd
