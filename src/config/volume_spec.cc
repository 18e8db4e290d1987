#include "config/volume_spec.h"

#include <fmt/core.h>

#include "base/units.h"

namespace fdbnbd::config {

Result<VolumeSpec> parse_volume_spec(std::string_view text) {
  const auto equals = text.rfind('=');
  if (equals == std::string_view::npos || equals == 0) {
    return fail(Errc::invalid, fmt::format("\"{}\" is not NAME=SIZE, as example=1G", text));
  }
  ASSIGN_OR_RETURN(const uint64_t size_bytes, parse_size(text.substr(equals + 1)));
  return VolumeSpec{.name = std::string(text.substr(0, equals)), .size_bytes = size_bytes};
}

}  // namespace fdbnbd::config
