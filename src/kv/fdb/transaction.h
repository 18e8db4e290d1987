#pragma once

#include <memory>

#include "kv/fdb/client.h"

namespace fdbnbd::kv::fdb {

std::unique_ptr<Transaction> begin_transaction(Client& client, Executor& executor);

}  // namespace fdbnbd::kv::fdb
