#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fdbnbd::config {

// "NAME=SIZE" of --volume. The name is checked by whoever makes the volume.
struct VolumeSpec {
  std::string name;
  uint64_t size_bytes = 0;

  friend bool operator==(const VolumeSpec&, const VolumeSpec&) = default;
};
// Errc::invalid otherwise.
Result<VolumeSpec> parse_volume_spec(std::string_view text);

}  // namespace fdbnbd::config
