#pragma once

#include <string>
#include <utility>

#include "backup/diff_stream.h"
#include "cli/transfer.h"

namespace fdbnbd::cli {

// The stream of export-diff in a file or a pipe, from where that stands.
class StreamFile final : public backup::StreamInput {
 public:
  // `fd` outlives it, and so does `display`, which may be null. `name` is for messages.
  StreamFile(int fd, std::string name, ProgressDisplay* display)
      : fd_(fd), name_(std::move(name)), display_(display) {}

  Result<size_t> read(MutableByteView into) override { return read_fully(fd_, into, name_, display_); }

 private:
  const int fd_;
  const std::string name_;
  ProgressDisplay* const display_;
};

}  // namespace fdbnbd::cli
