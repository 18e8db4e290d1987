#include "base/result.h"

#include "base/assert.h"

namespace fdbnbd {

std::string_view errc_name(Errc code) {
  switch (code) {
    case Errc::conflict:
      return "conflict";
    case Errc::unavailable:
      return "unavailable";
    case Errc::unknown_result:
      return "unknown_result";
    case Errc::invalid:
      return "invalid";
    case Errc::past_end:
      return "past_end";
    case Errc::not_supported:
      return "not_supported";
    case Errc::too_large:
      return "too_large";
    case Errc::read_only:
      return "read_only";
    case Errc::no_space:
      return "no_space";
    case Errc::not_found:
      return "not_found";
    case Errc::exists:
      return "exists";
    case Errc::busy:
      return "busy";
    case Errc::permission:
      return "permission";
    case Errc::differs:
      return "differs";
    case Errc::io:
      return "io";
    case Errc::protocol:
      return "protocol";
    case Errc::peer_gone:
      return "peer_gone";
    case Errc::timeout:
      return "timeout";
    case Errc::cancelled:
      return "cancelled";
    case Errc::fenced:
      return "fenced";
    case Errc::corruption:
      return "corruption";
    case Errc::newer_format:
      return "newer_format";
  }
  assertion_failed("known Errc", __FILE__, __LINE__);
}

}  // namespace fdbnbd
