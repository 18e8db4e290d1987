#include "volume/presence.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>

#include "base/assert.h"
#include "base/bytes.h"

namespace fdbnbd::volume {

namespace {

static_assert(std::endian::native == std::endian::little, "bit planes are stored as little-endian words");

using Planes = std::array<uint64_t, 2 * ExtentBits::kWords>;
static_assert(sizeof(Planes) == ExtentBits::kStoredBytes);

std::string planes_as_bytes(const Planes& planes) {
  return {reinterpret_cast<const char*>(planes.data()), sizeof planes};
}

}  // namespace

void ExtentBits::set_state(uint32_t block, BlockState state) {
  const uint64_t bit = uint64_t{1} << (block % 64);
  uint64_t& present = present_[block / 64];
  uint64_t& zero = zero_[block / 64];
  present = (static_cast<uint8_t>(state) & 1) != 0 ? present | bit : present & ~bit;
  zero = (static_cast<uint8_t>(state) & 2) != 0 ? zero | bit : zero & ~bit;
}

uint32_t ExtentBits::run_length(uint32_t block, uint32_t limit) const {
  const auto wanted = static_cast<uint8_t>(state(block));
  const uint32_t end = std::min(kBlocks, block + limit);
  uint32_t at = block;
  while (at < end) {
    const size_t word = at / 64;
    // Bits where the state differs from the wanted one.
    const uint64_t differs = (((wanted & 1) != 0) ? ~present_[word] : present_[word]) |
                             (((wanted & 2) != 0) ? ~zero_[word] : zero_[word]);
    const uint64_t from_here = differs >> (at % 64);
    if (from_here != 0) return std::min(end, at + static_cast<uint32_t>(std::countr_zero(from_here))) - block;
    at += 64 - at % 64;
  }
  return end - block;
}

uint32_t ExtentBits::data_count() const {
  uint32_t count = 0;
  for (size_t i = 0; i < kWords; ++i) count += static_cast<uint32_t>(std::popcount(present_[i] & ~zero_[i]));
  return count;
}

bool ExtentBits::all_absent() const {
  for (size_t i = 0; i < kWords; ++i) {
    if ((present_[i] | zero_[i]) != 0) return false;
  }
  return true;
}

std::string ExtentBits::encode() const {
  Planes planes;
  std::ranges::copy(present_, planes.begin());
  std::ranges::copy(zero_, planes.begin() + kWords);
  return planes_as_bytes(planes);
}

Result<ExtentBits> ExtentBits::decode(std::string_view value) {
  if (value.size() != kStoredBytes) {
    return fail(Errc::corruption,
                fmt::format("a presence bitmap has {} bytes instead of {}", value.size(), kStoredBytes));
  }
  ExtentBits bits;
  std::memcpy(bits.present_.data(), value.data(), kStoredBytes / 2);
  std::memcpy(bits.zero_.data(), value.data() + kStoredBytes / 2, kStoredBytes / 2);
  return bits;
}

std::string ExtentBits::or_operand(const ExtentBits& before, const ExtentBits& after) {
  Planes planes;
  uint64_t any = 0;
  for (size_t i = 0; i < kWords; ++i) {
    planes[i] = after.present_[i] & ~before.present_[i];
    planes[kWords + i] = after.zero_[i] & ~before.zero_[i];
    any |= planes[i] | planes[kWords + i];
  }
  return any == 0 ? std::string() : planes_as_bytes(planes);
}

std::string ExtentBits::and_operand(const ExtentBits& before, const ExtentBits& after) {
  Planes planes;
  uint64_t any = 0;
  for (size_t i = 0; i < kWords; ++i) {
    const uint64_t present_cleared = before.present_[i] & ~after.present_[i];
    const uint64_t zero_cleared = before.zero_[i] & ~after.zero_[i];
    planes[i] = ~present_cleared;
    planes[kWords + i] = ~zero_cleared;
    any |= present_cleared | zero_cleared;
  }
  return any == 0 ? std::string() : planes_as_bytes(planes);
}

}  // namespace fdbnbd::volume
