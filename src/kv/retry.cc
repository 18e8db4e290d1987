#include "kv/retry.h"

#include <algorithm>

namespace fdbnbd::kv {

Duration backoff(uint32_t attempt, Random& random) {
  using std::chrono::microseconds;
  const uint32_t doublings = std::min<uint32_t>(attempt - 1, 10);
  const uint64_t bound_us = std::min<uint64_t>(uint64_t{1000} << doublings, 1'000'000);
  return microseconds(1 + random.below(bound_us));
}

bool is_retryable(Errc code) {
  return code == Errc::conflict || code == Errc::unavailable;
}

}  // namespace fdbnbd::kv
