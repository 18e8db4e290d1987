#include "proto/errno_map.h"

namespace fdbnbd::proto {

NbdError error_for(Errc code, const Request& request) {
  switch (code) {
    case Errc::invalid:
    case Errc::too_large:
      return NbdError::einval;
    case Errc::past_end: {
      const bool fills_space = request.command == Command::write || request.command == Command::write_zeroes;
      return fills_space ? NbdError::enospc : NbdError::einval;
    }
    case Errc::no_space:
      return NbdError::enospc;
    case Errc::read_only:
    case Errc::permission:
      return NbdError::eperm;
    case Errc::not_supported: {
      const bool is_fast_zero = request.command == Command::write_zeroes && request.has(kCmdFlagFastZero);
      return is_fast_zero ? NbdError::enotsup : NbdError::einval;
    }
    case Errc::conflict:
    case Errc::unavailable:
    case Errc::unknown_result:
    case Errc::not_found:
    case Errc::exists:
    case Errc::busy:
    case Errc::differs:
    case Errc::io:
    case Errc::protocol:
    case Errc::peer_gone:
    case Errc::timeout:
    case Errc::cancelled:
    case Errc::fenced:
    case Errc::corruption:
    case Errc::newer_format:
      return NbdError::eio;
  }
  return NbdError::eio;
}

OptionReply option_error_for(Errc code) {
  switch (code) {
    case Errc::invalid:
      return OptionReply::err_invalid;
    case Errc::too_large:
      return OptionReply::err_too_big;
    case Errc::not_supported:  // not NBD_REP_ERR_UNSUP, after which clients try EXPORT_NAME instead of GO
    case Errc::permission:
    case Errc::read_only:
      return OptionReply::err_policy;
    case Errc::cancelled:
      return OptionReply::err_shutdown;
    case Errc::conflict:
    case Errc::unavailable:
    case Errc::unknown_result:
    case Errc::past_end:
    case Errc::no_space:
    case Errc::not_found:
    case Errc::exists:
    case Errc::busy:
    case Errc::differs:
    case Errc::io:
    case Errc::protocol:
    case Errc::peer_gone:
    case Errc::timeout:
    case Errc::fenced:
    case Errc::corruption:
    case Errc::newer_format:
      return OptionReply::err_unknown;
  }
  return OptionReply::err_unknown;
}

}  // namespace fdbnbd::proto
