#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <utility>

#include "cli/commands.h"
#include "cli/completion.h"
#include "cli/output.h"

namespace fdbnbd::cli {

namespace {

std::vector<std::string> long_flags(const CLI::App& app) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  }
  return flags;
}

bool is_any_verb(const CLI::App*) {
  return true;
}

// What the arguments of `verb`, called `name`, complete to.
void take_arguments(const CLI::App& verb, const std::string& name, VerbSummary& summary) {
  for (const std::string& flag : long_flags(verb)) {
    if (std::ranges::find(summary.flags, flag) == summary.flags.end()) summary.flags.push_back(flag);
  }
  for (const CLI::Option* option : verb.get_options()) {
    const std::string argument = option->get_positional() ? option->get_name(true) : "";
    summary.takes_volume |= (argument == "VOL" || argument == "DEVICE|VOL") && name != "create" &&
                            name != "import" && name != "migrate";
    summary.takes_volume |= argument == "VOL@SNAP" && name == "snap";
    summary.takes_snapshot |= argument == "VOL@SNAP" && name != "snap";
    summary.takes_snapshot |= argument.starts_with("VOL[@");
    summary.takes_file |= argument == "FILE";
  }
}

std::vector<VerbSummary> summarize(const CLI::App& app) {
  std::vector<VerbSummary> verbs;
  for (const CLI::App* verb : app.get_subcommands(is_any_verb)) {
    VerbSummary summary{
        .name = verb->get_name(), .description = verb->get_description(), .flags = {}, .verbs = {}};
    take_arguments(*verb, verb->get_name(), summary);
    for (const CLI::App* below : verb->get_subcommands(is_any_verb)) {
      summary.verbs.push_back(below->get_name());
      take_arguments(*below, verb->get_name() + " " + below->get_name(), summary);
    }
    verbs.push_back(std::move(summary));
  }
  return verbs;
}

void add_version(CLI::App& app, Context& context) {
  auto json = std::make_shared<bool>(false);
  CLI::App* verb = app.add_subcommand("version", "Tell the version");
  verb->add_flag("--json", *json, "As JSON");
  verb->callback([json, &context] {
    context.run = [json]() -> Result<void> {
      print(*json ? fmt::format("{{\"schema\":{},\"version\":\"{}\"}}\n", control::kSchema, FDBNBD_VERSION)
                  : version_line() + "\n");
      return {};
    };
  });
}

void add_completion(CLI::App& app, Context& context) {
  auto shell = std::make_shared<std::string>();
  CLI::App* verb =
      app.add_subcommand("completion", "Print a completion script: source <(fdb-nbd completion bash)");
  verb->add_option("SHELL", *shell, "bash, zsh or fish")->required();
  verb->callback([shell, &app, &context] {
    context.run = [shell, &app]() -> Result<void> {
      ASSIGN_OR_RETURN(const std::string script, completion_script(*shell, summarize(app), long_flags(app)));
      print(script);
      return {};
    };
  });
}

void add_help(CLI::App& app, Context& context) {
  auto name = std::make_shared<std::string>();
  CLI::App* verb = app.add_subcommand("help", "Tell about the program, or about one verb");
  verb->add_option("VERB", *name, "The verb");
  verb->callback([name, &app, &context] {
    context.run = [name, &app]() -> Result<void> {
      // App::help() would tell about this verb, the one that was chosen.
      const auto help_of = [](const CLI::App& one, const std::string& full_name) {
        return one.get_formatter()->make_help(&one, full_name, CLI::AppFormatMode::Normal);
      };
      if (name->empty()) return print(help_of(app, app.get_name())), Result<void>();
      for (const CLI::App* one : app.get_subcommands([](const CLI::App*) { return true; })) {
        if (one->check_name(*name))
          return print(help_of(*one, app.get_name() + " " + one->get_name())), Result<void>();
      }
      return fail(Errc::invalid, fmt::format("there is no verb \"{}\"; `fdb-nbd help` lists them", *name));
    };
  });
}

}  // namespace

std::string version_line() {
  return fmt::format("fdb-nbd {}", FDBNBD_VERSION);
}

void add_help_commands(CLI::App& app, Context& context) {
  add_version(app, context);
  add_completion(app, context);
  add_help(app, context);
}

}  // namespace fdbnbd::cli
