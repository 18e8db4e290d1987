#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "base/units.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "control/time_text.h"

namespace fdbnbd::cli {

namespace {

struct ReportOptions {
  std::optional<std::string> name;
  bool json = false;
  bool repair = false;  // of check
};

std::string usage_table(const std::vector<volume::VolumeUsage>& usages) {
  std::vector<std::vector<std::string>> rows;
  const auto add = [&](std::string name, std::string size, const volume::SpaceUsage& space) {
    rows.push_back({std::move(name), std::move(size), format_size(space.used_bytes),
                    format_size(space.unique_bytes), format_size(space.shared_bytes)});
  };
  for (const auto& usage : usages) {
    add(usage.name, format_size(usage.size_bytes), usage.space);
    for (const auto& snapshot : usage.snapshots) add(usage.name + '@' + snapshot.name, "", snapshot.space);
  }
  return format_table({{"NAME"},
                       {.title = "SIZE", .right_aligned = true},
                       {.title = "USED", .right_aligned = true},
                       {.title = "UNIQUE", .right_aligned = true},
                       {.title = "SHARED", .right_aligned = true}},
                      rows);
}

void add_usage(CLI::App& app, Context& context) {
  auto options = std::make_shared<ReportOptions>();
  CLI::App* verb = app.add_subcommand(
      "du",
      "Tell what volumes and snapshots take: USED before compression, as it reads; of what is "
      "stored for that, UNIQUE comes back when this one alone is removed, SHARED does not");
  verb->add_option("VOL", options->name, "The volume; all of them where none is named");
  verb->add_flag("--json", options->json, "As JSON");
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      ASSIGN_OR_RETURN(const std::string result, context.ask(control::UsageRequest{options->name},
                                                             StoreAccess::Missing::fail, "Reading"));
      if (options->json) return print(result + "\n"), Result<void>();
      ASSIGN_OR_RETURN(const auto usages, control::read_usage(result));
      print(usage_table(usages));
      return {};
    };
  });
}

std::string finding_line(const volume::CheckFinding& finding) {
  const std::string_view mended = finding.is_mended ? " (mended)" : "";
  if (finding.volume.empty()) return fmt::format("store: {}{}\n", finding.what, mended);
  return fmt::format("volume {}, offset {}, {} bytes: {}{}\n", finding.volume, finding.offset_bytes,
                     finding.length_bytes, finding.what, mended);
}

void print_report(const volume::CheckReport& report) {
  for (const auto& finding : report.findings) print(finding_line(finding));
  if (report.findings.size() < report.findings_count)
    print(fmt::format("and {} more\n", report.findings_count - report.findings.size()));
  if (report.findings_count == report.mended_count) {
    print(fmt::format("{} volumes, {} blocks: all is well{}\n", report.volumes_count, report.blocks_count,
                      report.mended_count == 0 ? "" : " now"));
  }
}

void add_check(CLI::App& app, Context& context) {
  auto options = std::make_shared<ReportOptions>();
  CLI::App* verb = app.add_subcommand(
      "check",
      "Read all that is stored and verify its checksums and records; exit status 9 where something is wrong");
  auto* const name =
      verb->add_option("VOL", options->name, "The volume; the whole store where none is named");
  verb->add_flag(
          "--repair", options->repair,
          "Mend what can be mended without a doubt: records and bitmaps that follow from others, space "
          "that nothing leads to. Data are never guessed. Exit status 9 where something is left")
      ->excludes(name);
  verb->add_flag("--json", options->json, "As JSON");
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      const control::CheckRequest request{.name = options->name, .repair = options->repair};
      ASSIGN_OR_RETURN(const std::string result,
                       context.ask(request, StoreAccess::Missing::fail, "Checking"));
      ASSIGN_OR_RETURN(const volume::CheckReport report, control::read_check(result));
      if (options->json) {
        print(result + "\n");
      } else {
        print_report(report);
      }
      const uint64_t left_count = report.findings_count - report.mended_count;
      if (left_count == 0) return {};
      return fail(
          Errc::corruption,
          fmt::format("{} problems in {} volumes of {} blocks; the rest is readable: export what you need",
                      left_count, report.volumes_count, report.blocks_count));
    };
  });
}

void add_status(CLI::App& app, Context& context) {
  auto json = std::make_shared<bool>(false);
  CLI::App* verb = app.add_subcommand("status", "Tell about the server that holds the store");
  verb->add_flag("--json", *json, "As JSON");
  verb->callback([json, &context] {
    context.run = [json, &context]() -> Result<void> {
      ASSIGN_OR_RETURN(const std::string result, context.ask(control::StatusRequest{}));
      if (*json) return print(result + "\n"), Result<void>();
      ASSIGN_OR_RETURN(const control::StatusReply status, control::read_status(result));
      std::string listen;
      for (const auto& address : status.listen) listen += (listen.empty() ? "" : ", ") + address;
      print(format_fields(
          {{"Store", status.store},
           {"Server", listen.empty() ? "none is running; this command opened the store itself"
                                     : fmt::format("pid {}, version {}", status.pid, status.version)},
           {"Started", control::format_time(status.started)},
           {"Listening on", listen.empty() ? "nothing" : listen},
           {"Control socket", status.control.empty() ? "none" : status.control},
           {"Volumes", fmt::format("{}, {} open", status.volumes_count, status.volumes_open_count)},
           {"Sessions", std::to_string(status.sessions_count)},
           {"In flight", fmt::format("{} requests, {}", status.requests_in_flight_count,
                                     format_size(status.bytes_in_flight))},
           {"On disk", format_size(status.store_bytes)},
           {"Memory at most", format_size(status.memory_bound_bytes)}}));
      return {};
    };
  });
}

}  // namespace

void add_report_commands(CLI::App& app, Context& context) {
  add_usage(app, context);
  add_check(app, context);
  add_status(app, context);
}

}  // namespace fdbnbd::cli
