#include "cli/exit_status.h"

#include "base/assert.h"

namespace fdbnbd::cli {

ExitStatus exit_status(Errc code) {
  switch (code) {
    case Errc::invalid:
      return ExitStatus::usage;
    case Errc::not_found:
      return ExitStatus::not_found;
    case Errc::exists:
      return ExitStatus::exists;
    case Errc::busy:
    case Errc::conflict:
      return ExitStatus::busy;
    case Errc::fenced:
      return ExitStatus::fenced;
    case Errc::unavailable:
    case Errc::peer_gone:
    case Errc::timeout:
      return ExitStatus::unreachable;
    case Errc::no_space:
      return ExitStatus::no_space;
    case Errc::corruption:
      return ExitStatus::corruption;
    case Errc::differs:
      return ExitStatus::differs;
    case Errc::unknown_result:
    case Errc::past_end:
    case Errc::not_supported:
    case Errc::too_large:
    case Errc::read_only:
    case Errc::permission:
    case Errc::io:
    case Errc::protocol:
    case Errc::cancelled:
    case Errc::newer_format:
      return ExitStatus::failed;
  }
  assertion_failed("known Errc", __FILE__, __LINE__);
}

}  // namespace fdbnbd::cli
