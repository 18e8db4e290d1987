#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace fdbnbd {

// Big-endian integers at any alignment: NBD's wire and our keys.

template <std::unsigned_integral T>
constexpr T byte_swap(T value) {
  static_assert(std::endian::native == std::endian::little, "only little-endian hosts are supported");
  if constexpr (sizeof(T) == 1) return value;
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
}

// `from` has at least sizeof(T) bytes.
template <std::unsigned_integral T>
T load_be(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return byte_swap(value);
}

// `to` has room for sizeof(T) bytes.
template <std::unsigned_integral T>
void store_be(void* to, T value) {
  value = byte_swap(value);
  std::memcpy(to, &value, sizeof value);
}

template <std::unsigned_integral T>
void append_be(std::string& to, T value) {
  char bytes[sizeof(T)];
  store_be(bytes, value);
  to.append(bytes, sizeof bytes);
}

}  // namespace fdbnbd
