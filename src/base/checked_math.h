#pragma once

#include <bit>
#include <cstdint>

namespace fdbnbd {

// Whether [offset, offset + length) lies inside [0, size), computed without wrapping.
constexpr bool range_fits(uint64_t offset, uint64_t length, uint64_t size) {
  return offset <= size && length <= size - offset;
}

// `granule` is a power of two; round_up's argument is at most 2^64 - granule.
constexpr uint64_t round_down(uint64_t value, uint64_t granule) {
  return value & ~(granule - 1);
}
constexpr uint64_t round_up(uint64_t value, uint64_t granule) {
  return round_down(value + granule - 1, granule);
}

constexpr uint64_t divide_up(uint64_t value, uint64_t by) {
  return value / by + (value % by != 0 ? 1 : 0);
}

}  // namespace fdbnbd
