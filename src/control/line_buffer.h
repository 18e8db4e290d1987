#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fdbnbd::control {

// Cuts a stream of bytes into lines. A line that is longer than the limit is skipped to its end, and reported
// once; what follows is not lost.
class LineBuffer {
 public:
  explicit LineBuffer(size_t line_bytes_limit) : line_bytes_limit_(line_bytes_limit) {}

  void append(std::string_view bytes);

  // The next line without its newline, or Errc::too_large in its place; nothing until more bytes come.
  std::optional<Result<std::string>> next();

  // Bytes that wait; at most the limit and what was appended last.
  size_t size() const { return bytes_.size() - begin_; }

 private:
  const size_t line_bytes_limit_;
  std::string bytes_;
  size_t begin_ = 0;    // of the next line in bytes_
  size_t scanned_ = 0;  // no newline in bytes_ before this
  bool skipping_ = false;
};

}  // namespace fdbnbd::control
