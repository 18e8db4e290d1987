#pragma once

#include <cstddef>
#include <string>
#include <string_view>

// Text that came from somewhere else.

namespace fdbnbd {

// Whether `text` is UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF. NUL is valid here.
bool is_valid_utf8(std::string_view text);

// `text` in printable form on one line, for logs and messages: valid UTF-8 stays, control characters, the
// backslash and bytes that are no UTF-8 become \xNN. Cut with "..." so that the result is at most
// `bytes_limit` bytes; bytes_limit >= 3.
std::string escaped(std::string_view text, size_t bytes_limit);

// The longest prefix of `text` that is at most `bytes_limit` bytes and does not end inside a character.
std::string_view utf8_prefix(std::string_view text, size_t bytes_limit);

}  // namespace fdbnbd
