#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/bytes.h"

namespace fdbnbd::session {

class BufferPool;

// Memory for one request's data; back to its pool at its end. Page-aligned.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), memory_(other.memory_), size_bytes_(other.size_bytes_) {}
  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) {
      release();
      pool_ = std::exchange(other.pool_, nullptr);
      memory_ = other.memory_;
      size_bytes_ = other.size_bytes_;
    }
    return *this;
  }
  ~Buffer() { release(); }

  MutableByteView bytes() const {
    return pool_ == nullptr ? MutableByteView() : MutableByteView(memory_, size_bytes_);
  }
  void release();

 private:
  friend class BufferPool;
  Buffer(BufferPool& pool, std::byte* memory, size_t size_bytes)
      : pool_(&pool), memory_(memory), size_bytes_(size_bytes) {}

  BufferPool* pool_ = nullptr;
  std::byte* memory_ = nullptr;
  size_t size_bytes_ = 0;
};

// Recycles the buffers of one loop's sessions: sizes that are a power of two, up to
// limits::kPooledBufferBytes together. What is not recycled goes back to the operating system at once, so
// that the memory of the process follows its budget. One thread.
class BufferPool {
 public:
  BufferPool() = default;
  // All buffers are back.
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // The contents are whatever was there. size_bytes > 0.
  Buffer take(size_t size_bytes);

  // What a buffer of this size really occupies.
  static uint64_t footprint_bytes(uint64_t size_bytes);

  uint64_t pooled_bytes() const { return pooled_bytes_; }

 private:
  friend class Buffer;
  static constexpr size_t kMinShift = 12;
  static constexpr size_t kMaxShift = 22;

  void give_back(std::byte* memory, size_t size_bytes);
  // The free list for this size, or null where it is not recycled.
  std::vector<std::byte*>* list_for(size_t footprint_bytes);

  std::array<std::vector<std::byte*>, kMaxShift - kMinShift + 1> free_;
  uint64_t pooled_bytes_ = 0;
};

}  // namespace fdbnbd::session
