#pragma once

#include "async/task.h"
#include "kv/engine.h"

namespace fdbnbd::kv {

// As Engine::read(), but all rows are of the transaction's read version, and nothing is added to its read
// conflicts. The errors of Transaction::get; a row that the store cannot read
// fails all of it.
Task<Result<void>> read_in_snapshot(Transaction& transaction, const BulkRead& request, RowSink& sink);

}  // namespace fdbnbd::kv
