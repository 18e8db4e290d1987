#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

#include "base/random.h"
#include "base/result.h"

// What the micro-benchmarks share.

namespace fdbnbd::bench {

// A new directory that goes with the object; on the disk that $TMPDIR names, else in /var/tmp.
class ScratchDirectory {
 public:
  ScratchDirectory() {
    const char* parent = std::getenv("TMPDIR");
    path_ = std::string(parent == nullptr ? "/var/tmp" : parent) + "/fdb-nbd-microbench-XXXXXX";
    if (mkdtemp(path_.data()) == nullptr) std::abort();
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Bytes of which `compressible_percent` of every 512 are zero and the rest is random. A multiple of 8.
inline std::string sample_data(size_t length_bytes, unsigned compressible_percent, uint64_t seed) {
  constexpr size_t kChunkBytes = 512;
  Random random(seed);
  std::string data(length_bytes, '\0');
  for (size_t index = 0; index + sizeof(uint64_t) <= length_bytes; index += sizeof(uint64_t)) {
    if (index % kChunkBytes * 100 < kChunkBytes * compressible_percent) continue;
    const uint64_t word = random.next();
    std::memcpy(&data[index], &word, sizeof(word));
  }
  return data;
}

// The value of a result that a benchmark cannot go on without; ends the program with its error otherwise.
template <typename T>
T require(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "micro-benchmark: %s\n", result.error().what.c_str());
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

}  // namespace fdbnbd::bench
