#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fdbnbd {

// "10G", "1.5T", "512", "100MB": K M G T P (with or without "iB") are powers of two, KB MB GB TB PB powers of
// ten, a bare number is bytes. Fails with Errc::invalid, also where the value is not whole or passes 2^63
// - 1.
Result<uint64_t> parse_size(std::string_view text);

// "1.5 GiB"; exact bytes below 1 KiB.
std::string format_size(uint64_t bytes);

}  // namespace fdbnbd
