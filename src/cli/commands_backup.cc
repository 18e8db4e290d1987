#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/commands.h"
#include "cli/diff_reader.h"
#include "cli/export_diff.h"
#include "cli/import_diff.h"
#include "cli/output.h"
#include "cli/progress.h"

namespace fdbnbd::cli {

namespace {

struct DiffArguments {
  std::string volume;  // VOL or VOL@A
  std::string later;   // @B, or empty
  bool json = false;
};

// The later point of `diff VOL[@A] [@B]` and the earlier one.
Result<DiffReader::Points> points_of(const DiffArguments& arguments) {
  DiffReader::Points points{.name = arguments.volume, .from = std::nullopt};
  if (volume::is_snapshot_name(arguments.volume)) {
    ASSIGN_OR_RETURN(volume::SnapshotName from, volume::parse_snapshot_name(arguments.volume));
    points.name = std::move(from.volume);
    points.from = std::move(from.snapshot);
  }
  if (arguments.later.empty()) return points;
  const size_t at = arguments.later.find('@');
  const std::string volume = arguments.later.substr(0, at);
  if (at == std::string::npos || (!volume.empty() && volume != points.name)) {
    return fail(Errc::invalid,
                fmt::format("{} is no snapshot of volume {}: write @SNAP", arguments.later, points.name));
  }
  points.name += arguments.later.substr(at);
  return points;
}

void print_json(const DiffReader::Points& points, const DiffReader& reader) {
  const auto quoted = [](const std::string& text) {
    return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  };
  print(fmt::format(
      R"({{"schema":{},"name":{},"from":{},"from_size_bytes":{},"size_bytes":{},"block_size":{},)",
      control::kSchema, quoted(points.name), points.from ? quoted(*points.from) : "null",
      reader.from_size_bytes(), reader.size_bytes(), reader.block_bytes()));
}

// Range by range, so that none of them has to be kept.
Result<void> print_ranges(DiffReader& reader, bool json) {
  print(json ? R"("ranges":[)" : fmt::format("{:>20} {:>20}  {}\n", "OFFSET", "LENGTH", "KIND"));
  bool is_first = true;
  while (true) {
    ASSIGN_OR_RETURN(const auto range, reader.next());
    if (!range) break;
    const std::string_view kind = volume::diff_kind_name(range->kind);
    if (json) {
      print(fmt::format(R"({}{{"offset_bytes":{},"length_bytes":{},"kind":"{}"}})", is_first ? "" : ",",
                        range->offset_bytes, range->length_bytes, kind));
    } else {
      print(fmt::format("{:>20} {:>20}  {}\n", range->offset_bytes, range->length_bytes, kind));
    }
    is_first = false;
  }
  if (json) print("]}\n");
  return {};
}

void add_diff(CLI::App& app, Context& context) {
  auto arguments = std::make_shared<DiffArguments>();
  CLI::App* verb = app.add_subcommand(
      "diff",
      "Tell which ranges of a volume have changed between two of its snapshots, or since one of them, "
      "without reading data. Without a snapshot, tell where there is data");
  verb->add_option("VOL[@A]", arguments->volume, "The volume, or the snapshot to begin with")->required();
  verb->add_option("@B", arguments->later, "The later snapshot; the volume as it is where none is named");
  verb->add_flag("--json", arguments->json, "As JSON");
  verb->callback([arguments, &context] {
    context.run = [arguments, &context]() -> Result<void> {
      ASSIGN_OR_RETURN(DiffReader::Points points, points_of(*arguments));
      ASSIGN_OR_RETURN(StoreAccess access, context.open_store(StoreAccess::Missing::fail));
      ASSIGN_OR_RETURN(control::Client client, access.connect());
      ASSIGN_OR_RETURN(DiffReader reader, DiffReader::open(std::move(client), points));
      if (arguments->json) print_json(points, reader);
      return print_ranges(reader, arguments->json);
    };
  });
}

void add_export_diff(CLI::App& app, Context& context) {
  auto arguments = std::make_shared<ExportDiffArguments>();
  CLI::App* verb = app.add_subcommand(
      "export-diff",
      "Write what has changed between two snapshots to a file or to stdout, for import-diff. What was "
      "interrupted goes on when it is run again");
  verb->add_option("VOL[@B]", arguments->name, "The snapshot to end with, or the volume as it is now")
      ->required();
  verb->add_option("FILE", arguments->file, "The file, or - for stdout")->required();
  verb->add_option("--from", arguments->from,
                   "The snapshot to begin with, @A or A; everything is written where none is named")
      ->type_name("A");
  verb->add_flag("--force", arguments->force, "Replace a file that is there");
  verb->callback([arguments, &context] {
    if (arguments->from) arguments->from = arguments->from->substr(arguments->from->find('@') + 1);
    context.run = [arguments, &context]() -> Result<void> {
      watch_interrupts();
      return export_diff(context, *arguments);
    };
  });
}

void add_import_diff(CLI::App& app, Context& context) {
  auto arguments = std::make_shared<ImportDiffArguments>();
  CLI::App* verb = app.add_subcommand(
      "import-diff",
      "Bring a volume to where a stream of export-diff ends, all at once when all of it is there and is "
      "sound. A stream without --from makes the volume");
  verb->add_option("FILE", arguments->file, "The file, or - for stdin")->required();
  verb->add_option("VOL", arguments->volume,
                   "The volume, which has to be at the snapshot that the stream begins at")
      ->required();
  verb->callback([arguments, &context] {
    context.run = [arguments, &context]() -> Result<void> {
      watch_interrupts();
      return import_diff(context, *arguments);
    };
  });
}

}  // namespace

void add_backup_commands(CLI::App& app, Context& context) {
  add_diff(app, context);
  add_export_diff(app, context);
  add_import_diff(app, context);
}

}  // namespace fdbnbd::cli
