#include "control/line_buffer.h"

#include <fmt/core.h>

namespace fdbnbd::control {

void LineBuffer::append(std::string_view bytes) {
  bytes_.erase(0, begin_);
  scanned_ -= begin_;
  begin_ = 0;
  bytes_ += bytes;
}

std::optional<Result<std::string>> LineBuffer::next() {
  const auto newline = bytes_.find('\n', scanned_);
  const size_t end = newline == std::string::npos ? bytes_.size() : newline;
  const bool too_long = !skipping_ && end - begin_ > line_bytes_limit_;
  std::optional<Result<std::string>> line;
  if (too_long) {
    line = fail(Errc::too_large, fmt::format("the message is longer than {} bytes", line_bytes_limit_));
  } else if (!skipping_ && newline != std::string::npos) {
    line = bytes_.substr(begin_, end - begin_);
  }
  if (newline != std::string::npos) {
    const bool skipped = skipping_;
    skipping_ = false;
    begin_ = scanned_ = newline + 1;
    return skipped ? next() : line;
  }
  scanned_ = end;
  if (too_long || skipping_) {
    skipping_ = true;
    begin_ = end;
  }
  return line;
}

}  // namespace fdbnbd::control
