#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/output.h"

namespace fdbnbd::cli {

namespace {

struct GroupOptions {
  std::string name;
  std::vector<std::string> volumes;
};

void add_group_create(CLI::App& groups, Context& context) {
  auto options = std::make_shared<GroupOptions>();
  CLI::App* verb = groups.add_subcommand("create", "Make a group of volumes");
  verb->add_option("GROUP", options->name, "Its name")->required();
  verb->add_option("VOL", options->volumes, "Its first volumes");
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      RETURN_IF_ERROR(
          context.ask(control::GroupCreateRequest{.name = options->name, .volumes = options->volumes}));
      return {};
    };
  });
}

void add_group_remove(CLI::App& groups, Context& context) {
  auto name = std::make_shared<std::string>();
  CLI::App* verb = groups.add_subcommand("rm", "Remove a group; its volumes and their snapshots stay");
  verb->add_option("GROUP", *name, "The group")->required();
  verb->callback([name, &context] {
    context.run = [name, &context]() -> Result<void> {
      RETURN_IF_ERROR(context.ask(control::GroupRemoveRequest{*name}));
      return {};
    };
  });
}

// One of the verbs that change who belongs to a group.
template <typename Request>
void add_group_change(CLI::App& groups, Context& context, const char* name, const char* description) {
  auto options = std::make_shared<GroupOptions>();
  CLI::App* verb = groups.add_subcommand(name, description);
  verb->add_option("GROUP", options->name, "The group")->required();
  verb->add_option("VOL", options->volumes, "The volumes")->required();
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      RETURN_IF_ERROR(context.ask(Request{.name = options->name, .volumes = options->volumes}));
      return {};
    };
  });
}

// One of the verbs on a group's snapshot.
template <typename Request>
void add_group_snapshot(CLI::App& groups, Context& context, const char* name, const char* description) {
  auto snapshot = std::make_shared<std::string>();
  CLI::App* verb = groups.add_subcommand(name, description);
  verb->add_option("GROUP@SNAP", *snapshot, "The group and the snapshot's name")->required();
  verb->callback([snapshot, &context] {
    context.run = [snapshot, &context]() -> Result<void> {
      RETURN_IF_ERROR(context.ask(Request{*snapshot}));
      return {};
    };
  });
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

void add_group_list(CLI::App& groups, Context& context) {
  auto json = std::make_shared<bool>(false);
  CLI::App* verb =
      groups.add_subcommand("ls", "List the groups, and the snapshots that all their volumes have");
  verb->add_flag("--json", *json, "As JSON");
  verb->callback([json, &context] {
    context.run = [json, &context]() -> Result<void> {
      ASSIGN_OR_RETURN(const std::string result, context.ask(control::GroupListRequest{}));
      if (*json) return print(result + "\n"), Result<void>();
      ASSIGN_OR_RETURN(const auto list, control::read_groups(result));
      std::vector<std::vector<std::string>> rows;
      for (const auto& group : list) {
        std::vector<std::string> snapshots;
        for (const auto& snapshot : group.snapshots) snapshots.push_back(snapshot.name);
        rows.push_back({group.name, joined(group.members), joined(snapshots)});
      }
      print(format_table({{"GROUP"}, {"VOLUMES"}, {"SNAPSHOTS"}}, rows));
      return {};
    };
  });
}

}  // namespace

void add_group_commands(CLI::App& app, Context& context) {
  CLI::App* verb = app.add_subcommand("group", "Snapshots and rollback of several volumes together");
  verb->require_subcommand(1);
  add_group_create(*verb, context);
  add_group_remove(*verb, context);
  add_group_change<control::GroupAddRequest>(*verb, context, "add", "Put volumes into a group");
  add_group_change<control::GroupTakeOutRequest>(*verb, context, "remove", "Take volumes out of a group");
  add_group_snapshot<control::GroupSnapRequest>(
      *verb, context, "snap", "Take the snapshot VOL@SNAP of each volume of a group, all at one instant");
  add_group_snapshot<control::GroupRollbackRequest>(
      *verb, context, "rollback", "Make all volumes of a group what they were at a snapshot, or none");
  add_group_list(*verb, context);
}

}  // namespace fdbnbd::cli
