#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/context.h"

namespace CLI {
class App;
}

// Each function adds verbs to the command line: their options and help, and what they do, as Context::run.
// `context` outlives the application.

namespace fdbnbd::cli {

void add_serve_command(CLI::App& app, Context& context);
void add_volume_commands(CLI::App& app, Context& context);    // create ls info resize rm mv
void add_snapshot_commands(CLI::App& app, Context& context);  // snap rollback clone flatten cp
void add_report_commands(CLI::App& app, Context& context);    // du check status
void add_transfer_commands(CLI::App& app, Context& context);  // import export
void add_import_command(CLI::App& app, Context& context);     // of these, import
void add_migrate_command(CLI::App& app, Context& context);
void add_trash_commands(CLI::App& app, Context& context);     // trash ls, trash restore, trash purge
void add_property_commands(CLI::App& app, Context& context);  // label set, label rm, label ls, quota set
void add_group_commands(CLI::App& app, Context& context);     // group create rm add remove snap rollback ls
void add_backup_commands(CLI::App& app, Context& context);    // diff export-diff import-diff
void add_lock_commands(CLI::App& app, Context& context);      // lock ls, lock break
void add_attach_commands(CLI::App& app, Context& context);    // attach detach
void add_bench_command(CLI::App& app, Context& context);
void add_help_commands(CLI::App& app, Context& context);  // version completion help

// What a completion script asks; `arguments` as read_completion_call() takes them. `app` has all verbs.
Result<void> answer_completion(const CLI::App& app, const std::vector<std::string>& arguments);

// "fdb-nbd 0.1.0".
std::string version_line();

// A size above zero, or "none", which is 0.
Result<uint64_t> parse_quota(const std::string& text);

}  // namespace fdbnbd::cli
