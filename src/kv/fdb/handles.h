#pragma once

#include <memory>

#include "kv/fdb/abi.h"
#include "kv/fdb/api.h"

// Owners of the library's objects. The Api outlives them.

namespace fdbnbd::kv::fdb {

struct DatabaseDeleter {
  const Api* api;
  void operator()(FDBDatabase* database) const { api->database_destroy(database); }
};
using DatabaseHandle = std::unique_ptr<FDBDatabase, DatabaseDeleter>;

struct TransactionDeleter {
  const Api* api;
  void operator()(FDBTransaction* transaction) const { api->transaction_destroy(transaction); }
};
using TransactionHandle = std::unique_ptr<FDBTransaction, TransactionDeleter>;

struct FutureDeleter {
  const Api* api;
  void operator()(FDBFuture* future) const { api->future_destroy(future); }
};
using FutureHandle = std::unique_ptr<FDBFuture, FutureDeleter>;

}  // namespace fdbnbd::kv::fdb
