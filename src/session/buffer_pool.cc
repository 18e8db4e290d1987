#include "session/buffer_pool.h"

#include <sys/mman.h>

#include <bit>
#include <new>

#include "base/assert.h"
#include "base/checked_math.h"
#include "base/limits.h"

namespace fdbnbd::session {

namespace {

// From here on memory comes from the operating system itself: the allocator would keep it, and fragment.
constexpr size_t kMapBytes = 128 * limits::kKiB;
constexpr auto kAlignment = std::align_val_t(4096);

std::byte* allocate(size_t bytes) {
  if (bytes < kMapBytes) return static_cast<std::byte*>(::operator new(bytes, kAlignment));
  void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT(memory != MAP_FAILED);
  return static_cast<std::byte*>(memory);
}

void deallocate(std::byte* memory, size_t bytes) {
  if (bytes < kMapBytes) {
    ::operator delete(memory, kAlignment);
  } else {
    ::munmap(memory, bytes);
  }
}

}  // namespace

void Buffer::release() {
  if (pool_ != nullptr) std::exchange(pool_, nullptr)->give_back(memory_, size_bytes_);
}

BufferPool::~BufferPool() {
  for (size_t i = 0; i < free_.size(); ++i) {
    for (std::byte* const memory : free_[i]) deallocate(memory, size_t{1} << (kMinShift + i));
  }
}

uint64_t BufferPool::footprint_bytes(uint64_t size_bytes) {
  return round_up(size_bytes, uint64_t{1} << kMinShift);
}

std::vector<std::byte*>* BufferPool::list_for(size_t footprint_bytes) {
  if (!std::has_single_bit(footprint_bytes)) return nullptr;
  const auto shift = static_cast<size_t>(std::countr_zero(footprint_bytes));
  return shift <= kMaxShift ? &free_[shift - kMinShift] : nullptr;
}

Buffer BufferPool::take(size_t size_bytes) {
  ASSERT(size_bytes > 0);
  const size_t footprint = footprint_bytes(size_bytes);
  std::vector<std::byte*>* const list = list_for(footprint);
  if (list == nullptr || list->empty()) return {*this, allocate(footprint), size_bytes};
  std::byte* const memory = list->back();
  list->pop_back();
  pooled_bytes_ -= footprint;
  return {*this, memory, size_bytes};
}

void BufferPool::give_back(std::byte* memory, size_t size_bytes) {
  const size_t footprint = footprint_bytes(size_bytes);
  std::vector<std::byte*>* const list = list_for(footprint);
  if (list == nullptr || pooled_bytes_ + footprint > limits::kPooledBufferBytes) {
    deallocate(memory, footprint);
    return;
  }
  list->push_back(memory);
  pooled_bytes_ += footprint;
}

}  // namespace fdbnbd::session
