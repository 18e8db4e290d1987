#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/output.h"

namespace fdbnbd::cli {

namespace {

std::string locks_table(const std::vector<volume::LockInfo>& locks) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& lock : locks) {
    rows.push_back({lock.volume, lock.holder, std::string(volume::lock_state_name(lock.state)),
                    std::to_string(lock.epoch)});
  }
  return format_table({{"VOLUME"}, {"HOLDER"}, {"STATE"}, {.title = "EPOCH", .right_aligned = true}}, rows);
}

void add_lock_list(CLI::App& locks, Context& context) {
  auto json = std::make_shared<bool>(false);
  CLI::App* verb =
      locks.add_subcommand("ls", "List the volumes that a server holds, and whether it is alive");
  verb->add_flag("--json", *json, "As JSON");
  verb->callback([json, &context] {
    context.run = [json, &context]() -> Result<void> {
      ASSIGN_OR_RETURN(const std::string result, context.ask(control::LockListRequest{}));
      if (*json) return print(result + "\n"), Result<void>();
      ASSIGN_OR_RETURN(const auto held, control::read_locks(result));
      print(locks_table(held));
      return {};
    };
  });
}

void add_lock_break(CLI::App& locks, Context& context) {
  auto name = std::make_shared<std::string>();
  CLI::App* verb = locks.add_subcommand(
      "break", "Take a volume from the server that holds it; its clients get errors, and the volume is free");
  verb->add_option("VOL", *name, "The volume")->required();
  verb->callback([name, &context] {
    context.run = [name, &context]() -> Result<void> {
      ASSIGN_OR_RETURN(const std::string result, context.ask(control::LockBreakRequest{*name}));
      ASSIGN_OR_RETURN(const std::string holder, control::read_lock_broken(result));
      print(holder.empty() ? fmt::format("nobody held volume {}\n", *name)
                           : fmt::format("volume {} was held by {}\n", *name, holder));
      return {};
    };
  });
}

}  // namespace

void add_lock_commands(CLI::App& app, Context& context) {
  CLI::App* verb = app.add_subcommand("lock", "Tell who serves which volume of a shared store, or end that");
  verb->require_subcommand(1);
  add_lock_list(*verb, context);
  add_lock_break(*verb, context);
}

}  // namespace fdbnbd::cli
