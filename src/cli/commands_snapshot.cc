#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"

namespace fdbnbd::cli {

namespace {

void add_snap(CLI::App& app, Context& context) {
  auto names = std::make_shared<std::vector<std::string>>();
  CLI::App* verb =
      app.add_subcommand("snap",
                         "Take snapshots, also of volumes in use: several volumes in one call are "
                         "taken at one instant. A snapshot is served read-only as VOL@SNAP")
          ->alias("snapshot");
  verb->add_option("VOL@SNAP", *names, "The volume and the new snapshot's name")->required();
  verb->callback([names, &context] {
    context.run = [names, &context]() -> Result<void> {
      RETURN_IF_ERROR(context.ask(control::SnapRequest{*names}));
      return {};
    };
  });
}

void add_rollback(CLI::App& app, Context& context) {
  auto request = std::make_shared<control::RollbackRequest>();
  CLI::App* verb = app.add_subcommand(
      "rollback", "Make a volume what it was at a snapshot. Newer snapshots stay; what is in none is lost");
  verb->add_option("VOL@SNAP", request->name, "The snapshot")->required();
  verb->add_flag("--disconnect", request->disconnect,
                 "Also while clients have the volume open: their connections end, without an answer to what "
                 "they ask, and they have to connect anew");
  verb->callback([request, &context] {
    context.run = [request, &context]() -> Result<void> {
      RETURN_IF_ERROR(context.ask(*request));
      return {};
    };
  });
}

void add_clone(CLI::App& app, Context& context) {
  struct Options {
    std::string name;
    std::string new_name;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand(
      "clone", "Make a volume that begins as a snapshot; it takes no space until something is written");
  verb->add_option("VOL@SNAP", options->name, "The snapshot")->required();
  verb->add_option("NEW", options->new_name, "The new volume's name")->required();
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      RETURN_IF_ERROR(
          context.ask(control::CloneRequest{.name = options->name, .new_name = options->new_name}));
      return {};
    };
  });
}

void add_flatten(CLI::App& app, Context& context) {
  auto name = std::make_shared<std::string>();
  CLI::App* verb =
      app.add_subcommand("flatten",
                         "Copy what a volume shares with the snapshot that it was cloned from, so "
                         "that it stands alone; also while it is in use");
  verb->add_option("VOL", *name, "The volume")->required();
  verb->callback([name, &context] {
    context.run = [name, &context]() -> Result<void> {
      RETURN_IF_ERROR(context.ask(control::FlattenRequest{*name}, StoreAccess::Missing::fail, "Copying"));
      return {};
    };
  });
}

void add_copy(CLI::App& app, Context& context) {
  struct Options {
    std::string name;
    std::string new_name;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb =
      app.add_subcommand("cp", "Copy a volume as it is now, or a snapshot, to a new volume")->alias("copy");
  verb->add_option("VOL[@SNAP]", options->name, "The volume or snapshot")->required();
  verb->add_option("NEW", options->new_name, "The new volume's name")->required();
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      RETURN_IF_ERROR(context.ask(control::CopyRequest{.name = options->name, .new_name = options->new_name},
                                  StoreAccess::Missing::fail, "Copying"));
      return {};
    };
  });
}

}  // namespace

void add_snapshot_commands(CLI::App& app, Context& context) {
  add_snap(app, context);
  add_rollback(app, context);
  add_clone(app, context);
  add_flatten(app, context);
  add_copy(app, context);
}

}  // namespace fdbnbd::cli
