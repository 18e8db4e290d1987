#pragma once

#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"

namespace fdbnbd::control {

// "2026-01-31T12:00:00Z" (RFC 3339, in UTC, whole seconds).
std::string format_time(WallTime time);

// What format_time() writes; Errc::invalid otherwise.
Result<WallTime> parse_time(std::string_view text);

}  // namespace fdbnbd::control
