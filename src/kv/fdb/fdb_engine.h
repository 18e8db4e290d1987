#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/limits.h"
#include "base/result.h"
#include "kv/engine.h"
#include "kv/fdb/network.h"

// The distributed engine: FoundationDB, through its client library, which is loaded at run time.

namespace fdbnbd::kv {

struct FdbOptions {
  // Empty: the library's own rules (FDB_CLUSTER_FILE, ./fdb.cluster, /etc/foundationdb/fdb.cluster).
  std::string cluster_file;
  // As fdb::start_network: the same for all engines of the process.
  std::string library_path;
  std::vector<fdb::NetworkOption> network_options;
  // How long opening waits for the cluster to answer.
  Duration connect_timeout = limits::kFdbConnectTimeout;
  // How long a read version is used again.
  Duration read_version_lifetime = limits::kFdbReadVersionLifetime;
  // How long the cluster may take for an answer before the log says so.
  Duration stall_warning = limits::kFdbStallWarning;
  // How long background work waits for what others leave before it takes its turn among them.
  Duration background_patience = limits::kFdbBackgroundPatience;
  uint32_t commits_in_flight = limits::kFdbCommitsInFlight;
  const Clock* clock = &system_clock();
};

// Blocks until the cluster has answered once. Errc::unavailable, in one line: no library, no cluster file, no
// answer in time; invalid: an option or a cluster file that makes no sense.
Result<std::unique_ptr<Engine>> open_fdb_engine(const FdbOptions& options);

}  // namespace fdbnbd::kv
