// volume_model --kind memory|faults|crash|rocksdb [--operations N] [--seed N]

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
#include "kv/memory/memory_engine.h"
#include "kv/rocks/rocks_engine.h"
#include "world.h"

namespace fdbnbd::model {
namespace {

const std::map<std::string, Kind, std::less<>> kKinds = {
    {"memory", Kind::memory}, {"faults", Kind::faults}, {"crash", Kind::crash}, {"rocksdb", Kind::rocksdb}};

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
  World world(loop, source, parameters);
  return loop.run(world.run());
}

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
    World world(loop, source, parameters);
    fine = loop.run(world.run());
  }
  std::filesystem::remove_all(directory);
  return fine;
}

int main_of(int argc, char** argv) {
  Parameters parameters{
      .kind = Kind::memory, .seed = Random::from_entropy().below(1'000'000'000), .operations_count = 20'000};
  std::string kind = "memory";
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view flag = argv[i];
    const std::string_view value = argv[i + 1];
    if (flag == "--kind" && kKinds.contains(value)) {
      kind = value;
    } else if (flag == "--operations") {
      std::from_chars(value.data(), value.data() + value.size(), parameters.operations_count);
    } else if (flag == "--seed") {
      std::from_chars(value.data(), value.data() + value.size(), parameters.seed);
    } else {
      fmt::print(stderr,
                 "usage: volume_model --kind memory|faults|crash|rocksdb [--operations N] [--seed N]\n");
      return 2;
    }
  }
  parameters.kind = kKinds.at(kind);
  log::set_level(log::Level::error);
  const std::string replay = fmt::format("{} --kind {} --operations {} --seed {}", argv[0], kind,
                                         parameters.operations_count, parameters.seed);
  fmt::print("{}\n", replay);
  std::fflush(stdout);
  // Several worlds, each with its own shape of volume.
  constexpr uint64_t kOperationsPerWorld = 20'000;
  uint64_t left = parameters.operations_count;
  while (left > 0) {
    Parameters world = parameters;
    world.operations_count = std::min(left, kOperationsPerWorld);
    const bool fine = parameters.kind == Kind::rocksdb ? run_on_rocksdb(world) : run_simulated(world);
    if (!fine) {
      fmt::print(stderr, "FAILED; replay: {} --kind {} --operations {} --seed {}\n", argv[0], kind,
                 world.operations_count, world.seed);
      return 1;
    }
    left -= world.operations_count;
    ++parameters.seed;
  }
  fmt::print("{} operations, 0 differences\n", parameters.operations_count);
  return 0;
}

}  // namespace
}  // namespace fdbnbd::model

int main(int argc, char** argv) {
  return fdbnbd::model::main_of(argc, argv);
}
