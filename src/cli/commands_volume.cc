#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "base/limits.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "control/time_text.h"

namespace fdbnbd::cli {

namespace {

std::string sessions_text(uint32_t count) {
  return count == 0 ? "none" : std::to_string(count);
}

void add_create(CLI::App& app, Context& context) {
  struct Options {
    std::string name;
    std::string size;
    std::string block_size = fmt::format("{}K", volume::CreateOptions{}.block_bytes / limits::kKiB);
    std::string compression = std::string(volume::compression_name(volume::CreateOptions{}.compression));
    std::string quota = "none";
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb =
      app.add_subcommand("create", "Make a volume; it takes no space until something is written");
  verb->add_option("VOL", options->name, "Its name")->required();
  verb->add_option("SIZE", options->size, "Its size, as 10G: a multiple of 512 bytes")->required();
  verb->add_option("--block-size", options->block_size,
                   "What is stored, compressed and verified as one: 4K to 64K")
      ->capture_default_str();
  verb->add_option("--compression", options->compression, "none, lz4 or zstd")->capture_default_str();
  verb->add_option("--quota", options->quota, "Bound of what it may use, as 5G, or none")
      ->capture_default_str();
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      control::CreateRequest request{.name = options->name};
      ASSIGN_OR_RETURN(request.size_bytes, parse_size(options->size));
      ASSIGN_OR_RETURN(const uint64_t block_bytes, parse_size(options->block_size));
      if (block_bytes > UINT32_MAX) {
        return fail(Errc::invalid, fmt::format("a block size of {} is too large", options->block_size));
      }
      request.block_bytes = static_cast<uint32_t>(block_bytes);
      ASSIGN_OR_RETURN(request.compression, volume::parse_compression(options->compression));
      ASSIGN_OR_RETURN(request.quota_bytes, parse_quota(options->quota));
      RETURN_IF_ERROR(context.ask(request, StoreAccess::Missing::create));
      return {};
    };
  });
}

std::string volumes_table(const std::vector<volume::VolumeInfo>& volumes, bool with_snapshots) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& volume : volumes) {
    rows.push_back({volume.name, format_size(volume.size_bytes), format_size(volume.used_bytes),
                    format_size(volume.block_bytes), control::format_time(volume.created),
                    sessions_text(volume.sessions_count)});
    if (!with_snapshots) continue;
    for (const auto& snapshot : volume.snapshots) {
      rows.push_back({volume.name + '@' + snapshot.name, format_size(snapshot.size_bytes), "",
                      format_size(volume.block_bytes), control::format_time(snapshot.created), ""});
    }
  }
  return format_table({{"NAME"},
                       {.title = "SIZE", .right_aligned = true},
                       {.title = "USED", .right_aligned = true},
                       {.title = "BLOCK", .right_aligned = true},
                       {"CREATED"},
                       {"SESSIONS"}},
                      rows);
}

void add_list(CLI::App& app, Context& context) {
  struct Options {
    bool json = false;
    bool names = false;
    bool snapshots = false;
    std::vector<std::string> labels;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("ls", "List the volumes")->alias("list");
  verb->add_flag("--json", options->json, "As JSON");
  verb->add_flag("--names", options->names, "Nothing but the names, one a line");
  verb->add_flag("--snapshots", options->snapshots, "The snapshots too; --json always has them");
  verb->add_option("--label", options->labels,
                   "KEY or KEY=VALUE, repeatable: only volumes that have them all")
      ->allow_extra_args(false);
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      ASSIGN_OR_RETURN(const std::string result, context.ask(control::ListRequest{options->labels}));
      if (options->json) return print(result + "\n"), Result<void>();
      ASSIGN_OR_RETURN(const auto volumes, control::read_volumes(result));
      if (!options->names) return print(volumes_table(volumes, options->snapshots)), Result<void>();
      for (const auto& volume : volumes) {
        print(volume.name + "\n");
        if (!options->snapshots) continue;
        for (const auto& snapshot : volume.snapshots) print(volume.name + '@' + snapshot.name + "\n");
      }
      return {};
    };
  });
}

