#pragma once

#include <string>

#include "base/result.h"
#include "cli/context.h"
#include "cli/store_access.h"
#include "control/messages.h"

namespace fdbnbd::cli {

// The volume that an import gathers its data in, so that nobody takes half of it for all.
std::string partial_name_of(const std::string& volume);

// Carries out a request on a volume whose session has just ended, and may still count for a moment: while it
// is busy, again, for some seconds.
Result<void> ask_when_free(const Context& context, StoreAccess& access, const control::Request& request);

}  // namespace fdbnbd::cli
