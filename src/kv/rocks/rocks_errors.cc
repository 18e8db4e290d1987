#include "kv/rocks/rocks_errors.h"

#include <fmt/core.h>

#include "base/assert.h"

namespace fdbnbd::kv {

Errc errc_of(const rocksdb::Status& status) {
  using Code = rocksdb::Status::Code;
  using SubCode = rocksdb::Status::SubCode;
  switch (status.code()) {
    case Code::kOk:
      ASSERT(false);
    case Code::kNotFound:
      return Errc::not_found;
    case Code::kCorruption:
      return Errc::corruption;
    case Code::kNotSupported:
      return Errc::not_supported;
    case Code::kInvalidArgument:
      return Errc::invalid;
    case Code::kIOError:
      if (status.subcode() == SubCode::kNoSpace || status.subcode() == SubCode::kSpaceLimit)
        return Errc::no_space;
      if (status.subcode() == SubCode::kPathNotFound) return Errc::not_found;
      return Errc::io;
    case Code::kShutdownInProgress:
      return Errc::cancelled;
    case Code::kIncomplete:
    case Code::kTimedOut:
    case Code::kBusy:
    case Code::kTryAgain:
      return Errc::unavailable;
    case Code::kMergeInProgress:
    case Code::kAborted:
    case Code::kExpired:
    case Code::kCompactionTooLarge:
    case Code::kColumnFamilyDropped:
    case Code::kMaxCode:
      return Errc::io;
  }
  return Errc::io;
}

Error error_of(const rocksdb::Status& status, std::string_view doing) {
  return {errc_of(status), fmt::format("{}: {}", doing, status.ToString())};
}

}  // namespace fdbnbd::kv
