#include "kv/rocks/fast_crc32c.h"

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/assert.h"

#if defined(__x86_64__)

#include <nmmintrin.h>

namespace rocksdb::crc32c {

// The CRC of `data` appended to what has the CRC `initial`. Declared in a header that RocksDB does not
// install.
uint32_t Extend(uint32_t initial, const char* data, size_t length);

}  // namespace rocksdb::crc32c

namespace fdbnbd::kv {

namespace {

using ExtendFunction = uint32_t (*)(uint32_t, const char*, size_t);

// Not for ThreadSanitizer, which does not see how the library hands its buffers from thread to thread.
__attribute__((target("sse4.2"), no_sanitize("thread"))) uint32_t extend_with_instruction(uint32_t initial,
                                                                                          const char* data,
                                                                                          size_t length) {
  uint64_t crc = ~initial;
  for (; length >= sizeof(uint64_t); length -= sizeof(uint64_t), data += sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, data, sizeof(word));
    crc = _mm_crc32_u64(crc, word);
  }
  auto crc32 = static_cast<uint32_t>(crc);
  for (; length > 0; --length, ++data) crc32 = _mm_crc32_u8(crc32, static_cast<uint8_t>(*data));
  return ~crc32;
}

ExtendFunction choose() {
  if (__builtin_cpu_supports("sse4.2")) return extend_with_instruction;
  void* const of_library = ::dlsym(RTLD_NEXT, "_ZN7rocksdb6crc32c6ExtendEjPKcm");
  ASSERT(of_library != nullptr);
  return reinterpret_cast<ExtendFunction>(of_library);
}

}  // namespace

bool crc32c_is_correct() {
  constexpr char kCheckInput[] = "123456789";
  constexpr uint32_t kCheckValue = 0xe3069283;
  return rocksdb::crc32c::Extend(0, kCheckInput, sizeof(kCheckInput) - 1) == kCheckValue;
}

}  // namespace fdbnbd::kv

__attribute__((visibility("default"))) uint32_t rocksdb::crc32c::Extend(uint32_t initial, const char* data,
                                                                        size_t length) {
  static const fdbnbd::kv::ExtendFunction extend = fdbnbd::kv::choose();
  return extend(initial, data, length);
}

#else

namespace fdbnbd::kv {

// Other processors' builds of RocksDB choose the instruction themselves.
bool crc32c_is_correct() {
  return true;
}

}  // namespace fdbnbd::kv

#endif
