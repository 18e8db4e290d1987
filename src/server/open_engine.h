#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "kv/engine.h"
#include "server/server.h"

namespace fdbnbd::server {

// The engine behind options.store. Blocks. busy with the pid of the process that holds an embedded store,
// where that can be told; unavailable for a kind of store that this build has not; invalid for one that is
// only for clients.
Result<std::unique_ptr<kv::Engine>> open_engine(const ServerOptions& options);

}  // namespace fdbnbd::server
