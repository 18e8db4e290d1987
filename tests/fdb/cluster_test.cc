// What every engine must do, on the cluster of FDB_NBD_TEST_CLUSTER_FILE, which this empties. Run by
// with_cluster.py; with --buggify the client library fails at random, and what can be tried again is.

#include <cstdlib>
#include <string>

#include "async/run_loop.h"
#include "kv/conformance_testing.h"
#include "kv/fdb/fdb_engine.h"
#include "kv/fdb/stop_network_testing.h"
#include "kv/retry.h"
#include "kv/retrying_engine_testing.h"

namespace fdbnbd::kv {
namespace {

Task<Result<void>> clear_all(Transaction& transaction) {
  transaction.clear_range({"", "\xff"});
  co_return Result<void>{};
}

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
  Random random(1);
  auto clear = [](Transaction& transaction) { return clear_all(transaction); };
  Result<void> emptied = fail(Errc::unknown_result, "");
  while (!emptied && emptied.error().code == Errc::unknown_result)
    emptied = loop.run(transact<void>(**engine, loop, random, clear));
  EXPECT_TRUE(emptied) << emptied.error().what;
  if (std::getenv("FDB_NETWORK_OPTION_CLIENT_BUGGIFY_ENABLE") == nullptr) return std::move(*engine);
  return make_retrying_engine(std::move(*engine));
}

INSTANTIATE_TEST_SUITE_P(
    Cluster, EngineConformance,
    testing::Values(ConformanceSubject{
        .name = "SingleProcess", .open = open_emptied, .simulated = false, .commits_share_versions = true}),
    conformance_subject_name);

}  // namespace
}  // namespace fdbnbd::kv
