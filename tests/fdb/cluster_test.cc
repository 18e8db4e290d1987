// What every engine must do, on the cluster of FDB_NBD_TEST_CLUSTER_FILE, which this empties. Run by
// with_cluster.py.

#include <cstdlib>
#include <string>

#include "async/run_loop.h"
#include "kv/conformance_testing.h"
#include "kv/fdb/fdb_engine.h"
#include "kv/fdb/stop_network_testing.h"

namespace fdbnbd::kv {
namespace {

std::unique_ptr<Engine> open_emptied(uint64_t) {
  const char* const cluster_file = std::getenv("FDB_NBD_TEST_CLUSTER_FILE");
  if (cluster_file == nullptr) {
    ADD_FAILURE() << "FDB_NBD_TEST_CLUSTER_FILE is not set";
    std::abort();
  }
  FdbOptions options;
  options.cluster_file = cluster_file;
  auto engine = open_fdb_engine(options);
  EXPECT_TRUE(engine) << engine.error().what;
  RunLoop loop;
  const auto transaction = (*engine)->begin(loop);
  transaction->clear_range({"", "\xff"});
  const auto emptied = loop.run(transaction->commit());
  EXPECT_TRUE(emptied) << emptied.error().what;
  return std::move(*engine);
}

INSTANTIATE_TEST_SUITE_P(
    Cluster, EngineConformance,
    testing::Values(ConformanceSubject{
        .name = "SingleProcess", .open = open_emptied, .simulated = false, .commits_share_versions = true}),
    conformance_subject_name);

}  // namespace
}  // namespace fdbnbd::kv
