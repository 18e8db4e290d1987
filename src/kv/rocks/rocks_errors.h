#pragma once

#include <rocksdb/status.h>

#include <string_view>

#include "base/result.h"

namespace fdbnbd::kv {

// What a failed status of RocksDB means to a caller. Total; kOk is not a failure.
Errc errc_of(const rocksdb::Status& status);

// The error of a failed status: `doing` says what was tried, on which object.
Error error_of(const rocksdb::Status& status, std::string_view doing);

}  // namespace fdbnbd::kv
