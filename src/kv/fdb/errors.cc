#include "kv/fdb/errors.h"

#include <fmt/core.h>

namespace fdbnbd::kv::fdb {

Meaning meaning_of(fdb_error_t error, Operation operation) {
  const bool commits = operation == Operation::commit;
  switch (error) {
    case 1007:  // transaction_too_old
      return {Errc::unavailable, Remedy::new_read_version};
    case 1009:  // future_version
    case 1037:  // process_behind
      return {Errc::unavailable, Remedy::short_wait};
    case 1020:  // not_committed
      return {Errc::conflict, Remedy::check_fence};
    case 1021:  // commit_unknown_result
      if (commits) return {Errc::unknown_result, Remedy::retry_under_lock};
      return {Errc::unavailable, Remedy::short_wait};
    case 1025:  // transaction_cancelled
    case 1101:  // operation_cancelled
      if (commits) return {Errc::unknown_result, Remedy::barrier};
      return {Errc::cancelled, Remedy::none};
    case 1031:  // transaction_timed_out
    case 1039:  // cluster_version_changed
    case 1004:  // timed_out
    case 1006:  // all_alternatives_failed
    case 1026:  // connection_failed
    case 1027:  // coordinators_changed
    case 1028:  // new_coordinators_timed_out
    case 1100:  // broken_promise
      if (commits) return {Errc::unknown_result, Remedy::barrier};
      return {Errc::unavailable, Remedy::short_wait};
    case 1038:  // database_locked
    case 1042:  // commit_proxy_memory_limit_exceeded
    case 1051:  // batch_transaction_throttled
    case 1078:  // grv_proxy_memory_limit_exceeded
    case 1213:  // tag_throttled
    case 1223:  // proxy_tag_throttled
    case 1235:  // transaction_throttled_hot_shard, from 7.4 on
    case 1242:  // transaction_rejected_range_locked, from 7.4 on
      return {Errc::unavailable, Remedy::long_wait};
    case 2025:  // network_cannot_be_restarted
      return {Errc::cancelled, Remedy::none};
    case 1515:  // no_cluster_file_found
    case 2124:  // all_external_clients_failed
    case 2125:  // incompatible_client
      return {Errc::unavailable, Remedy::none};
    case 2104:  // connection_string_invalid
      return {Errc::invalid, Remedy::none};
    case 2101:  // transaction_too_large
      return {Errc::too_large, Remedy::none};
    default:
      break;
  }
  // The library refuses the call itself, so nothing was sent.
  if (!commits || (error >= 2000 && error < 3000)) return {Errc::io, Remedy::none};
  return {Errc::unknown_result, Remedy::barrier};
}

Error error_of(const Api& api, fdb_error_t error, Operation operation, std::string_view doing) {
  return {meaning_of(error, operation).code,
          fmt::format("FoundationDB: cannot {}: {} (error {})", doing, api.get_error(error), error)};
}

}  // namespace fdbnbd::kv::fdb
