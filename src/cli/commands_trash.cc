#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "base/units.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "control/time_text.h"

namespace fdbnbd::cli {

namespace {

std::string trash_table(const std::vector<volume::TrashEntry>& entries) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& entry : entries) {
    rows.push_back({entry.name, std::to_string(entry.id), format_size(entry.size_bytes),
                    format_size(entry.used_bytes), std::to_string(entry.snapshots_count),
                    control::format_time(entry.trashed), control::format_time(entry.expires)});
  }
  return format_table({{"NAME"},
                       {"ID"},
                       {.title = "SIZE", .right_aligned = true},
                       {.title = "USED", .right_aligned = true},
                       {.title = "SNAPSHOTS", .right_aligned = true},
                       {"REMOVED"},
                       {"PURGED"}},
                      rows);
}

void add_trash_list(CLI::App& trash, Context& context) {
  auto json = std::make_shared<bool>(false);
  CLI::App* verb = trash.add_subcommand("ls", "List the removed volumes and when they are purged");
  verb->add_flag("--json", *json, "As JSON");
  verb->callback([json, &context] {
    context.run = [json, &context]() -> Result<void> {
      ASSIGN_OR_RETURN(const std::string result, context.ask(control::TrashListRequest{}));
      if (*json) return print(result + "\n"), Result<void>();
      ASSIGN_OR_RETURN(const auto entries, control::read_trash(result));
      print(trash_table(entries));
      return {};
    };
  });
}

void add_trash_restore(CLI::App& trash, Context& context) {
  struct Options {
    std::string name;
    std::string new_name;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = trash.add_subcommand("restore", "Bring a removed volume back, with its snapshots");
  verb->add_option("NAME|ID", options->name, "The name it had, or its id where several had it")->required();
  verb->add_option("NEW", options->new_name, "Its new name, where it is not to have the old one");
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      RETURN_IF_ERROR(
          context.ask(control::TrashRestoreRequest{.name = options->name, .new_name = options->new_name}));
      return {};
    };
  });
}

void add_trash_purge(CLI::App& trash, Context& context) {
  struct Options {
    std::optional<std::string> name;
    bool all = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb =
      trash.add_subcommand("purge", "Remove a volume in the trash for good; its space comes back");
  verb->add_option("NAME|ID", options->name, "The name it had, or its id where several had it");
  verb->add_flag("--all", options->all, "Everything in the trash")->excludes("NAME|ID");
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      if (!options->name && !options->all)
        return fail(Errc::invalid, "name the volume to purge, or --all for everything in the trash");
      RETURN_IF_ERROR(context.ask(control::TrashPurgeRequest{options->name}));
      return {};
    };
  });
}

}  // namespace

void add_trash_commands(CLI::App& app, Context& context) {
  CLI::App* verb = app.add_subcommand("trash", "List removed volumes, bring them back, or purge them");
  verb->require_subcommand(1);
  add_trash_list(*verb, context);
  add_trash_restore(*verb, context);
  add_trash_purge(*verb, context);
}

}  // namespace fdbnbd::cli
