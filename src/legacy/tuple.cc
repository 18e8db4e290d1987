#include "legacy/tuple.h"

#include <limits>

namespace fdbnbd::legacy {

namespace {

constexpr char kBytesCode = 0x01;
constexpr char kTextCode = 0x02;
// Codes below it are negative integers, codes above it positive ones; the distance is their length.
constexpr int kIntegerZeroCode = 0x14;
constexpr int kMaxIntegerBytes = 8;
// Stands behind a zero byte that is not the end of a string.
constexpr char kEscape = '\xff';

void append_string(std::string& tuple, char code, std::string_view bytes) {
  tuple += code;
  for (const char byte : bytes) {
    tuple += byte;
    if (byte == '\0') tuple += kEscape;
  }
  tuple += '\0';
}

}  // namespace

void append_bytes(std::string& tuple, std::string_view bytes) {
  append_string(tuple, kBytesCode, bytes);
}

void append_text(std::string& tuple, std::string_view utf8) {
  append_string(tuple, kTextCode, utf8);
}

void append_integer(std::string& tuple, int64_t value) {
  const bool is_negative = value < 0;
  const uint64_t magnitude = is_negative ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  int length_bytes = 0;
  while (length_bytes < kMaxIntegerBytes && magnitude >> (8 * length_bytes) != 0) ++length_bytes;
  tuple += static_cast<char>(is_negative ? kIntegerZeroCode - length_bytes : kIntegerZeroCode + length_bytes);
  // Negative ones as the complement, so that they sort.
  const uint64_t stored = is_negative ? ~magnitude : magnitude;
  for (int i = length_bytes - 1; i >= 0; --i) tuple += static_cast<char>(stored >> (8 * i));
}

std::optional<int64_t> TupleReader::integer() {
  if (rest_.empty()) return std::nullopt;
  const int distance = static_cast<unsigned char>(rest_.front()) - kIntegerZeroCode;
  const int length_bytes = distance < 0 ? -distance : distance;
  if (length_bytes > kMaxIntegerBytes || rest_.size() < 1 + static_cast<size_t>(length_bytes))
    return std::nullopt;
  uint64_t magnitude = 0;
  for (int i = 1; i <= length_bytes; ++i) {
    const auto byte = static_cast<unsigned char>(rest_[static_cast<size_t>(i)]);
    magnitude = magnitude << 8 | (distance < 0 ? static_cast<unsigned char>(~byte) : byte);
  }
  constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (magnitude > (distance < 0 ? kMax + 1 : kMax)) return std::nullopt;
  rest_.remove_prefix(1 + static_cast<size_t>(length_bytes));
  return static_cast<int64_t>(distance < 0 ? 0 - magnitude : magnitude);
}

std::optional<std::string> TupleReader::string() {
  if (rest_.empty() || (rest_.front() != kBytesCode && rest_.front() != kTextCode)) return std::nullopt;
  std::string text;
  for (size_t i = 1; i < rest_.size(); ++i) {
    if (rest_[i] != '\0') {
      text += rest_[i];
    } else if (i + 1 < rest_.size() && rest_[i + 1] == kEscape) {
      text += '\0';
      ++i;
    } else {
      rest_.remove_prefix(i + 1);
      return text;
    }
  }
  return std::nullopt;
}

}  // namespace fdbnbd::legacy
