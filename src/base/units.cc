#include "base/units.h"

#include <fmt/core.h>

#include <array>
#include <cctype>
#include <charconv>
#include <utility>

namespace fdbnbd {

namespace {

using uint128 = unsigned __int128;

Result<uint64_t> unit_bytes(std::string_view unit, std::string_view whole) {
  static constexpr std::string_view kPrefixes = "KMGTP";
  if (unit.empty() || unit == "B" || unit == "b") return 1;
  std::string upper;
  for (const char c : unit) upper += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  const auto power = kPrefixes.find(upper[0]);
  const std::string_view rest = std::string_view(upper).substr(1);
  if (power == std::string_view::npos || !(rest.empty() || rest == "B" || rest == "IB")) {
    return fail(Errc::invalid, fmt::format("\"{}\" is not a size: use a number with K, M, G, T or P", whole));
  }
  const uint64_t step = rest == "B" ? 1000 : 1024;
  uint64_t value = 1;
  for (size_t i = 0; i <= power; ++i) value *= step;
  return value;
}

}  // namespace

Result<uint64_t> parse_size(std::string_view text) {
  const auto bad = [&] {
    return fail(Errc::invalid, fmt::format("\"{}\" is not a size: use a number with K, M, G, T or P", text));
  };
  uint64_t whole = 0;
  const char* const end = text.data() + text.size();
  auto [rest, error] = std::from_chars(text.data(), end, whole);
  if (error == std::errc::result_out_of_range)
    return fail(Errc::invalid, fmt::format("size \"{}\" is too large", text));
  if (error != std::errc{}) return bad();
  uint64_t fraction = 0;
  uint64_t fraction_scale = 1;
  if (rest != end && *rest == '.') {
    ++rest;
    const char* const digits = rest;
    while (rest != end && *rest >= '0' && *rest <= '9') {
      if (rest - digits >= 9) return bad();
      fraction = fraction * 10 + static_cast<uint64_t>(*rest - '0');
      fraction_scale *= 10;
      ++rest;
    }
    if (rest == digits) return bad();
  }
  ASSIGN_OR_RETURN(const uint64_t unit, unit_bytes({rest, static_cast<size_t>(end - rest)}, text));
  const uint128 scaled_fraction = uint128{fraction} * unit;
  if (scaled_fraction % fraction_scale != 0) {
    return fail(Errc::invalid, fmt::format("size \"{}\" is not a whole number of bytes", text));
  }
  const uint128 bytes = uint128{whole} * unit + scaled_fraction / fraction_scale;
  if (bytes > uint128{INT64_MAX}) return fail(Errc::invalid, fmt::format("size \"{}\" is too large", text));
  return static_cast<uint64_t>(bytes);
}

std::string format_size(uint64_t bytes) {
  static constexpr std::array kUnits = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  // Whole numbers stay short; others show enough to tell sizes apart.
  if (value == static_cast<double>(static_cast<uint64_t>(value)))
    return fmt::format("{:.0f} {}", value, kUnits[unit]);
  return fmt::format("{:.2f} {}", value, kUnits[unit]);
}

}  // namespace fdbnbd
