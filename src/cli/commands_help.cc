#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <memory>
#include <utility>

#include "cli/commands.h"
#include "cli/completion.h"
#include "cli/output.h"

namespace fdbnbd::cli {

namespace {

// How long a press of the completion key may wait for the store.
constexpr unsigned kCompletionSeconds = 5;

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
  CLI::App* verb = app.add_subcommand(
      "completion",
      "Print a completion script. bash and zsh: source <(fdb-nbd completion bash); fish: fdb-nbd completion "
      "fish | source. It completes verbs, flags, and the names of the volumes and snapshots in the store (of "
      "a RocksDB store while its server runs)");
  verb->add_option("SHELL", *shell, "bash, zsh or fish")->required();
  verb->callback([shell, &context] {
    context.run = [shell]() -> Result<void> {
      ASSIGN_OR_RETURN(const std::string script, completion_script(*shell));
      print(script);
      return {};
    };
  });
}

const CLI::App* find_verb(const CLI::App& above, const std::string& name) {
  for (const CLI::App* verb : above.get_subcommands([](const CLI::App*) { return true; })) {
    if (verb->check_name(name)) return verb;
  }
  return nullptr;
}

void add_help(CLI::App& app, Context& context) {
  auto names = std::make_shared<std::vector<std::string>>();
  CLI::App* verb =
      app.add_subcommand("help", "Tell about the program, or about one verb, as: help trash restore");
  verb->add_option("VERB", *names, "The verb");
  verb->callback([names, &app, &context] {
    context.run = [names, &app]() -> Result<void> {
      const CLI::App* one = &app;
      std::string full_name = app.get_name();
      for (const std::string& name : *names) {
        const CLI::App* below = find_verb(*one, name);
        if (below == nullptr) {
          const std::string above = one == &app ? "" : full_name.substr(app.get_name().size());
          return fail(Errc::invalid, fmt::format("there is no verb \"{}\"; `fdb-nbd help{}` lists them",
                                                 (above + " " + name).substr(1), above));
        }
        one = below;
        full_name += " " + one->get_name();
      }
      // App::help() would tell about this verb, the one that was chosen.
      print(one->get_formatter()->make_help(one, full_name, CLI::AppFormatMode::Normal));
      return {};
    };
  });
}

// Asks the store that the command line names; what cannot be asked has no names. An embedded store is only
// asked where its server runs: opening it would keep out a server that starts meanwhile.
class StoreNames final : public NameSource {
 public:
  explicit StoreNames(const CommandLine& line) {
    context_.progress_enabled = false;
    context_.store_text = value_of(line, "--store", "FDB_NBD_STORE");
    context_.config_path = value_of(line, "--config", "FDB_NBD_CONFIG");
    const auto file = context_.config();
    if (!file) return;  // and every question fails for that
    const auto store = context_.store(*file);
    if (store && store->kind == config::StoreUrl::Kind::rocksdb)
      context_.store_text = "control:" + config::control_socket_in(store->path);
  }

  std::vector<volume::VolumeInfo> volumes() override {
    return names(control::ListRequest{}, &control::read_volumes);
  }
  std::vector<volume::TrashEntry> trash() override {
    return names(control::TrashListRequest{}, &control::read_trash);
  }
  std::vector<volume::GroupInfo> groups() override {
    return names(control::GroupListRequest{}, &control::read_groups);
  }

 private:
  static std::optional<std::string> value_of(const CommandLine& line, const char* option,
                                             const char* variable) {
    if (const auto found = line.options.find(option); found != line.options.end()) return found->second;
    const char* value = std::getenv(variable);
    if (value == nullptr || *value == '\0') return std::nullopt;
    return value;
  }
  template <typename T>
  std::vector<T> names(const control::Request& request, Result<std::vector<T>> (*read)(std::string_view)) {
    const auto result = context_.ask(request);
    if (!result) return {};
    auto names = read(*result);
    return names ? std::move(*names) : std::vector<T>{};
  }

  Context context_;
};

}  // namespace

std::string version_line() {
  return fmt::format("fdb-nbd {}", FDBNBD_VERSION);
}

void add_help_commands(CLI::App& app, Context& context) {
  add_version(app, context);
  add_completion(app, context);
  add_help(app, context);
}

Result<void> answer_completion(const CLI::App& app, const std::vector<std::string>& arguments) {
  ASSIGN_OR_RETURN(const CompletionCall call, read_completion_call(arguments));
  // Nothing is changed that a kill could hurt.
  ::alarm(kCompletionSeconds);
  const CommandLine line = read_command_line(app, call.words);
  StoreNames names(line);
  print(completion_answer(call, complete(line, call.current, names)));
  return {};
}

}  // namespace fdbnbd::cli
