// volume_model --kind memory|faults|crash|rocksdb|fdb [--world volume|snapshots] [--operations N] [--seed N]
//              [--cluster FILE]

#include <fmt/core.h>

#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "async/run_loop.h"
#include "async/sim_loop.h"
#include "base/log.h"
#include "kv/fdb/fdb_engine.h"
#include "kv/fdb/network.h"
#include "kv/memory/memory_engine.h"
#include "kv/rocks/rocks_engine.h"
#include "snapshot_world.h"
#include "world.h"

namespace fdbnbd::model {
namespace {

const std::map<std::string, Kind, std::less<>> kKinds = {{"memory", Kind::memory},
                                                         {"faults", Kind::faults},
                                                         {"crash", Kind::crash},
                                                         {"rocksdb", Kind::rocksdb},
                                                         {"fdb", Kind::fdb}};

template <typename AnyWorld>
bool run_simulated(const Parameters& parameters) {
  SimLoop loop(parameters.seed);
  kv::MemoryOptions options;
  options.disk = kv::make_memory_disk();
  options.seed = parameters.seed;
  options.can_lose_power = parameters.kind == Kind::crash;
  std::unique_ptr<kv::MemoryEngine> engine;
  uint64_t opened_count = 0;
  EngineSource source;
  source.open = [&]() -> Result<kv::Engine*> {
    options.seed = parameters.seed + ++opened_count;
    ASSIGN_OR_RETURN(engine, kv::open_memory_engine(options));
    if (parameters.kind == Kind::crash)
      engine->faults().set_latency(std::chrono::microseconds(1), std::chrono::milliseconds(1));
    return engine.get();
  };
  source.close = [&] { engine.reset(); };
  source.set_faults = [&](bool on) {
    using enum kv::CommitFault;
    for (const auto fault :
         {conflict, unavailable, unknown_applied, unknown_not_applied, unknown_applied_late}) {
      engine->faults().fail_commits_randomly(fault, on ? 20'000 : 0);
    }
    if (!on) engine->faults().release_late_commits();
  };
  source.crash = [&](bool power_loss) { engine->crash({.power_loss = power_loss}); };
  AnyWorld world(loop, source, parameters);
  return loop.run(world.run());
}

template <typename AnyWorld>
bool run_on_rocksdb(const Parameters& parameters) {
  std::string directory = (std::filesystem::temp_directory_path() / "fdb-nbd-model-XXXXXX").string();
  if (mkdtemp(directory.data()) == nullptr) return false;
  RunLoop loop;
  std::unique_ptr<kv::Engine> engine;
  EngineSource source;
  source.open = [&]() -> Result<kv::Engine*> {
    kv::RocksOptions options;
    options.path = directory + "/store";
    ASSIGN_OR_RETURN(engine, kv::open_rocks_engine(options));
    return engine.get();
  };
  source.close = [&] { engine.reset(); };
  bool fine = false;
  {
    AnyWorld world(loop, source, parameters);
    fine = loop.run(world.run());
  }
  std::filesystem::remove_all(directory);
  return fine;
}

// Each world has keys of its own in the cluster, and leaves them there.
template <typename AnyWorld>
bool run_on_fdb(const Parameters& parameters, const std::string& cluster_file) {
  RunLoop loop;
  std::unique_ptr<kv::Engine> engine;
  EngineSource source;
  source.key_prefix = fmt::format("model-{:016x}/", Random::from_entropy().next());
  source.open = [&]() -> Result<kv::Engine*> {
    kv::FdbOptions options;
    options.cluster_file = cluster_file;
    ASSIGN_OR_RETURN(engine, kv::open_fdb_engine(options));
    return engine.get();
  };
  source.close = [&] { engine.reset(); };
  AnyWorld world(loop, source, parameters);
  return loop.run(world.run());
}

template <typename AnyWorld>
bool run_world(const Parameters& parameters, const std::string& cluster_file) {
  switch (parameters.kind) {
    case Kind::rocksdb:
      return run_on_rocksdb<AnyWorld>(parameters);
    case Kind::fdb:
      return run_on_fdb<AnyWorld>(parameters, cluster_file);
    default:
      return run_simulated<AnyWorld>(parameters);
  }
}

int main_of(int argc, char** argv) {
  Parameters parameters{
      .kind = Kind::memory, .seed = Random::from_entropy().below(1'000'000'000), .operations_count = 20'000};
  std::string kind = "memory";
  std::string cluster_file;
  std::string world_name = "volume";
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view flag = argv[i];
    const std::string_view value = argv[i + 1];
    if (flag == "--kind" && kKinds.contains(value)) {
      kind = value;
    } else if (flag == "--world" && (value == "volume" || value == "snapshots")) {
      world_name = value;
    } else if (flag == "--operations") {
      std::from_chars(value.data(), value.data() + value.size(), parameters.operations_count);
    } else if (flag == "--seed") {
      std::from_chars(value.data(), value.data() + value.size(), parameters.seed);
    } else if (flag == "--cluster") {
      cluster_file = value;
    } else {
      fmt::print(stderr,
                 "usage: volume_model --kind memory|faults|crash|rocksdb|fdb [--world volume|snapshots] "
                 "[--operations N] [--seed N] [--cluster FILE]\n");
      return 2;
    }
  }
  parameters.kind = kKinds.at(kind);
  log::set_level(log::Level::error);
  const std::string cluster = cluster_file.empty() ? "" : " --cluster " + cluster_file;
  const std::string replay = fmt::format("{} --kind {} --world {} --operations {} --seed {}{}", argv[0], kind,
                                         world_name, parameters.operations_count, parameters.seed, cluster);
  fmt::print("{}\n", replay);
  std::fflush(stdout);
  // Several worlds, each with its own shape of volume.
  constexpr uint64_t kOperationsPerWorld = 20'000;
  uint64_t left = parameters.operations_count;
  while (left > 0) {
    Parameters world = parameters;
    world.operations_count = std::min(left, kOperationsPerWorld);
    const bool fine = world_name == "volume" ? run_world<World>(world, cluster_file)
                                             : run_world<SnapshotWorld>(world, cluster_file);
    if (!fine) {
      fmt::print(stderr, "FAILED; replay: {} --kind {} --world {} --operations {} --seed {}{}\n", argv[0],
                 kind, world_name, world.operations_count, world.seed, cluster);
      return 1;
    }
    left -= world.operations_count;
    ++parameters.seed;
    // A run of hours that is stopped can go on from here.
    if (left > 0) fmt::print("{} operations left, from --seed {}\n", left, parameters.seed);
    std::fflush(stdout);
  }
  fmt::print("{} operations, 0 differences\n", parameters.operations_count);
  return 0;
}

}  // namespace
}  // namespace fdbnbd::model

int main(int argc, char** argv) {
  const int status = fdbnbd::model::main_of(argc, argv);
  fdbnbd::kv::fdb::stop_network();
  return status;
}
