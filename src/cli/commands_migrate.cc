#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "cli/commands.h"
#include "cli/migration.h"
#include "cli/output.h"
#include "cli/progress.h"

namespace fdbnbd::cli {

namespace {

struct MigrateArguments {
  std::string source;
  std::string destination;
  std::vector<std::string> volumes;
  bool catch_up = false;
};

Result<std::string> store_behind(const Context& context, StoreAccess& access) {
  ASSIGN_OR_RETURN(const std::string result, context.ask(access, control::HelloRequest{}));
  ASSIGN_OR_RETURN(control::HelloReply hello, control::read_hello(result));
  return std::move(hello.store);
}

// All but what is unfinished itself.
Result<std::vector<std::string>> all_volumes(const Context& context, StoreAccess& access) {
  ASSIGN_OR_RETURN(const std::string result, context.ask(access, control::ListRequest{}));
  ASSIGN_OR_RETURN(const auto volumes, control::read_volumes(result));
  std::vector<std::string> names;
  for (const auto& volume : volumes) {
    if (!is_unfinished_name(volume.name)) names.push_back(volume.name);
  }
  return names;
}

Result<void> migrate(const Context& context, const MigrateArguments& arguments) {
  ASSIGN_OR_RETURN(StoreAccess source, context.open_store_at(arguments.source, StoreAccess::Missing::fail));
  ASSIGN_OR_RETURN(StoreAccess destination,
                   context.open_store_at(arguments.destination, StoreAccess::Missing::create));
  ASSIGN_OR_RETURN(const std::string source_store, store_behind(context, source));
  ASSIGN_OR_RETURN(const std::string destination_store, store_behind(context, destination));
  if (source_store == destination_store && source_store != "memory:")
    return fail(Errc::invalid, fmt::format("both are the same store, {}", source_store));
  std::vector<std::string> volumes = arguments.volumes;
  if (volumes.empty()) {
    ASSIGN_OR_RETURN(volumes, all_volumes(context, source));
  }
  for (const std::string& volume : volumes) {
    Migration migration(context, source, destination, volume);
    ASSIGN_OR_RETURN(const Migration::Outcome outcome,
                     arguments.catch_up ? migration.catch_up() : migration.complete());
    switch (outcome) {
      case Migration::Outcome::complete: {
        const auto count = std::ranges::count_if(
            migration.source().snapshots, [](const auto& snapshot) { return !is_round_name(snapshot.name); });
        print(fmt::format("{}: migrated with {} snapshot{}; all is as in the source\n", volume, count,
                          count == 1 ? "" : "s"));
        break;
      }
      case Migration::Outcome::was_there:
        print(fmt::format("{}: was migrated before\n", volume));
        break;
      case Migration::Outcome::caught_up:
        print(fmt::format("{}: nearly all is copied; stop its clients, then run this without --catch-up\n",
                          volume));
        break;
    }
  }
  return {};
}

}  // namespace

void add_migrate_command(CLI::App& app, Context& context) {
  auto arguments = std::make_shared<MigrateArguments>();
  CLI::App* verb = app.add_subcommand(
      "migrate",
      "Copy volumes with all their snapshots to another store, and compare them. When it was ended, run it "
      "again: it goes on where it was. A volume appears when it is complete, as VOL.migrating until then");
  verb->add_option("SRC", arguments->source, "The store with the volumes, as --store takes it")->required();
  verb->add_option("DST", arguments->destination, "The other store; an embedded one is made")->required();
  verb->add_option("VOL", arguments->volumes, "The volumes; all of them where none is named");
  verb->add_flag(
      "--catch-up", arguments->catch_up,
      "Volumes in use: copy them while their clients go on, up to a small rest. A run without this, "
      "with the clients stopped, completes them");
  verb->callback([arguments, &context] {
    context.run = [arguments, &context]() -> Result<void> {
      watch_interrupts();
      return migrate(context, *arguments);
    };
  });
}

}  // namespace fdbnbd::cli
