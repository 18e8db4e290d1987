#pragma once

#include <string_view>

namespace fdbnbd::net {

// Tells the service manager about this process ("READY=1", "STOPPING=1", "STATUS=..."; sd_notify(3)). Does
// nothing without one. Any thread.
void notify_service_manager(std::string_view state);

}  // namespace fdbnbd::net
