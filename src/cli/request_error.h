#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fdbnbd::cli {

// The code that fits `error`, an errno that an NBD server gave or a connection ended with.
Errc errc_of_errno(int error);

// "volume "V": WHAT of N bytes at offset O failed: ...", with what to do next where it is known. `error` is
// an errno.
Error request_error(const std::string& volume, std::string_view what, uint64_t offset_bytes,
                    uint64_t length_bytes, int error);

}  // namespace fdbnbd::cli
