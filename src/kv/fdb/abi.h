#pragma once

#include <cstddef>
#include <cstdint>

// The part of FoundationDB's C interface that is used here, as this project's own declarations: the library
// is loaded at run time, so neither its headers nor the library are needed to build. The functions, structs
// and numbers are the same in every version from 7.1 on (API versions 710 and newer).

struct FDB_future;
struct FDB_database;
struct FDB_transaction;
using FDBFuture = FDB_future;
using FDBDatabase = FDB_database;
using FDBTransaction = FDB_transaction;
using fdb_error_t = int;
using fdb_bool_t = int;
using FDBCallback = void (*)(FDBFuture*, void*);

#pragma pack(push, 4)
struct FDBKeyValue {
  const uint8_t* key;
  int key_length;
  const uint8_t* value;
  int value_length;
};
#pragma pack(pop)

static_assert(sizeof(void*) == 8 && sizeof(int) == 4);
static_assert(sizeof(FDBKeyValue) == 24 && alignof(FDBKeyValue) == 4);
static_assert(offsetof(FDBKeyValue, key) == 0 && offsetof(FDBKeyValue, key_length) == 8);
static_assert(offsetof(FDBKeyValue, value) == 12 && offsetof(FDBKeyValue, value_length) == 20);

namespace fdbnbd::kv::fdb {

inline constexpr int kMinApiVersion = 710;
inline constexpr int kMaxApiVersion = 730;

enum class DatabaseOption : int { transaction_size_limit = 503 };

enum class TransactionOption : int {
  causal_write_risky = 10,
  next_write_no_write_conflict_range = 30,
  read_your_writes_disable = 51,
  priority_batch = 201,
  timeout = 500,
  retry_limit = 501,
  size_limit = 503,
  read_server_side_cache_disable = 508,
  read_priority_low = 510,
};

enum class StreamingMode : int { want_all = -2, exact = 0 };
enum class MutationType : int { bit_and = 6, bit_or = 7 };
enum class ConflictRangeType : int { read = 0, write = 1 };

}  // namespace fdbnbd::kv::fdb

// X(name without "fdb_", result, parameters)
#define FDBNBD_FDB_REQUIRED_FUNCTIONS(X)                                                                    \
  X(get_error, const char*, (fdb_error_t))                                                                  \
  X(get_max_api_version, int, ())                                                                           \
  X(select_api_version_impl, fdb_error_t, (int, int))                                                       \
  X(network_set_option, fdb_error_t, (int, const uint8_t*, int))                                            \
  X(setup_network, fdb_error_t, ())                                                                         \
  X(run_network, fdb_error_t, ())                                                                           \
  X(stop_network, fdb_error_t, ())                                                                          \
  X(create_database, fdb_error_t, (const char*, FDBDatabase**))                                             \
  X(database_destroy, void, (FDBDatabase*))                                                                 \
  X(database_set_option, fdb_error_t, (FDBDatabase*, int, const uint8_t*, int))                             \
  X(database_create_transaction, fdb_error_t, (FDBDatabase*, FDBTransaction**))                             \
  X(transaction_destroy, void, (FDBTransaction*))                                                           \
  X(transaction_cancel, void, (FDBTransaction*))                                                            \
  X(transaction_set_option, fdb_error_t, (FDBTransaction*, int, const uint8_t*, int))                       \
  X(transaction_set_read_version, void, (FDBTransaction*, int64_t))                                         \
  X(transaction_get_read_version, FDBFuture*, (FDBTransaction*))                                            \
  X(transaction_get, FDBFuture*, (FDBTransaction*, const uint8_t*, int, fdb_bool_t))                        \
  X(transaction_get_range, FDBFuture*,                                                                      \
    (FDBTransaction*, const uint8_t*, int, fdb_bool_t, int, const uint8_t*, int, fdb_bool_t, int, int, int, \
     int, int, fdb_bool_t, fdb_bool_t))                                                                     \
  X(transaction_set, void, (FDBTransaction*, const uint8_t*, int, const uint8_t*, int))                     \
  X(transaction_clear, void, (FDBTransaction*, const uint8_t*, int))                                        \
  X(transaction_clear_range, void, (FDBTransaction*, const uint8_t*, int, const uint8_t*, int))             \
  X(transaction_atomic_op, void, (FDBTransaction*, const uint8_t*, int, const uint8_t*, int, int))          \
  X(transaction_add_conflict_range, fdb_error_t,                                                            \
    (FDBTransaction*, const uint8_t*, int, const uint8_t*, int, int))                                       \
  X(transaction_commit, FDBFuture*, (FDBTransaction*))                                                      \
  X(transaction_get_committed_version, fdb_error_t, (FDBTransaction*, int64_t*))                            \
  X(future_destroy, void, (FDBFuture*))                                                                     \
  X(future_set_callback, fdb_error_t, (FDBFuture*, FDBCallback, void*))                                     \
  X(future_get_error, fdb_error_t, (FDBFuture*))                                                            \
  X(future_get_int64, fdb_error_t, (FDBFuture*, int64_t*))                                                  \
  X(future_get_value, fdb_error_t, (FDBFuture*, fdb_bool_t*, const uint8_t**, int*))                        \
  X(future_get_keyvalue_array, fdb_error_t, (FDBFuture*, const FDBKeyValue**, int*, fdb_bool_t*))

// Null where the library does not have them.
#define FDBNBD_FDB_OPTIONAL_FUNCTIONS(X) X(get_client_version, const char*, ())
