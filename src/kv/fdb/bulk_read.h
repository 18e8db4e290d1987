#pragma once

#include "kv/fdb/client.h"

namespace fdbnbd::kv::fdb {

// Engine::read over FoundationDB: many points and ranges at once, at the cached read version where it is
// fresh. What fails because of the version or a passing trouble is asked for again, and never delivered
// twice. All arguments live until the task is done.
Task<Result<void>> read_in_bulk(Client& client, Executor& executor, const BulkRead& request, RowSink& sink);

}  // namespace fdbnbd::kv::fdb
