#pragma once

#include <string_view>

namespace fdbnbd::volume {

// Whether `text` is well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms).
bool is_utf8(std::string_view text);

}  // namespace fdbnbd::volume
