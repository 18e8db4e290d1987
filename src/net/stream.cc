#include "net/stream.h"

namespace fdbnbd::net {

Task<Result<size_t>> Stream::read_some(MutableByteView into) {
  for (;;) {
    auto moved = try_read(into);
    CO_RETURN_IF_ERROR(moved);
    if (*moved) co_return **moved;
    co_await readable();
  }
}

Task<Result<void>> Stream::read_exactly(MutableByteView into) {
  while (!into.empty()) {
    auto moved = try_read(into);
    CO_RETURN_IF_ERROR(moved);
    if (!*moved) {
      co_await readable();
    } else if (**moved == 0) {
      co_return fail(Errc::peer_gone, "the peer closed the connection early");
    } else {
      into = into.subspan(**moved);
    }
  }
  co_return Result<void>();
}

Task<Result<void>> Stream::write_all(std::vector<ByteView> parts) {
  size_t first = 0;
  while (first < parts.size()) {
    auto moved = try_write(std::span(parts).subspan(first));
    CO_RETURN_IF_ERROR(moved);
    if (!*moved) {
      co_await writable();
      continue;
    }
    size_t left = **moved;
    while (first < parts.size() && left >= parts[first].size()) left -= parts[first++].size();
    if (left > 0) parts[first] = parts[first].subspan(left);
  }
  co_return Result<void>();
}

Task<Result<void>> Stream::write_all(ByteView bytes) {
  co_return co_await write_all(std::vector<ByteView>{bytes});
}

}  // namespace fdbnbd::net
