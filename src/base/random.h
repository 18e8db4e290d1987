#pragma once

#include <cstdint>

namespace fdbnbd {

// A small fast generator (xoshiro256**), the same numbers for the same seed on every machine. Not for
// secrets. One thread at a time.
class Random {
 public:
  using result_type = uint64_t;

  explicit Random(uint64_t seed);
  // Seeded by the operating system.
  static Random from_entropy();

  uint64_t next();
  // Uniform in [0, bound); bound > 0.
  uint64_t below(uint64_t bound);
  // True once in `n` calls on average.
  bool one_in(uint64_t n) { return below(n) == 0; }

  // So that <random> and <algorithm> accept it.
  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return UINT64_MAX; }
  uint64_t operator()() { return next(); }

 private:
  uint64_t state_[4];
};

}  // namespace fdbnbd
