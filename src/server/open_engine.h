#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "kv/engine.h"
#include "server/server.h"

namespace fdbnbd::server {

// The engine behind options.store. Blocks. busy with the pid of the process that holds an embedded store,
// where that can be told; unavailable where FoundationDB's client library is missing or its cluster does not
// answer; invalid for one that is only for clients.
Result<std::unique_ptr<kv::Engine>> open_engine(const ServerOptions& options);

// Ends what engines have running for the whole process: FoundationDB's network thread. Once no engine is
// left, and before main() returns: the library's own objects are destroyed behind it, in any order.
void shut_down_engines();

// What the keys of the store begin with: a cluster is shared with others, an embedded store is not.
std::string key_prefix(const config::StoreUrl& store);

}  // namespace fdbnbd::server
