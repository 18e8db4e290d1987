#include "kv/rocks/fast_crc32c.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "base/random.h"

namespace fdbnbd::kv {
namespace {

#if defined(__x86_64__)

using ExtendFunction = uint32_t (*)(uint32_t, const char*, size_t);

ExtendFunction find(void* where) {
  return reinterpret_cast<ExtendFunction>(::dlsym(where, "_ZN7rocksdb6crc32c6ExtendEjPKcm"));
}

void* main_program_base() {
  Dl_info info{};
  return ::dladdr(reinterpret_cast<void*>(&crc32c_is_correct), &info) != 0 ? info.dli_fbase : nullptr;
}

TEST(FastCrc32c, IsTheOneThatTheLibraryCalls) {
  const ExtendFunction used = find(RTLD_DEFAULT);
  ASSERT_NE(used, nullptr);
  Dl_info info{};
  ASSERT_NE(::dladdr(reinterpret_cast<void*>(used), &info), 0);
  EXPECT_EQ(info.dli_fbase, main_program_base()) << "librocksdb computes CRC-32C with its own tables";
}

TEST(FastCrc32c, EqualsTheLibrarysForEveryLengthAndAlignment) {
  const ExtendFunction ours = find(RTLD_DEFAULT);
  const ExtendFunction of_library = find(RTLD_NEXT);
  ASSERT_NE(of_library, nullptr);
  ASSERT_NE(ours, of_library);
  constexpr size_t kMaxLength = 300;
  constexpr size_t kMaxOffset = 16;
  Random random(1);
  std::string data(kMaxLength + kMaxOffset, '\0');
  for (char& byte : data) byte = static_cast<char>(random.next());
  for (size_t offset = 0; offset < kMaxOffset; ++offset) {
    for (size_t length = 0; length <= kMaxLength; ++length) {
      const auto initial = static_cast<uint32_t>(random.next());
      ASSERT_EQ(ours(initial, data.data() + offset, length),
                of_library(initial, data.data() + offset, length))
          << "offset " << offset << ", length " << length;
    }
  }
}

#endif

TEST(FastCrc32c, HasThePublishedCheckValue) {
  EXPECT_TRUE(crc32c_is_correct());
}

}  // namespace
}  // namespace fdbnbd::kv
