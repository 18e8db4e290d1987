#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/limits.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/load.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/transfer.h"

namespace fdbnbd::cli {

namespace {

struct BenchArguments {
  std::string volume;
  std::vector<std::string> loads;
  std::string request_size = "4K";
  LoadOptions load;
  uint32_t seconds = 5;
  bool write = false;
  bool json = false;
};

using NamedFigures = std::pair<std::string, LoadFigures>;

std::string bench_json(const BenchArguments& arguments, const std::vector<NamedFigures>& results) {
  nlohmann::ordered_json json;
  json["schema"] = control::kSchema;
  json["volume"] = arguments.volume;
  json["request_bytes"] = arguments.load.request_bytes;
  json["depth"] = arguments.load.depth;
  auto& list = json["loads"] = nlohmann::ordered_json::array();
  for (const auto& [name, figures] : results) {
    auto& element = list.emplace_back();
    element["load"] = name;
    element["requests"] = figures.requests_count;
    element["seconds"] = figures.seconds;
    element["iops"] = figures.iops();
    element["bytes_per_second"] = figures.iops() * static_cast<double>(arguments.load.request_bytes);
    element["p50_us"] = figures.p50_us;
    element["p99_us"] = figures.p99_us;
  }
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string bench_table(const BenchArguments& arguments, const std::vector<NamedFigures>& results) {
  std::vector<std::vector<std::string>> rows;
  rows.reserve(results.size());
  for (const auto& [name, figures] : results) {
    rows.push_back(
        {name, fmt::format("{:.0f}", figures.iops()),
         fmt::format("{:.1f}", figures.iops() * static_cast<double>(arguments.load.request_bytes) / 1e6),
         fmt::format("{:.0f}", figures.p50_us), fmt::format("{:.0f}", figures.p99_us)});
  }
  return format_table({{"LOAD"},
                       {.title = "IOPS", .right_aligned = true},
                       {.title = "MB/S", .right_aligned = true},
                       {.title = "P50 US", .right_aligned = true},
                       {.title = "P99 US", .right_aligned = true}},
                      rows);
}

Result<void> run_bench(BenchArguments& arguments, const Context& context) {
  ASSIGN_OR_RETURN(arguments.load.request_bytes, parse_size(arguments.request_size));
  if (arguments.load.request_bytes == 0 || arguments.load.request_bytes > limits::kMaxPayloadBytes) {
    return fail(Errc::invalid, fmt::format("a request has 1 to {} bytes", limits::kMaxPayloadBytes));
  }
  arguments.load.duration_ms = arguments.seconds * 1000;
  if (arguments.loads.empty()) arguments.loads = {"read", "randread"};
  if (arguments.write && arguments.loads == std::vector<std::string>{"read", "randread"}) {
    arguments.loads = {"write", "randwrite", "read", "randread"};
  }
  std::vector<Load> loads;
  for (const auto& name : arguments.loads) {
    ASSIGN_OR_RETURN(const Load load, parse_load(name));
    if (load.writes && !arguments.write) {
      return fail(Errc::invalid,
                  fmt::format("the load {} destroys what is on volume {}; --write says that it may", name,
                              arguments.volume));
    }
    loads.push_back(load);
  }
  watch_interrupts();
  ASSIGN_OR_RETURN(StoreAccess access, context.open_store(StoreAccess::Missing::fail));
  RETURN_IF_ERROR(context.ask(access, control::InfoRequest{arguments.volume}));
  std::vector<NamedFigures> results;
  for (const Load& load : loads) {
    ASSIGN_OR_RETURN(LoadConnection connection,
                     open_load_connection(access, arguments.volume, arguments.load.depth));
    if (connection.size_bytes() < arguments.load.request_bytes) {
      return fail(Errc::invalid, fmt::format("volume {} is smaller than one request", arguments.volume));
    }
    ProgressDisplay display(load_name(load), context.shows_bar());
    ASSIGN_OR_RETURN(const LoadFigures figures, run_load(connection, load, arguments.load, display));
    results.emplace_back(load_name(load), figures);
  }
  print(arguments.json ? bench_json(arguments, results) : bench_table(arguments, results));
  return {};
}

}  // namespace

void add_bench_command(CLI::App& app, Context& context) {
  auto arguments = std::make_shared<BenchArguments>();
  CLI::App* verb = app.add_subcommand("bench", "Measure a volume through NBD");
  verb->add_option("VOL", arguments->volume, "The volume")->required();
  verb->add_option("--load", arguments->loads,
                   "read, randread, write, randwrite; may be repeated (default: the reads)");
  verb->add_option("--request-size", arguments->request_size, "Of each request")->capture_default_str();
  verb->add_option("--depth", arguments->load.depth, "Requests in flight")
      ->check(CLI::Range(1U, limits::kMaxBenchDepth))
      ->capture_default_str();
  verb->add_option("--seconds", arguments->seconds, "How long each load runs")
      ->check(CLI::Range(1U, limits::kMaxBenchSeconds))
      ->capture_default_str();
  verb->add_flag("--write", arguments->write, "Also write: DESTROYS what is on the volume");
  verb->add_flag("--json", arguments->json, "As JSON");
  verb->callback([arguments, &context] {
    context.run = [arguments, &context] { return run_bench(*arguments, context); };
  });
}

}  // namespace fdbnbd::cli
