#pragma once

#include <memory>
#include <string_view>

#include "kv/fdb/abi.h"
#include "kv/fdb/api.h"

// Owners of the library's objects, which the Api outlives; and bytes as the library takes and gives them.

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

inline const uint8_t* bytes_of(std::string_view text) {
  return reinterpret_cast<const uint8_t*>(text.data());
}
inline int length_of(std::string_view text) {
  return static_cast<int>(text.size());
}
inline std::string_view view_of(const uint8_t* bytes, int length) {
  return {reinterpret_cast<const char*>(bytes), static_cast<size_t>(length)};
}

}  // namespace fdbnbd::kv::fdb
