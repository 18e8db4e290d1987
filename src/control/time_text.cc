#include "control/time_text.h"

#include <fmt/core.h>

#include <array>
#include <charconv>
#include <chrono>

namespace fdbnbd::control {

std::string format_time(WallTime time) {
  const auto day = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(std::chrono::floor<std::chrono::seconds>(time - day));
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", static_cast<int>(date.year()),
                     static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                     clock.hours().count(), clock.minutes().count(), clock.seconds().count());
}

Result<WallTime> parse_time(std::string_view text) {
  static constexpr std::string_view kPattern = "0000-00-00T00:00:00Z";
  const auto bad = [&] { return fail(Errc::invalid, fmt::format("\"{}\" is not a time", text)); };
  if (text.size() != kPattern.size()) return bad();
  std::array<int, 6> parts{};
  size_t part = 0;
  for (size_t i = 0; i < kPattern.size(); ++i) {
    if (kPattern[i] != '0') {
      if (text[i] != kPattern[i]) return bad();
      ++part;
    } else {
      if (text[i] < '0' || text[i] > '9') return bad();
      parts.at(part) = parts.at(part) * 10 + (text[i] - '0');
    }
  }
  const auto [year, month, day, hours, minutes, seconds] = parts;
  const std::chrono::year_month_day date{std::chrono::year(year),
                                         std::chrono::month(static_cast<unsigned>(month)),
                                         std::chrono::day(static_cast<unsigned>(day))};
  if (!date.ok() || hours > 23 || minutes > 59 || seconds > 59) return bad();
  return WallTime(std::chrono::sys_days(date)) + std::chrono::hours(hours) + std::chrono::minutes(minutes) +
         std::chrono::seconds(seconds);
}

}  // namespace fdbnbd::control
