#include "base/text.h"

#include <cstdint>

#include "base/assert.h"

namespace fdbnbd {

namespace {

constexpr std::string_view kEllipsis = "...";

// The bytes of the character that `text` begins with; 0 where that is no UTF-8. `text` is not empty.
size_t character_bytes(std::string_view text) {
  const auto byte = [&](size_t index) { return static_cast<uint8_t>(text[index]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  size_t length = 0;
  uint8_t second_min = 0x80;
  uint8_t second_max = 0xbf;
  if (first >= 0xc2 && first <= 0xdf) {
    length = 2;
  } else if (first >= 0xe0 && first <= 0xef) {
    length = 3;
    if (first == 0xe0) second_min = 0xa0;  // overlong
    if (first == 0xed) second_max = 0x9f;  // surrogates
  } else if (first >= 0xf0 && first <= 0xf4) {
    length = 4;
    if (first == 0xf0) second_min = 0x90;  // overlong
    if (first == 0xf4) second_max = 0x8f;  // above U+10FFFF
  } else {
    return 0;
  }
  if (text.size() < length || byte(1) < second_min || byte(1) > second_max) return 0;
  for (size_t index = 2; index < length; ++index)
    if ((byte(index) & 0xc0) != 0x80) return 0;
  return length;
}

// C0 and C1 controls, DEL, and the backslash that begins our own escapes.
bool needs_escape(std::string_view character) {
  const auto first = static_cast<uint8_t>(character[0]);
  if (first < 0x20 || first == 0x7f || first == '\\') return true;
  return character.size() == 2 && first == 0xc2 && static_cast<uint8_t>(character[1]) < 0xa0;
}

}  // namespace

bool is_valid_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t bytes = character_bytes(text);
    if (bytes == 0) return false;
    text.remove_prefix(bytes);
  }
  return true;
}

std::string escaped(std::string_view text, size_t bytes_limit) {
  ASSERT(bytes_limit >= kEllipsis.size());
  constexpr char kHex[] = "0123456789abcdef";
  std::string result;
  size_t cut_bytes = 0;  // how much of the result fits with the ellipsis behind it
  while (!text.empty()) {
    const size_t valid_bytes = character_bytes(text);
    const std::string_view character = text.substr(0, valid_bytes == 0 ? 1 : valid_bytes);
    text.remove_prefix(character.size());
    if (valid_bytes != 0 && !needs_escape(character)) {
      result += character;
    } else {
      for (const char c : character) {
        result += "\\x";
        result += kHex[static_cast<uint8_t>(c) >> 4];
        result += kHex[static_cast<uint8_t>(c) & 0xf];
      }
    }
    if (result.size() > bytes_limit) {
      result.resize(cut_bytes);
      return result.append(kEllipsis);
    }
    if (result.size() + kEllipsis.size() <= bytes_limit) cut_bytes = result.size();
  }
  return result;
}

std::string_view utf8_prefix(std::string_view text, size_t bytes_limit) {
  if (text.size() <= bytes_limit) return text;
  size_t end = bytes_limit;
  while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end);
}

}  // namespace fdbnbd
