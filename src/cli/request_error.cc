#include "cli/request_error.h"

#include <fmt/core.h>

#include <cerrno>
#include <cstring>

namespace fdbnbd::cli {

namespace {

// What to do next, where the number of the error alone does not say it.
std::string_view advice(Errc code) {
  if (code == Errc::no_space) return "; the store is full, or the volume has used up its quota";
  if (code == Errc::io) return "; the server's log has more, and fdb-nbd check finds what is damaged";
  return "";
}

}  // namespace

Errc errc_of_errno(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return Errc::no_space;
    case ENOENT:
      return Errc::not_found;
    case EPERM:
    case EROFS:
      return Errc::read_only;
    case EACCES:
      return Errc::permission;
    case ENOTSUP:
      return Errc::not_supported;
    case ESHUTDOWN:
    case ENOTCONN:
    case ECONNRESET:
    case EPIPE:
      return Errc::peer_gone;
    default:
      return Errc::io;
  }
}

Error request_error(const std::string& volume, std::string_view what, uint64_t offset_bytes,
                    uint64_t length_bytes, int error) {
  const Errc code = errc_of_errno(error);
  return {code, fmt::format("volume \"{}\": {} of {} bytes at offset {} failed: {}{}", volume, what,
                            length_bytes, offset_bytes, std::strerror(error), advice(code))};
}

}  // namespace fdbnbd::cli