void add_info(CLI::App& app, Context& context) {
  struct Options {
    std::string name;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("info", "Tell all about one volume or snapshot");
  verb->add_option("VOL[@SNAP]", options->name, "The volume or snapshot")->required();
  verb->add_flag("--json", options->json, "As JSON");
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      ASSIGN_OR_RETURN(const std::string result, context.ask(control::InfoRequest{options->name}));
      if (options->json) return print(result + "\n"), Result<void>();
      ASSIGN_OR_RETURN(const volume::VolumeInfo volume, control::read_volume(result));
      std::string snapshots;
      for (const auto& snapshot : volume.snapshots)
        snapshots += (snapshots.empty() ? "" : ", ") + snapshot.name;
      std::string labels;
      for (const auto& [key, value] : volume.labels)
        labels += fmt::format("{}{}={}", labels.empty() ? "" : ", ", key, value);
      print(format_fields(
          {{"Name", volume.name},
           {"Size", format_size_exactly(volume.size_bytes)},
           {"Used", format_size_exactly(volume.used_bytes)},
           {"Block size", format_size(volume.block_bytes)},
           {"Compression", std::string(volume::compression_name(volume.compression))},
           {"Created", control::format_time(volume.created)},
           {"Quota", volume.quota_bytes == 0 ? "none" : format_size_exactly(volume.quota_bytes)},
           {"Labels", labels.empty() ? "none" : labels},
           {"Read-only", volume.read_only ? "yes" : "no"},
           {"Sessions", sessions_text(volume.sessions_count)},
           {"Snapshots", snapshots.empty() ? "none" : snapshots}}));
      return {};
    };
  });
}

void add_resize(CLI::App& app, Context& context) {
  struct Options {
    std::string name;
    std::string size;
    bool allow_shrink = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("resize", "Grow or shrink a volume, also while it is in use");
  verb->add_option("VOL", options->name, "The volume")->required();
  verb->add_option("SIZE", options->size, "Its new size, as 20G: a multiple of 512 bytes")->required();
  verb->add_flag("--allow-shrink", options->allow_shrink, "Give up what lies behind a smaller size");
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      ASSIGN_OR_RETURN(const uint64_t size_bytes, parse_size(options->size));
      RETURN_IF_ERROR(context.ask(control::ResizeRequest{
          .name = options->name, .size_bytes = size_bytes, .allow_shrink = options->allow_shrink}));
      return {};
    };
  });
}

void add_remove(CLI::App& app, Context& context) {
  struct Options {
    std::string name;
    bool with_snapshots = false;
    bool now = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb =
      app.add_subcommand("rm",
                         "Remove a volume and its data, or a snapshot. Volumes go to the trash for a day, "
                         "where trash restore brings them back from, and take their space until then")
          ->alias("remove")
          ->alias("delete");
  verb->add_option("VOL[@SNAP]", options->name, "The volume or snapshot")->required();
  verb->add_flag(
      "--snapshots", options->with_snapshots,
      "With all its snapshots; without this a volume that has any is kept. Clones stay as they are");
  verb->add_flag("--now", options->now, "Not by way of the trash: the space comes back at once");
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      ASSIGN_OR_RETURN(
          const std::string result,
          context.ask(control::RemoveRequest{
              .name = options->name, .with_snapshots = options->with_snapshots, .now = options->now}));
      ASSIGN_OR_RETURN(const auto trashed, control::read_removed(result));
      if (trashed) {
        print(fmt::format("volume {} is in the trash until {}; to get it back: fdb-nbd trash restore {}\n",
                          trashed->name, control::format_time(trashed->expires), trashed->id));
      }
      return {};
    };
  });
}

void add_rename(CLI::App& app, Context& context) {
  struct Options {
    std::string name;
    std::string new_name;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("mv", "Rename a volume, also while it is in use")->alias("rename");
  verb->add_option("VOL", options->name, "The volume")->required();
  verb->add_option("NEW", options->new_name, "Its new name")->required();
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      RETURN_IF_ERROR(
          context.ask(control::RenameRequest{.name = options->name, .new_name = options->new_name}));
      return {};
    };
  });
}

}  // namespace

void add_volume_commands(CLI::App& app, Context& context) {
  add_create(app, context);
  add_list(app, context);
  add_info(app, context);
  add_resize(app, context);
  add_remove(app, context);
  add_rename(app, context);
}

}  // namespace fdbnbd::cli
