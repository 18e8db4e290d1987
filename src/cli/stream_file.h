#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "backup/diff_stream.h"
#include "cli/transfer.h"

namespace fdbnbd::cli {

// The stream of export-diff in a file or a pipe, from where that stands.
class StreamFile final : public backup::StreamInput {
 public:
  // `fd` outlives it.
  explicit StreamFile(int fd) : fd_(fd) {}

  Result<size_t> read(MutableByteView into) override {
    size_t filled = 0;
    while (filled < into.size()) {
      RETURN_IF_ERROR(check_interrupt());
      const ssize_t count = ::read(fd_, into.data() + filled, into.size() - filled);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return fail(Errc::io, std::string("cannot read the stream: ") + std::strerror(errno));
      if (count == 0) break;
      filled += static_cast<size_t>(count);
    }
    return filled;
  }

 private:
  const int fd_;
};

}  // namespace fdbnbd::cli
