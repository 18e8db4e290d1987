#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <string>

#include "base/limits.h"
#include "base/log.h"
#include "base/text.h"
#include "cli/commands.h"
#include "cli/completion.h"
#include "cli/exit_status.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "server/open_engine.h"

namespace fdbnbd::cli {
namespace {

constexpr size_t kMaxErrorLineBytes = 4 * limits::kKiB;

int end(ExitStatus status) {
  return static_cast<int>(status);
}

// One line on stderr, whatever the text has.
int end(const Error& error) {
  print_error(fmt::format("fdb-nbd: {}\n", escaped(error.what, kMaxErrorLineBytes)));
  return end(exit_status(error.code));
}

int usage_error(const CLI::App& app, const CLI::ParseError& error) {
  // " trash restore": as far as the verbs are known.
  std::string verb;
  const CLI::App* innermost = &app;
  while (!innermost->get_subcommands().empty()) {
    innermost = innermost->get_subcommands().front();
    verb += " " + innermost->get_name();
  }
  const bool needs_verb = innermost->get_require_subcommand_min() > 0;
  const auto unknown = app.remaining(true);
  if (needs_verb && !unknown.empty() && !unknown.front().starts_with('-')) {
    print_error(fmt::format("fdb-nbd: there is no verb \"{}\"; see: fdb-nbd{} --help\n",
                            escaped((verb + " " + unknown.front()).substr(1), kMaxErrorLineBytes), verb));
    return end(ExitStatus::usage);
  }
  print_error(fmt::format("fdb-nbd{}: {}; see: fdb-nbd{} --help\n", verb,
                          escaped(error.what(), kMaxErrorLineBytes), verb));
  return end(ExitStatus::usage);
}

int run(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  watch_progress_signals();
  log::set_level(log::Level::warning);

  Context context;
  bool no_progress = false;
  CLI::App app("Thin virtual disks over NBD", "fdb-nbd");
  app.fallthrough();
  app.require_subcommand(1);
  app.set_version_flag("--version", version_line());
  app.add_option("--store", context.store_text,
                 "Where the volumes are: rocksdb:PATH, memory:, "
                 "fdb:[CLUSTER_FILE][?prefix=NAME][&OPTION=VALUE], control:SOCKET")
      ->envname("FDB_NBD_STORE");
  app.add_option("--config", context.config_path,
                 fmt::format("The configuration file (default {})", config::kDefaultConfigPath))
      ->envname("FDB_NBD_CONFIG");
  app.add_flag("--no-progress", no_progress, "No progress bar, even on a terminal");
  app.footer(
      "Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 exists, 5 busy, 6 fenced,\n"
      "7 store unreachable, 8 no space or quota, 9 corruption found, 10 differs.");
  add_serve_command(app, context);
  add_volume_commands(app, context);
  add_trash_commands(app, context);
  add_property_commands(app, context);
  add_snapshot_commands(app, context);
  add_group_commands(app, context);
  add_transfer_commands(app, context);
  add_migrate_command(app, context);
  add_backup_commands(app, context);
  add_report_commands(app, context);
  add_lock_commands(app, context);
  add_attach_commands(app, context);
  add_bench_command(app, context);
  add_help_commands(app, context);

  if (argc > 1 && argv[1] == kCompletionArgument) {
    const auto answered = answer_completion(app, {argv + 2, argv + argc});
    if (!answered) return end(answered.error());
    return end(finish_output() ? ExitStatus::done : ExitStatus::failed);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return usage_error(app, error);
  }
  context.progress_enabled = !no_progress;

  const auto done = context.run();
  const auto written = finish_output();
  if (!done) return end(done.error());
  if (written) return end(ExitStatus::done);
  // Whoever read the output has had enough of it.
  return written.error().code == Errc::peer_gone ? end(ExitStatus::failed) : end(written.error());
}

}  // namespace
}  // namespace fdbnbd::cli

int main(int argc, char** argv) {
  const int status = fdbnbd::cli::run(argc, argv);
  fdbnbd::server::shut_down_engines();
  return status;
}
