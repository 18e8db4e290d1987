#pragma once

#include "base/result.h"
#include "proto/request.h"

// The only places where our errors become the protocol's.

namespace fdbnbd::proto {

// What a client is told of a failed request. Total. It depends on the request where the protocol says so:
// beyond the end is NBD_ENOSPC for WRITE and WRITE_ZEROES and NBD_EINVAL for the rest, and NBD_ENOTSUP is
// only for a FAST_ZERO. Never NBD_ESHUTDOWN: on a stop requests are finished or left unanswered.
NbdError error_for(Errc code, const Request& request);

// How an option that needed an export is refused. Total.
OptionReply option_error_for(Errc code);

}  // namespace fdbnbd::proto
